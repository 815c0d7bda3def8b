"""InceptionV3 as the Frechet Inception Distance takes it: the TensorFlow graph of 2015, ported to PyTorch.

It differs from the usual InceptionV3 in what that port names FIDInceptionA, C, E_1 and E_2: average pools do
not count their padding, the last block pools by maximum, and there are 1008 logits. Modules have the names
of the published state dict; batch normalisation is folded into kernels and biases.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.models.layers import output
from mfm_jax.types import Array, PyTree

SIZE = 299  # pixels on a side that the network was trained at
POOL, LOGITS = 2048, 1008
SPATIAL_CHANNELS = 7  # of the layer that sFID takes
SPATIAL = 17 * 17 * SPATIAL_CHANNELS
CONVENTIONS = ("adm", "pytorch_fid")


class Features(NamedTuple):
  """What the metrics take of a batch, float32.

  Attributes:
    pool: (B, 2048), the last average pool ("pool_3").
    spatial: (B, 2023) from pictures of 299 pixels: the first 7 channels of a 1x1 convolution on the 17x17
      grid ("mixed_6/conv"), which sFID takes.
    logits: (B, 1008), without the bias: so the Inception Score takes them.
    biased_logits: (B, 1008), with it.
  """

  pool: Array
  spatial: Array
  logits: Array
  biased_logits: Array


def features(params: PyTree, pixels: Array, convention: str) -> Features:
  """Features of pictures as the reference programs compute them.

  Args:
    params: of `Inception`, see `mfm_jax.convert.inception`.
    pixels: (B, H, W, 3), uint8, or floats with the values 0 .. 255.
    convention: "adm", as ADM's evaluator and TensorFlow 1; "pytorch_fid", as that package.

  Raises:
    ValueError: an unknown convention, another shape.
  """
  return output(Inception(), params, prepare(pixels, convention))


def prepare(pixels: Array, convention: str) -> Array:
  """Pictures (B, H, W, 3) of values 0 .. 255 at 299x299 as the network takes them, bilinear, not antialiased.

  Convention "adm": sampled at i H / 299, then (p - 128) / 128. "pytorch_fid": sampled at pixel centres,
  (i + 1/2) H / 299 - 1/2, then 2 p / 255 - 1. Figures of the two do not compare.

  Raises:
    ValueError: an unknown convention, another shape.
  """
  checks.one_of("convention", convention, CONVENTIONS)
  checks.shape("pixels", pixels, (None, None, None, 3))
  x = pixels.astype(jnp.float32)
  if convention == "adm":
    return (_bilinear(x, centres=False) - 128.0) / 128.0
  return 2.0 * _bilinear(x / 255.0, centres=True) - 1.0


def _bilinear(x: Array, *, centres: bool) -> Array:
  for axis in (1, 2):
    low, high, weight = _taps(x.shape[axis], centres)
    weight = weight.reshape([-1 if i == axis else 1 for i in range(4)])
    first = jnp.take(x, low, axis)
    x = first + (jnp.take(x, high, axis) - first) * weight
  return x


def _taps(size: int, centres: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The two source pixels of each of SIZE pixels, and the weight of the second; float32, as the originals."""
  scale, position = np.float32(size / SIZE), np.arange(SIZE, dtype=np.float32)
  if centres:
    half = np.float32(0.5)
    position = np.maximum((position + half) * scale - half, np.float32(0))
  else:
    position = position * scale
  low = np.minimum(position.astype(np.int32), size - 1)
  return low, np.minimum(low + 1, size - 1), position - low.astype(np.float32)


class Inception(nn.Module):
  """(B, H, W, 3) in [-1, 1], H and W at least 75 -> `Features`."""

  @nn.compact
  def __call__(self, x: Array) -> Features:
    x = Conv(32, (3, 3), stride=2, padding="VALID", name="Conv2d_1a_3x3")(x)
    x = Conv(32, (3, 3), padding="VALID", name="Conv2d_2a_3x3")(x)
    x = Conv(64, (3, 3), name="Conv2d_2b_3x3")(x)
    x = _halve(x)
    x = Conv(80, (1, 1), name="Conv2d_3b_1x1")(x)
    x = Conv(192, (3, 3), padding="VALID", name="Conv2d_4a_3x3")(x)
    x = _halve(x)
    for name, width in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
      x = BlockA(width, name=name)(x)
    x = BlockB(name="Mixed_6a")(x)
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
      x = BlockC(width, name=name)(x)
      if name == "Mixed_6d":  # its 1x1 convolution comes first
        spatial = x[..., :SPATIAL_CHANNELS].reshape(len(x), -1)
    x = BlockD(name="Mixed_7a")(x)
    x = BlockE(_average, name="Mixed_7b")(x)
    x = BlockE(_maximum, name="Mixed_7c")(x)
    pool = x.mean((1, 2))
    logits = nn.Dense(LOGITS, use_bias=False, precision=jax.lax.Precision.HIGHEST, name="fc")(pool)
    bias = self.param("fc_bias", nn.initializers.zeros_init(), (LOGITS,))
    return Features(pool, spatial, logits, logits + bias[None])


