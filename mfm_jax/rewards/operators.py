"""Linear operators A of inverse problems y = A x + sigma noise, on images (B, H, W, C) of data space.

Each is a frozen function x (B, ...) -> A x (B, ...), float32 at least, that refuses an x it does not fit.
`output_shape` says from the shape of one example what comes out, or raises, before anything is computed.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.types import Array

Shape = tuple[int, ...]
HALVES = ("left", "right", "top", "bottom")
SIZED = ("box:SIDE", "scattered:SHARE", "pool:FACTOR", "blur:WIDTH", "matrix:FILE.npy")
NAMES = (*(f"half:{half}" for half in HALVES), *SIZED)


class Operator(Protocol):
  """A linear function of examples."""

  def output_shape(self, shape: Shape) -> Shape:
    """The shape of A x for one x of `shape`.

    Raises:
      ValueError: a shape that the operator does not fit.
    """
    ...

  def __call__(self, x: Array) -> Array: ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Inpaint:
  """The pixels that are seen, as a vector: A x = x[seen], (B, m), m the number of seen values.

  Attributes:
    seen: bool (H, W), the same for all channels, or (H, W, C). See `centre_box`, `half` and `scattered`.

  Raises:
    ValueError: another rank or type, no pixel seen.
  """

  seen: np.ndarray

  def __post_init__(self):
    seen = np.asarray(self.seen)
    object.__setattr__(self, "seen", seen)
    if seen.dtype != bool or seen.ndim not in (2, 3):
      raise ValueError(f"seen must be bool (H, W) or (H, W, C); got {seen.dtype} of shape {seen.shape}")
    if not seen.any():
      raise ValueError("seen must hold at least one pixel; got none")

  def output_shape(self, shape: Shape) -> Shape:
    return (int(self.mask(shape).sum()),)

  def mask(self, shape: Shape) -> np.ndarray:
    """`seen` for images of `shape` (H, W, C), bool of that shape."""
    _check_image(shape)
    mask = self.seen if self.seen.ndim == 3 else np.repeat(self.seen[..., None], shape[2], axis=2)
    if mask.shape != shape:
      raise ValueError(f"seen must fit the image {shape}; got {self.seen.shape}")
    return mask

  def __call__(self, x: Array) -> Array:
    x = _floats(x)
    return x.reshape(x.shape[0], -1)[:, np.flatnonzero(self.mask(x.shape[1:]))]

  def picture(self, y: np.ndarray, shape: Shape) -> np.ndarray:
    """Images (B, H, W, C) of observations y (B, m), NaN where nothing is seen."""
    checks.shape("y", y, (None, *self.output_shape(shape)))
    out = np.full((len(y), math.prod(shape)), np.nan, np.float32)
    out[:, np.flatnonzero(self.mask(shape))] = y
    return out.reshape(len(y), *shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AveragePool:
  """Low resolution: means of factor x factor pixels, (B, H, W, C) -> (B, H / factor, W / factor, C).

  Raises:
    ValueError: factor < 2; at a shape, sides that it does not divide.
  """

  factor: int

  def __post_init__(self):
    checks.at_least("factor", self.factor, 2)

  def output_shape(self, shape: Shape) -> Shape:
    height, width, channels = _check_image(shape)
    if height % self.factor or width % self.factor:
      raise ValueError(f"factor must divide the sides of the image; got factor={self.factor}, image {shape}")
    return height // self.factor, width // self.factor, channels

  def __call__(self, x: Array) -> Array:
    x = _floats(x)
    height, width, channels = self.output_shape(x.shape[1:])
    return x.reshape(-1, height, self.factor, width, self.factor, channels).mean((2, 4))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianBlur:
  """Each channel convolved with a normalised Gaussian, (B, H, W, C) -> the same shape.

  At the border the image is mirrored without its edge twice (c b | a b c), so a constant image is kept.

  Attributes:
    width: standard deviation in pixels, positive.
    radius: the kernel has 2 radius + 1 taps; 0 for the least that is at least 3 widths.

  Raises:
    ValueError: width or radius outside its range; at a shape, a kernel larger than the image.
  """

  width: float
  radius: int = 0

  def __post_init__(self):
    check_positive("width", self.width)
    checks.at_least("radius", self.radius, 0)

  @property
  def kernel(self) -> np.ndarray:
    """Taps of one axis, float64, sum 1."""
    radius = self.radius or math.ceil(3 * self.width)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / self.width) ** 2)
    return taps / taps.sum()

  def output_shape(self, shape: Shape) -> Shape:
    if len(self.kernel) > min(_check_image(shape)[:2]):
      raise ValueError(
        f"the kernel of 2 radius + 1 = {len(self.kernel)} taps must not be larger than the image; got {shape}"
      )
    return tuple(shape)

  def __call__(self, x: Array) -> Array:
    x = _floats(x)
    height, width, _ = self.output_shape(x.shape[1:])
    vertical, horizontal = (jnp.asarray(self._matrix(n), x.dtype) for n in (height, width))
    return jnp.einsum("ih,jw,bhwc->bijc", vertical, horizontal, x, precision="highest")

  def _matrix(self, n: int) -> np.ndarray:
    """The convolution of n pixels with their mirror images, (n, n)."""
    radius = len(self.kernel) // 2
    padded = np.pad(np.eye(n), ((radius, radius), (0, 0)), mode="reflect")
    return sum(tap * padded[i : i + n] for i, tap in enumerate(self.kernel))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
  """A given matrix A (m, d) on flattened examples: (B, ...) -> (B, m).

  Raises:
    ValueError: another rank, values that are not finite; at a shape, another number of coordinates than d.
  """

  matrix: np.ndarray

  def __post_init__(self):
    object.__setattr__(self, "matrix", np.asarray(self.matrix, np.float64))
    checks.shape("matrix", self.matrix, (None, None))
    if not np.isfinite(self.matrix).all():
      raise ValueError(f"matrix must be finite; got {self.matrix}")

  def output_shape(self, shape: Shape) -> Shape:
    rows, columns = self.matrix.shape
    if math.prod(shape) != columns:
      raise ValueError(f"matrix must have one column a coordinate; got {columns} for examples of {shape}")
    return (rows,)

  def __call__(self, x: Array) -> Array:
    x = _floats(x)
    self.output_shape(x.shape[1:])
    matrix = jnp.asarray(self.matrix.T, x.dtype)
    # Precision: an accelerator's default rounds the product's inputs to bfloat16.
    return jnp.matmul(x.reshape(x.shape[0], -1), matrix, precision="highest")


def parse(text: str, shape: Shape) -> Operator:
  """The operator of a configuration, for images of `shape` (H, W, C).

  Args:
    text: "half:right" (the half that is hidden), "box:4" (side of the hidden box in the middle),
      "scattered:0.3" (share of the pixels that is seen), "pool:2", "blur:1.0", "matrix:a.npy" (a NumPy file
      of A, (m, H W C)).
    shape: of one image.

  Raises:
    ValueError: another text, a value or a shape that the operator refuses, a file that cannot be read.
  """
  height, width, _ = _check_image(shape)
  name, _, value = text.partition(":")
  try:
    make: dict[str, Callable[[], Operator]] = {
      "half": lambda: Inpaint(seen=half(height, width, value)),
      "box": lambda: Inpaint(seen=centre_box(height, width, int(value))),
      "scattered": lambda: Inpaint(seen=scattered(height, width, float(value))),
      "pool": lambda: AveragePool(factor=int(value)),
      "blur": lambda: GaussianBlur(width=float(value)),
      "matrix": lambda: Matrix(matrix=np.load(value, allow_pickle=False)),
    }
    operator = make[name]()
  except (KeyError, ValueError, OSError) as error:
    why = "" if isinstance(error, KeyError) else f": {error}"
    raise ValueError(f"an operator must be one of {', '.join(NAMES)}; got {text!r}{why}") from None
  operator.output_shape(shape)
  return operator


def centre_box(height: int, width: int, side: int) -> np.ndarray:
  """Seen everywhere but in a box of side x side pixels in the middle (up and left of it where it is uneven).

  Raises:
    ValueError: side < 1, or a box that leaves nothing to be seen.
  """
  checks.at_least("side", side, 1)
  if side > min(height, width) or side == height == width:
    raise ValueError(f"side must leave pixels to be seen; got side={side}, image {(height, width)}")
  seen = np.ones((height, width), bool)
  top, left = (height - side) // 2, (width - side) // 2
  seen[top : top + side, left : left + side] = False
  return seen


def half(height: int, width: int, hidden: str) -> np.ndarray:
  """Half of the image hidden: "left", "right", "top" or "bottom"; an uneven middle line is seen.

  Raises:
    ValueError: another half, an image without two lines.
  """
  checks.one_of("hidden", hidden, HALVES)
  length = width if hidden in ("left", "right") else height
  checks.at_least("the number of lines to be halved", length, 2)
  seen = np.arange(length) >= length // 2
  if hidden in ("right", "bottom"):
    seen = seen[::-1]
  seen = seen[None] if hidden in ("left", "right") else seen[:, None]
  return np.broadcast_to(seen, (height, width)).copy()


def scattered(height: int, width: int, share: float, seed: int = 0) -> np.ndarray:
  """A share of the pixels is seen, at least one and rounded, drawn without replacement.

  Raises:
    ValueError: a share outside [0, 1], seed < 0.
  """
  checks.in_interval("share", share)
  checks.at_least("seed", seed, 0)
  order = np.random.Generator(np.random.Philox(seed)).permutation(height * width)
  return (order < max(round(share * height * width), 1)).reshape(height, width)


def _floats(x: Array) -> Array:
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check_image(shape: Shape) -> Shape:
  if len(shape) != 3:
    raise ValueError(f"the operator needs images (H, W, C); got examples of shape {tuple(shape)}")
  return tuple(shape)


def check_positive(name: str, value: float) -> None:
  """Raises unless `value` is a positive, finite number."""
  if not (np.ndim(value) == 0 and 0 < value < np.inf):
    raise ValueError(f"{name} must be a positive number; got {value}")
