"""Generated pictures on their way to a metric: balanced labels, bytes, and the sample batches of ADM."""

import contextlib
import dataclasses
import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from mfm_jax import checks
from mfm_jax.types import Array

ROUNDINGS = ("nearest", "truncate")
_SLACK = 1e-3  # of a level: a byte that became a float and is truncated must not become the byte below
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError)


def balanced_labels(num: int, classes: int, *, seed: int = 0) -> np.ndarray:
  """int32 (num,), every class equally often, in random order.

  Where `classes` does not divide `num`, which classes come once more is random.

  Raises:
    ValueError: num or classes below 1.
  """
  checks.at_least("num", num, 1)
  checks.at_least("classes", classes, 1)
  rng = np.random.Generator(np.random.Philox(seed))
  whole = np.repeat(np.arange(classes), num // classes)
  rest = rng.choice(classes, num % classes, replace=False)
  return rng.permutation(np.concatenate([whole, rest])).astype(np.int32)


def to_bytes(x: Array, rounding: str = "nearest"):
  """Pictures in [0, 1] as uint8, clipped; of NumPy or JAX arrays.

  Args:
    x: floats.
    rounding: "nearest", of a tie the even one; "truncate", as the samplers of ADM, SiT and DiT write theirs.

  Raises:
    ValueError: an unknown rounding.
  """
  checks.one_of("rounding", rounding, ROUNDINGS)
  levels = 255.0 * x
  levels = levels.round() if rounding == "nearest" else levels + _SLACK
  return levels.clip(0, 255).astype(np.uint8)


def write_samples(
  path: str | pathlib.Path, batches: Iterable[np.ndarray], num: int, labels: np.ndarray | None = None
) -> None:
  """Writes a sample batch as ADM's evaluator reads it: arr_0, uint8 (num, H, W, 3), and arr_1, labels.

  One batch at a time is in memory.

  Args:
    path: .npz.
    batches: uint8 (n, H, W, 3) each.
    num: pictures in all.
    labels: integers (num,).

  Raises:
    ValueError: another ending; pictures of other shapes, types or number.
  """
  path = pathlib.Path(path)
  if path.suffix != ".npz":
    raise ValueError(f"a sample batch must end in .npz; got {path}")
  if labels is not None:
    checks.shape("labels", labels, (num,))
  written, shape = 0, None
  with replacing(path) as unfinished, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as file:
    with file.open("arr_0.npy", "w", force_zip64=True) as array:
      for batch in batches:
        _check_pixels("a sample batch", batch.shape, batch.dtype)
        if shape is None:
          shape = (num, *batch.shape[1:])
          header = {"descr": "|u1", "fortran_order": False, "shape": shape}
          np.lib.format.write_array_header_1_0(array, header)
        checks.shape("pictures of a sample batch", batch, (None, *shape[1:]))
        array.write(np.ascontiguousarray(batch).tobytes())
        written += len(batch)
    if written != num:
      raise ValueError(f"a sample batch must hold as many pictures as it says ({num}); got {written}")
    if labels is not None:
      with file.open("arr_1.npy", "w") as array:
        np.lib.format.write_array(array, np.asarray(labels))


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path to write to, which becomes `path` when all went well and is removed otherwise."""
  path.parent.mkdir(parents=True, exist_ok=True)
  unfinished = path.with_name(f".unfinished.{path.name}")  # ends as it does, which NumPy goes by
  try:
    yield unfinished
    unfinished.replace(path)
  finally:
    unfinished.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SampleFile:
  """A sample batch of ADM's format, read a few pictures at a time; `open_samples` makes it.

  Attributes:
    path: the .npz.
    shape: of arr_0, (n, H, W, 3).
    labels: arr_1, int (n,), or None.
  """

  path: pathlib.Path
  shape: tuple[int, ...]
  labels: np.ndarray | None

  def __len__(self) -> int:
    return self.shape[0]

  def batches(self, size: int, *, num: int = 0) -> Iterator[np.ndarray]:
    """uint8 (<= size, H, W, 3), of the first `num` pictures, 0 for all.

    Raises:
      ValueError: a file that ends too early.
    """
    checks.at_least("size", size, 1)
    left, each = min(num or len(self), len(self)), int(np.prod(self.shape[1:]))
    with _array(self.path, "arr_0") as (array, _, _):
      while left:
        n = min(size, left)
        data = array.read(n * each)
        if len(data) < n * each:
          raise ValueError(f"{self.path} must hold {len(self)} pictures; it ends early")
        yield np.frombuffer(data, np.uint8).reshape(n, *self.shape[1:])
        left -= n


def open_samples(path: str | pathlib.Path) -> SampleFile:
  """A sample batch: .npz with arr_0, uint8 (n, H, W, 3), and perhaps arr_1, labels (n,).

  Raises:
    ValueError: no such file, one that cannot be read, arrays of another kind.
  """
  path = pathlib.Path(path)
  with _array(path, "arr_0") as (_, shape, dtype):
    _check_pixels(f"arr_0 of {path}", shape, dtype)
  labels = None
  with zipfile.ZipFile(path) as file:
    labelled = "arr_1.npy" in file.namelist()
  if labelled:
    with np.load(path, allow_pickle=False) as arrays:
      labels = arrays["arr_1"]
    checks.shape(f"arr_1 of {path}", labels, shape[:1])
    if labels.dtype.kind not in "iu":
      raise ValueError(f"arr_1 of {path} must be integers; got {labels.dtype}")
  return SampleFile(path=path, shape=shape, labels=labels)


@contextlib.contextmanager
def _array(path: pathlib.Path, name: str):
  """An open array of an .npz behind its header, its shape and type."""
  if not path.is_file():
    raise ValueError(f"samples must be an .npz file with {name}; got no file {path}")
  with contextlib.ExitStack() as stack:
    try:
      file = stack.enter_context(zipfile.ZipFile(path))
      if f"{name}.npy" not in file.namelist():
        raise ValueError(f"it holds {', '.join(file.namelist()) or 'nothing'}")
      array = stack.enter_context(file.open(f"{name}.npy"))
      read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
      shape, fortran, dtype = read[np.lib.format.read_magic(array)](array)
      if fortran:
        raise ValueError("it is stored by columns")
    except (*_DAMAGED, KeyError) as error:
      raise ValueError(f"{path} must be a readable .npz file with {name}; got {error}") from None
    yield array, shape, dtype


def _check_pixels(name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
  if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
    raise ValueError(f"{name} must be uint8 (n, H, W, 3), not empty; got {dtype} {shape}")
