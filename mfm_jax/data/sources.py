"""Sources of examples in model space: vectorised random access over arrays in memory.

A source answers `take(indices)` for many indices at once, because gathering 1024 vectors by one
NumPy call takes microseconds where 1024 Python calls take longer than a step of a small network.
"""

import dataclasses
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from mfm_jax import checks
from mfm_jax.types import Array

Numbers = TypeVar("Numbers", np.ndarray, Array)

PIXEL_SCALE = 127.5  # a byte p is p / 127.5 - 1 in model space: 0 -> -1, 255 -> 1
_PIECE = 64  # examples that are held as floats at once


class Source(Protocol):
  """Examples by index; everything in the pipeline speaks to this.

  Attributes:
    shape: shape of one example in model space; images (H, W, C).
    num_classes: labels are 0 .. num_classes - 1; 0 means unlabelled.
  """

  @property
  def shape(self) -> tuple[int, ...]: ...

  @property
  def num_classes(self) -> int: ...

  def __len__(self) -> int: ...

  def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """{"x1": float32 (n, *shape), "label": int32 (n,)}; the label is 0 when unlabelled."""
    ...


@runtime_checkable
class RandomSource(Source, Protocol):
  """A source whose examples are random: `take` gives one fixed draw of each, and training fresh ones."""

  def draw(self, indices: np.ndarray, positions: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """As `take`, a function of index, position in the list of all epochs, and seed alone."""
    ...


def scale_pixels(pixels: np.ndarray) -> np.ndarray:
  """Bytes 0..255 to float32 in [-1, 1]."""
  scaled = pixels.astype(np.float32)
  scaled /= PIXEL_SCALE
  scaled -= 1.0
  return scaled


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource:
  """Examples held in memory.

  Attributes:
    x1: (n, *shape), floats (kept as float32) or uint8 (kept as bytes, a quarter of the memory, and
      scaled to [-1, 1] when taken).
    label: integers (n,), kept as int32; None where num_classes is 0.
    num_classes: number of classes, 0 for unlabelled data.

  Raises:
    ValueError: other element types, lengths that differ, a label out of range, labels without
      classes or classes without labels, a value that is not finite.
  """

  x1: np.ndarray
  label: np.ndarray | None = None
  num_classes: int = 0

  def __post_init__(self):
    x1 = np.asarray(self.x1)
    if x1.ndim < 1 or not (x1.dtype == np.uint8 or np.issubdtype(x1.dtype, np.floating)):
      raise ValueError(f"x1 must be an array (n, ...) of floats or uint8; got {x1.dtype} of shape {x1.shape}")
    if x1.dtype != np.uint8:
      x1 = x1.astype(np.float32, copy=False)
      finite = np.isfinite(x1)
      if not finite.all():
        raise ValueError(f"x1 must be finite in float32; got {x1[~finite][0]}")
    object.__setattr__(self, "x1", x1)
    checks.at_least("num_classes", self.num_classes, 0)
    if (self.label is None) != (self.num_classes == 0):
      given = "no labels" if self.label is None else "labels"
      raise ValueError(f"labels go with num_classes >= 1; got {given} and num_classes={self.num_classes}")
    if self.label is not None:
      label = np.asarray(self.label)
      if label.shape != x1.shape[:1]:
        raise ValueError(f"x1 and label must have one length; got {x1.shape} and {label.shape}")
      object.__setattr__(self, "label", checked_labels(label, self.num_classes))

  @property
  def shape(self) -> tuple[int, ...]:
    return self.x1.shape[1:]

  def __len__(self) -> int:
    return len(self.x1)

  def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    x1 = self.x1[indices]
    if x1.dtype == np.uint8:
      x1 = scale_pixels(x1)
    label = np.zeros(len(x1), np.int32) if self.label is None else self.label[indices]
    return {"x1": x1, "label": label}


def checked_labels(label: np.ndarray, num_classes: int) -> np.ndarray:
  """`label` (n,) as int32.

  Raises:
    ValueError: labels that are not integers, or one outside 0 .. num_classes - 1.
  """
  if not np.issubdtype(label.dtype, np.integer):
    raise ValueError(f"label must be integers; got {label.dtype}")
  bad = np.flatnonzero((label < 0) | (label >= num_classes))
  if bad.size:
    raise ValueError(f"label must lie in 0..{num_classes - 1}; got {label[bad[0]]} at index {bad[0]}")
  return label.astype(np.int32)


def digits(split: str, *, labelled: bool = True) -> ArraySource:
  """The 1,797 scanned 8x8 digits that ship with scikit-learn, x / 8 - 1, shape (8, 8, 1).

  The split is a rule and no random draw, so it is the same everywhere: order the examples by class
  (within a class as in the file); every fifth, from the first on, is a test example. That gives
  1,437 training and 360 test digits, the classes of both in proportion to within one example.
  """
  checks.one_of("split", split, ("train", "test"))
  from sklearn.datasets import load_digits  # here, because importing it takes a second

  data = load_digits()
  rank = np.empty(len(data.target), np.int64)
  rank[np.argsort(data.target, kind="stable")] = np.arange(len(data.target))
  chosen = (rank % 5 == 0) == (split == "test")
  return ArraySource(
    x1=(data.images[chosen, :, :, None] / 8.0 - 1.0).astype(np.float32),
    label=data.target[chosen] if labelled else None,
    num_classes=10 if labelled else 0,
  )


def mixture(mixture, size: int, seed: int, *, stream: int = 0, labelled: bool = True) -> ArraySource:
  """`size` draws of a Gaussian mixture; the label is the component.

  Args:
    mixture: anything with weights (K,), means (K, D) and covs (K, D, D), such as
      `mfm_jax.oracles.GaussianMixture`.
    size: number of draws.
    seed: >= 0.
    stream: >= 0; streams of one seed are independent (0 for training, 1 for testing), which seed
      and seed + 1 would not be across runs.
    labelled: False gives a source without classes.
  """
  checks.at_least("size", size, 1)
  checks.at_least("seed", seed, 0)
  checks.at_least("stream", stream, 0)
  weights, means, covs = (np.asarray(a, np.float64) for a in (mixture.weights, mixture.means, mixture.covs))
  rng = np.random.Generator(np.random.Philox([seed, stream]))
  bounds = np.cumsum(weights)[:-1] / weights.sum()
  label = np.searchsorted(bounds, rng.random(size), side="right")
  noise = rng.standard_normal((size, means.shape[1]))
  x1 = np.empty(noise.shape, np.float32)
  for k, (mean, cov) in enumerate(zip(means, covs, strict=True)):
    x1[label == k] = mean + noise[label == k] @ _symmetric_root(cov)
  return ArraySource(x1=x1, label=label if labelled else None, num_classes=len(weights) if labelled else 0)


def noise(
  shape: tuple[int, ...], size: int, seed: int, *, stream: int = 0, num_classes: int = 0
) -> ArraySource:
  """`size` examples of standard normal noise of `shape`, labels uniform: data where only speed counts.

  Raises:
    ValueError: an empty shape; size < 1; seed, stream or num_classes < 0.
  """
  checks.at_least("number of axes of data.shape", len(shape), 1)
  checks.at_least("size", size, 1)
  checks.at_least("seed", seed, 0)
  rng = np.random.Generator(np.random.Philox([seed, stream]))
  x1 = rng.standard_normal((size, *shape), np.float32)
  label = rng.integers(num_classes, size=size) if num_classes else None
  return ArraySource(x1=x1, label=label, num_classes=num_classes)


def _symmetric_root(cov: np.ndarray) -> np.ndarray:
  """R = R^T with R R = cov; unlike Cholesky's factor it exists for singular covariances too."""
  variances, axes = np.linalg.eigh(cov)
  return (axes * np.sqrt(np.maximum(variances, 0.0))) @ axes.T


def root_mean_square(source: Source, limit: int = 1 << 14) -> float:
  """sqrt(mean x^2) over the coordinates of at most `limit` examples, evenly spaced in the source.

  It is taken about zero and not about the mean, because the skip of MATH 9 stands for data
  N(0, c^2 I): c^2 is the second moment.
  """
  indices = np.arange(0, len(source), -(-len(source) // limit))
  sums = [  # in pieces: 512 images of 256x256 in float64 would take 800 MB
    np.mean(np.square(source.take(piece)["x1"], dtype=np.float64)) * len(piece)
    for piece in np.split(indices, range(_PIECE, len(indices), _PIECE))
  ]
  return float(np.sqrt(np.sum(sums) / len(indices)))


def to_pixels(x: Numbers) -> Numbers:
  """Model space [-1, 1] to data space [0, 1], for images; not clipped. Works on JAX arrays too."""
  return 0.5 * (x + 1.0)
