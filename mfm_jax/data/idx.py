"""Folders of idx files, the format of MNIST and its successors, plain or gzip-compressed."""

import math
import pathlib
import zlib

import numpy as np

from mfm_jax import checks
from mfm_jax.data.sources import ArraySource

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PREFIX = {"train": "train", "test": "t10k"}


def read_idx(file: str | pathlib.Path) -> np.ndarray:
  """The array of an idx file in the machine's byte order.

  Layout: bytes 0, 0, element type, rank; one uint32 a dimension; the elements; all big endian.
  gzip is recognised by its first bytes, whatever the file is called.

  Raises:
    ValueError: a missing or unreadable file, a wrong magic number, a file cut short or too long.
  """
  file = pathlib.Path(file)
  content, whole = _read_bytes(file)
  magic = content[:4]
  if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or magic[3] == 0:
    raise ValueError(
      "an idx file must begin with 00 00, an element type of 08, 09, 0b, 0c, 0d, 0e and a rank of "
      f"at least 1; got {magic.hex(' ') or 'no bytes'} in {file}"
    )
  dtype, start = np.dtype(_DTYPES[magic[2]]), 4 + 4 * magic[3]
  if len(content) < start:
    raise ValueError(f"{file} is cut short: its header must have {start} bytes; got {len(content)}")
  shape = tuple(int(n) for n in np.frombuffer(content, ">u4", magic[3], offset=4))
  expected = start + math.prod(shape) * dtype.itemsize  # Python integers: a bad header cannot wrap
  if len(content) != expected:
    fault = "cut short" if len(content) < expected else "too long"
    raise ValueError(
      f"{file} is {fault}: its header announces {expected} bytes for shape {shape}; got {len(content)}"
    )
  if not whole:
    raise ValueError(f"{file} is cut short: its gzip stream must end with a checksum; got no end")
  array = np.frombuffer(content, dtype, offset=start).reshape(shape)
  return array.astype(dtype.newbyteorder("="))


def _read_bytes(file: pathlib.Path) -> tuple[bytes, bool]:
  """Decompressed content, and whether its gzip stream was complete (always for a plain file)."""
  try:
    content = file.read_bytes()
    return _gunzip(content) if content[:2] == b"\x1f\x8b" else (content, True)
  except (OSError, zlib.error) as error:
    raise ValueError(f"{file} must be a readable plain or gzip file; got {error}") from error


def _gunzip(compressed: bytes) -> tuple[bytes, bool]:
  """Like gzip.decompress, but gives what there is of a stream cut short, and False."""
  content = bytearray()
  while compressed:  # a gzip file may hold several members and end in zeros
    member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    content += member.decompress(compressed)
    if not member.eof:
      return bytes(content), False
    compressed = member.unused_data.lstrip(b"\0")
  return bytes(content), True


def find_idx(path: pathlib.Path, stem: str, kind: str) -> pathlib.Path:
  """The idx file `stem`-`kind`-ubyte of a folder: with a dash or a dot, plain or .gz.

  Raises:
    ValueError: none of the four names exists.
  """
  names = [f"{stem}{mark}{kind}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
  for name in names:
    if (path / name).is_file():
      return path / name
  raise ValueError(f"the folder {path} must hold one of {', '.join(names)}; got none")


def idx_folder(
  path: str | pathlib.Path,
  split: str,
  *,
  labelled: bool = True,
  num_classes: int = 10,
  size: int = 0,
  pool: int = 1,
) -> ArraySource:
  """One split ("train" or "test") of a folder in the layout of MNIST, kept as bytes.

  Args:
    path: folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and the same with t10k
      (the test split), each plain or .gz, or with a dot before idx.
    split: "train" or "test".
    labelled: False leaves the labels file unread.
    num_classes: labels must lie in 0 .. num_classes - 1.
    size: side that images are brought to: smaller ones get zeros, the background, evenly around them
      (28 -> 32), larger ones lose their border (28 -> 24 keeps nearly all ink of MNIST); 0 keeps H and W.
    pool: side of the squares of pixels that are averaged after that (32 -> 16 for 2); 1 keeps them.

  Returns:
    Images (N, H, W) become examples of shape (H, W, 1), scaled to [-1, 1] when taken.

  Raises:
    ValueError: a missing folder or file, a damaged file, images that are not (N, H, W) bytes,
      counts of images and labels that differ, a label out of range, pool that does not
      divide the image size.
  """
  checks.one_of("split", split, _PREFIX)
  path = pathlib.Path(path)
  if not path.is_dir():
    raise ValueError(f"path must be an existing folder of idx files; got {path}")
  image_file = find_idx(path, f"{_PREFIX[split]}-images", "idx3")
  images = read_idx(image_file)
  if images.ndim != 3 or images.dtype != np.uint8:
    raise ValueError(
      f"images must be bytes of shape (N, H, W); got {images.dtype} {images.shape} in {image_file}"
    )
  label = None
  if labelled:
    label_file = find_idx(path, f"{_PREFIX[split]}-labels", "idx1")
    label = read_idx(label_file)
    if label.ndim != 1 or len(label) != len(images):
      raise ValueError(f"labels must match the images, ({len(images)},); got {label.shape} in {label_file}")
  images = fit_images(images[..., None], size) if size else images[..., None]
  images = pool_images(images, pool)
  try:
    return ArraySource(x1=images, label=label, num_classes=num_classes if labelled else 0)
  except ValueError as error:
    raise ValueError(f"{error} in the {split} split of {path}") from error


def fit_images(images: np.ndarray, size: int) -> np.ndarray:
  """Images (N, H, W, C) as (N, size, size, C): a side gets zeros around it, or loses its border.

  Where the difference is odd, the odd row goes to, or is taken from, below and right.
  """
  for axis in (1, 2):
    missing = size - images.shape[axis]
    if missing >= 0:
      margins = [(0, 0)] * 4
      margins[axis] = (missing // 2, missing - missing // 2)
      images = np.pad(images, margins)
    else:
      images = images.take(range(-missing // 2, -missing // 2 + size), axis)
  return images


def pool_images(images: np.ndarray, size: int) -> np.ndarray:
  """Means over squares of `size` x `size` pixels, rounded: bytes (N, H, W, C) -> (N, H / size, W / size, C).

  Raises:
    ValueError: `size` < 1, or one that does not divide H and W.
  """
  checks.at_least("pool", size, 1)
  count, height, width, channels = images.shape
  if height % size or width % size:
    raise ValueError(f"pool must divide the image size {height}x{width}; got {size}")
  if size == 1:
    return images
  squares = images.reshape(count, height // size, size, width // size, size, channels)
  return np.rint(squares.mean((2, 4), dtype=np.float32)).astype(np.uint8)
