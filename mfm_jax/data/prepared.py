"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow.

Only the reading half of the package is used: records by index, their images left encoded, to be
decoded here with Pillow. Preparing is the user's step (imagenet2012 needs TensorFlow for it), which
must write a format with random access, such as array_record.
"""

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from PIL import Image

from mfm_jax import checks
from mfm_jax.data.idx import fit_images
from mfm_jax.data.sources import ArraySource, Source, checked_labels, scale_pixels

_NUM_CLASSES = {"mnist": 10, "cifar10": 10, "imagenet2012": 1000}
_MODE = {"mnist": "L", "cifar10": "RGB"}  # of Pillow: grey, colour
_CHUNK = 1024


def centre_crop(image: Image.Image, size: int) -> np.ndarray:
  """The centre (size, size, 3) of an image in bytes, scaled so that its short side is `size`.

  Halved by a box filter while the short side is at least twice `size`, then resampled bicubically:
  the crop of ADM (Dhariwal and Nichol, Diffusion models beat GANs on image synthesis, 2021), which
  the reference statistics of ImageNet are computed with.
  """
  image = image.convert("RGB")
  while min(image.size) >= 2 * size:
    image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
  scale = size / min(image.size)
  image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
  left, top = ((n - size) // 2 for n in image.size)
  return np.asarray(image)[top : top + size, left : left + size]


class Records(Protocol):
  """{"image": encoded bytes, "label": int, ...} by index."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> dict[str, Any]: ...


class BatchedRecords(Records, Protocol):
  """Records of which several are read at once."""

  def __getitems__(self, indices: Sequence[int], /) -> Sequence[dict[str, Any]]: ...


