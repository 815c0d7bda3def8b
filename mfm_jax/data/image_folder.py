"""Folders of pictures laid out as ImageNet's: <split>/<class>/<picture>."""

import dataclasses
import hashlib
import pathlib

from PIL import Image

from mfm_jax import checks
from mfm_jax.data.prepared import Crop, EncodedSource

SPLITS = {"train": "train", "test": "val"}  # ours -> the folder's name
SIZE = 256  # side of the centre crop where none is given


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
  """Records for `EncodedSource`, read when taken.

  Attributes:
    folder: of the split.
    files: paths in it, sorted.
    label: of each.
    classes: names of the class folders, sorted; a label is a place in them.
  """

  folder: pathlib.Path
  files: tuple[str, ...]
  label: tuple[int, ...]
  classes: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> dict:
    file = self.folder / self.files[index]
    return {"image": file.read_bytes(), "label": self.label[index], "file": str(file)}

  @property
  def sha256(self) -> str:
    """Identity of the list of files, by names and order."""
    return hashlib.sha256("\n".join(self.files).encode()).hexdigest()


def pictures(path: str | pathlib.Path, split: str) -> Pictures:
  """The pictures of one split, "train" or "test" (in the folder val), of the class folders of both.

  Other files (by their endings) and names that begin with a dot are passed over.

  Raises:
    ValueError: no such folder, no class folder in it, or no picture.
  """
  checks.one_of("split", split, SPLITS)
  root = pathlib.Path(path)
  if not str(path) or not root.is_dir():
    raise ValueError(f"a folder of pictures must hold train/<class>/ and val/<class>/; got {str(path)!r}")
  folder = root / SPLITS[split]
  if not folder.is_dir():
    raise ValueError(f"the {split} split of a folder of pictures must be in {folder}; got no such folder")
  # Of both splits: a class that one of them lacks must not move the labels of those after it.
  splits = [root / name for name in SPLITS.values()]
  classes = sorted(
    {entry.name for each in splits if each.is_dir() for entry in each.iterdir() if _shown(entry)}
  )
  kinds = Image.registered_extensions()
  files, label = [], []
  for number, name in enumerate(classes):
    inside = (folder / name).iterdir() if (folder / name).is_dir() else ()
    found = sorted(file.name for file in inside if file.suffix.lower() in kinds and file.name[0] != ".")
    files += [f"{name}/{file}" for file in found]
    label += [number] * len(found)
  if not files:
    raise ValueError(f"{folder} must hold pictures in class folders; got none in {len(classes)} of them")
  return Pictures(folder=folder, files=tuple(files), label=tuple(label), classes=tuple(classes))


def image_source(
  path: str | pathlib.Path, split: str, *, size: int = 0, labelled: bool = True, damaged: int = 0
) -> EncodedSource[Pictures]:
  """One split of a folder of pictures, decoded when taken.

  Args:
    path, split: as `pictures`.
    size: side of the centre crop (`prepared.centre_crop`); 0 for 256.
    labelled: False leaves the labels out.
    damaged: see `EncodedSource`.

  Raises:
    ValueError: what `pictures` refuses, a size below 0.
  """
  checks.at_least("size", size, 0)
  found, size = pictures(path, split), size or SIZE
  return EncodedSource(
    records=found,
    decode=Crop(size),
    shape=(size, size, 3),
    num_classes=len(found.classes) if labelled else 0,
    damaged=damaged,
  )


def _shown(entry: pathlib.Path) -> bool:
  return entry.is_dir() and not entry.name.startswith(".")