class Conv(nn.Module):
  """Convolution and rectifier, in full float32: a TPU and a GPU would round the factors."""

  features: int
  kernel: tuple[int, int]
  stride: int = 1
  padding: str = "SAME"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = nn.Conv(
      self.features,
      self.kernel,
      self.stride,
      self.padding,
      precision=jax.lax.Precision.HIGHEST,
      name="conv",
    )(x)
    return nn.relu(x)


class BlockA(nn.Module):
  """The 35x35 grid; `pool` channels of the pooled branch."""

  pool: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    one = Conv(64, (1, 1), name="branch1x1")(x)
    five = _chain(x, "branch5x5", (48, (1, 1)), (64, (5, 5)))
    three = _chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)))
    pool = Conv(self.pool, (1, 1), name="branch_pool")(_average(x))
    return jnp.concatenate([one, five, three, pool], -1)


class BlockB(nn.Module):
  """From the 35x35 grid to 17x17."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    three = Conv(384, (3, 3), stride=2, padding="VALID", name="branch3x3")(x)
    double = _chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)), halve=True)
    return jnp.concatenate([three, double, _halve(x)], -1)


class BlockC(nn.Module):
  """The 17x17 grid; `width` channels inside the factorised 7x7 branches."""

  width: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    row, column, width = (1, 7), (7, 1), self.width
    one = Conv(192, (1, 1), name="branch1x1")(x)
    seven = _chain(x, "branch7x7", (width, (1, 1)), (width, row), (192, column))
    inner = [(width, (1, 1)), (width, column), (width, row), (width, column), (192, row)]
    double = _chain(x, "branch7x7dbl", *inner)
    pool = Conv(192, (1, 1), name="branch_pool")(_average(x))
    return jnp.concatenate([one, seven, double, pool], -1)


class BlockD(nn.Module):
  """From the 17x17 grid to 8x8."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    three = _chain(x, "branch3x3", (192, (1, 1)), (320, (3, 3)), halve=True)
    inner = [(192, (1, 1)), (192, (1, 7)), (192, (7, 1)), (192, (3, 3))]
    seven = _chain(x, "branch7x7x3", *inner, halve=True)
    return jnp.concatenate([three, seven, _halve(x)], -1)


class BlockE(nn.Module):
  """The 8x8 grid; `pooling` of the pooled branch."""

  pooling: Callable[[Array], Array]

  @nn.compact
  def __call__(self, x: Array) -> Array:
    one = Conv(320, (1, 1), name="branch1x1")(x)
    three = _fork(_chain(x, "branch3x3", (384, (1, 1))), "branch3x3_2")
    double = _fork(_chain(x, "branch3x3dbl", (448, (1, 1)), (384, (3, 3))), "branch3x3dbl_3")
    pool = Conv(192, (1, 1), name="branch_pool")(self.pooling(x))
    return jnp.concatenate([one, three, double, pool], -1)


def _chain(x: Array, name: str, *layers: tuple[int, tuple[int, int]], halve: bool = False) -> Array:
  """Convolutions <name>_1, <name>_2, ...; with `halve` the last one has stride 2."""
  for i, (width, kernel) in enumerate(layers, 1):
    last = halve and i == len(layers)
    stride, padding = (2, "VALID") if last else (1, "SAME")
    x = Conv(width, kernel, stride=stride, padding=padding, name=f"{name}_{i}")(x)
  return x


def _fork(x: Array, name: str) -> Array:
  """A row and a column of three, side by side."""
  both = [Conv(384, kernel, name=name + side)(x) for side, kernel in (("a", (1, 3)), ("b", (3, 1)))]
  return jnp.concatenate(both, -1)


def _halve(x: Array) -> Array:
  return nn.max_pool(x, (3, 3), (2, 2))


def _average(x: Array) -> Array:
  return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _maximum(x: Array) -> Array:
  return nn.max_pool(x, (3, 3), padding="SAME")