R = TypeVar("R", bound=Records)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EncodedSource(Generic[R]):
  """Images decoded when taken, for data sets that do not fit into memory.

  Attributes:
    records: sequence of {"image": encoded bytes, "label": int} and optionally "file", by which an error names
      it; `__getitems__` is used if present.
    decode: an opened image -> uint8 array of `shape`.
    shape: (H, W, C) after decoding.
    num_classes: labels are 0 .. num_classes - 1; 0 leaves them out.
    damaged: records that may be unreadable; each is named once, and the next readable one stands for it.
  """

  records: R
  decode: Callable[[Image.Image], np.ndarray]
  shape: tuple[int, ...]
  num_classes: int
  damaged: int = 0
  _found: dict[int, str] = dataclasses.field(default_factory=dict, init=False)  # index -> what is wrong

  def __len__(self) -> int:
    return len(self.records)

  def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Decodes `indices`.

    Raises:
      ValueError: more than `damaged` records that cannot be read, images that Pillow cannot read, or of
        another shape; a label out of range.
    """
    indices = [int(i) for i in indices]
    pixels, label = np.empty((len(indices), *self.shape), np.uint8), np.zeros(len(indices), int)
    for row, (index, record) in enumerate(zip(indices, self._fetched(indices), strict=True)):
      pixels[row], label[row] = self._readable(index, record)
    label = checked_labels(label, self.num_classes) if self.num_classes else np.zeros(len(indices), np.int32)
    return {"x1": scale_pixels(pixels), "label": label}

  def _fetched(self, indices: list[int]) -> Sequence:
    """These records at once where that can be done; None for each where one of them cannot be read."""
    fetch = getattr(self.records, "__getitems__", None)
    try:
      return fetch(indices) if fetch else [None] * len(indices)
    except Exception:  # readers have errors of many kinds, and do not say which record has it
      return [None] * len(indices)

  def _readable(self, index: int, record) -> tuple[np.ndarray, int]:
    """Image and label of a record, or of the next one that can be read."""
    for after in range(len(self)):
      found = self._decoded((index + after) % len(self), None if after else record)
      if found is not None:
        return found
    raise ValueError(f"one record at least must be readable; got none of {len(self)}")

  def _decoded(self, index: int, record) -> tuple[np.ndarray, int] | None:
    """Image and label of a record; None for one that is damaged, while there are not too many."""
    try:
      record = _read(self.records, index) if record is None else record
      name = record.get("file", f"record {index}")
      decoded = decode_record(name, record["image"], self.decode)
      if decoded.shape != self.shape:
        raise ValueError(f"{name} must decode to {self.shape}; got {decoded.shape}")
      return decoded, int(record["label"]) if self.num_classes else 0
    except ValueError as error:
      if index not in self._found:
        self._found[index] = str(error)
        if len(self._found) > self.damaged:
          raise ValueError(
            f"at most data.damaged={self.damaged} records may be unreadable; got {len(self._found)}: {error}"
          ) from error
        print(f"skipped, {len(self._found)} of at most {self.damaged}: {error}", flush=True)
      elif len(self._found) > self.damaged:
        raise
      return None


def _read(records: Records, index: int) -> dict[str, Any]:
  try:
    return records[index]
  except Exception as error:  # of many kinds: a checksum that does not fit is a RuntimeError
    raise ValueError(f"record {index} must be readable; got {' '.join(str(error).split())}") from error


def decode_record(name: str, encoded: bytes, decode: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
  """`decode` of the encoded image; `name` is for the error.

  Raises:
    ValueError: bytes that Pillow cannot read.
  """
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      return decode(image)
  except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # all of which Pillow raises
    raise ValueError(f"{name} must be a readable image; got {error}") from error


@dataclasses.dataclass(frozen=True)
class Crop:
  """`centre_crop` at a size; a class, so that a source can be pickled for a worker process."""

  size: int

  def __call__(self, image: Image.Image) -> np.ndarray:
    return centre_crop(image, self.size)


def tfds_source(
  name: str, split: str, data_dir: str = "", *, labelled: bool = True, size: int = 0, damaged: int = 0
) -> Source:
  """One split of a prepared data set.

  Args:
    name: "mnist", "cifar10" (both decoded once and kept in memory as bytes) or "imagenet2012"
      (decoded record by record).
    split: "train" or "test" (of imagenet2012: its validation split).
    data_dir: folder that holds `name`/<version>; "" is the default of TensorFlow Datasets
      ($TFDS_DATA_DIR, else ~/tensorflow_datasets).
    labelled: False leaves the labels out.
    size: imagenet2012: side of the centre crop, 0 for 256; mnist, cifar10: padded, or cut at the
      border, to this, 0 as stored.
    damaged: imagenet2012: see `EncodedSource`.

  Raises:
    ValueError: an unknown name or split, TensorFlow Datasets not installed, data that are not
      prepared there, or not in a format with random access.
  """
  checks.one_of("name", name, _NUM_CLASSES)
  checks.one_of("split", split, ("train", "test"))
  checks.at_least("size", size, 0)
  records = open_records(name, split, data_dir)
  num_classes = _NUM_CLASSES[name] if labelled else 0
  if name == "imagenet2012":
    size = size or 256
    return EncodedSource(
      records=records,
      decode=Crop(size),
      shape=(size, size, 3),
      num_classes=num_classes,
      damaged=damaged,
    )
  return _in_memory(records, _MODE[name], num_classes, size)


def open_records(name: str, split: str, data_dir: str) -> BatchedRecords:
  """Records {"image": encoded bytes, "label": int, ...} by index; see `tfds_source`."""
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ValueError(
      f"tfds/{name} must have the package tensorflow-datasets installed; got {error}"
    ) from error
  split = "validation" if (name, split) == ("imagenet2012", "test") else split
  try:
    # Read from the files alone: tfds.data_source(name) would first build a data set by the code of
    # the installed version, and then misses another version that is prepared on the disk.
    builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir or None)
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
  except (tfds.core.registered.DatasetNotFoundError, NotImplementedError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise ValueError(
      f"the {split} split of {name} must be prepared in data_dir with file_format=array_record; "
      f"got data_dir={data_dir or 'the default'}: {reason}"
    ) from error


def _in_memory(records: BatchedRecords, mode: str, num_classes: int, size: int) -> ArraySource:
  """All records as bytes; read in chunks, so that the encoded ones are never all held at once."""

  def decode(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert(mode))

  pixels, labels = [], []
  for start in range(0, len(records), _CHUNK):
    indices = range(start, min(start + _CHUNK, len(records)))
    for index, record in zip(indices, records.__getitems__(list(indices)), strict=True):
      pixels.append(decode_record(f"record {index}", record["image"], decode))
      labels.append(int(record["label"]))
  images = np.stack(pixels)
  images = images[..., None] if images.ndim == 3 else images
  return ArraySource(
    x1=fit_images(images, size) if size else images,
    label=np.array(labels) if num_classes else None,
    num_classes=num_classes,
  )
