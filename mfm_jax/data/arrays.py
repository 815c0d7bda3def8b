"""A user's own examples: .npz files of arrays, such as latents, or pictures stacked in strips."""

import pathlib
import zipfile
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from mfm_jax import checks
from mfm_jax.data.sources import ArraySource

# What NumPy raises for empty, cut, renamed and garbled files.
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, TypeError)


def array_folder(
  path: str | pathlib.Path, split: str, *, labelled: bool = True, num_classes: int = 10
) -> ArraySource:
  """One split, "train" or "test", of a folder of <split>.npz files with x1 (n, ...) and label (n,).

  Args:
    path: the folder.
    split: "train" or "test".
    labelled: False leaves the labels unread.
    num_classes: labels must lie in 0 .. num_classes - 1.

  Returns:
    x1 as it is in model space: floats, or bytes that are scaled to [-1, 1] when taken.

  Raises:
    ValueError: no such folder or file, a file that is not .npz or without x1 or label, arrays that
      `ArraySource` refuses.
  """
  checks.one_of("split", split, ("train", "test"))
  if not str(path):
    raise ValueError("data.path must name a folder with train.npz and test.npz for data.name=arrays; got ''")
  file = pathlib.Path(path) / f"{split}.npz"
  if not file.is_file():
    raise ValueError(f"data.path must be a folder with train.npz and test.npz; got no {file}")
  names = ("x1", "label") if labelled else ("x1",)
  try:
    with np.load(file, allow_pickle=False) as arrays:
      missing = [name for name in names if name not in arrays]
      if missing:
        raise ValueError(f"{file} must hold the arrays {', '.join(names)}; got {', '.join(arrays) or 'none'}")
      found = {name: arrays[name] for name in names}
  except _DAMAGED as error:
    raise ValueError(f"{file} must be a readable .npz file; got {error!r}") from None
  try:
    return ArraySource(**found, num_classes=num_classes if labelled else 0)
  except ValueError as error:
    raise ValueError(f"{error} in {file}") from error


def strip_folder(
  path: str | pathlib.Path, split: str, *, labelled: bool = True, num_classes: int = 10
) -> ArraySource:
  """One split of a folder of strips: <split>-00.png, ... of square pictures, and <split>-labels.npy.

  Args:
    path: the folder. A strip is a PNG, RGB, of pictures as high as it is wide, one above the other; the
      labels are integers (n,) in the order of the strips' names.
    split: "train" or "test".
    labelled: False leaves the labels unread.
    num_classes: labels must lie in 0 .. num_classes - 1.

  Returns:
    Examples (width, width, 3), kept as bytes, scaled to [-1, 1] when taken.

  Raises:
    ValueError: no such folder, strip or labels, a file that cannot be read, strips whose height is not a
      multiple of their width or whose widths differ, labels of another number.
  """
  checks.one_of("split", split, ("train", "test"))
  path = pathlib.Path(path)
  files = sorted(path.glob(f"{split}-*.png"))
  if not files:
    raise ValueError(f"data.path must be a folder with {split}-00.png, ...; got none in {path}")
  pictures = [_strip(file) for file in files]
  if len({picture.shape[1:] for picture in pictures}) > 1:
    widths = sorted({picture.shape[1] for picture in pictures})
    raise ValueError(f"all strips in {path} must be of one width; got {widths}")
  label, labels = None, path / f"{split}-labels.npy"
  if labelled:
    try:
      label = np.load(labels, allow_pickle=False)
    except (*_DAMAGED, ValueError) as error:
      raise ValueError(f"{labels} must be a readable .npy file; got {error}") from None
  try:
    classes = num_classes if labelled else 0
    return ArraySource(x1=np.concatenate(pictures), label=label, num_classes=classes)
  except ValueError as error:
    raise ValueError(f"{error} in the {split} split of {path}") from error


def _strip(file: pathlib.Path) -> np.ndarray:
  """Bytes (n, width, width, 3)."""
  try:
    with Image.open(file) as image:
      pixels = np.asarray(image.convert("RGB"))
  except (UnidentifiedImageError, OSError) as error:
    raise ValueError(f"{file} must be a readable picture; got {error}") from None
  height, width = pixels.shape[:2]
  if height % width:
    raise ValueError(f"the height of {file} must be a multiple of its width; got {height}x{width}")
  return pixels.reshape(-1, width, width, 3)
