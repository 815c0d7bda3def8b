"""What the published preference models do to a picture before their network, differentiable.

Resizing is PIL's bicubic with its antialiasing (a = -1/2, the kernel stretched where the picture shrinks),
which PyTorch's antialiased resize of tensors shares: two matrices, one an axis. The pipelines that resize
8-bit pictures (all but HPSv2's) round to 8 bits, and so clip to [0, 1], after each axis. Here nothing is
rounded or clipped, because the gradient would vanish there: values differ by that alone.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.types import Array

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of OpenAI's CLIP
FITS = ("shortest", "longest")
CROPS = ("round", "floor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
  """Pictures (B, H, W, 3) in [0, 1], of any size -> normalised pixels (B, size, size, 3).

  Attributes:
    size: side of what the network takes.
    fit: the side that becomes `size`: "shortest", the centre is cropped; "longest", black is added around.
    crop: where half a pixel is left at the centre: "round" to even as torchvision, "floor" as transformers.

  Raises:
    ValueError: another fit or crop; at a call, examples that are not pictures of three channels.
  """

  size: int = 224
  fit: str = "shortest"
  crop: str = "round"

  def __post_init__(self):
    checks.at_least("size", self.size, 1)
    checks.one_of("fit", self.fit, FITS)
    checks.one_of("crop", self.crop, CROPS)

  def __call__(self, x: Array) -> Array:
    x = jnp.asarray(x).astype(jnp.float32)
    if x.ndim != 4 or x.shape[-1] != 3:
      raise ValueError(f"pictures must have shape (B, H, W, 3); got {tuple(x.shape)}")
    vertical, horizontal = map(jnp.asarray, self.matrices(*x.shape[1:3]))
    # Precision: an accelerator's default rounds the product's inputs to bfloat16.
    x = jnp.einsum("ih,jw,bhwc->bijc", vertical, horizontal, x, precision="highest")
    return (x - jnp.array(MEAN)[None, None, None]) / jnp.array(STD)[None, None, None]

  def matrices(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(size, H) and (size, W), float32: resize and crop of the columns and of the rows."""
    sides = self._resized(height, width)
    vertical, horizontal = (
      self._centre(resize_matrix(old, new)).astype(np.float32)
      for old, new in zip((height, width), sides, strict=True)
    )
    return vertical, horizontal

  def _resized(self, height: int, width: int) -> tuple[int, int]:
    if self.fit == "longest":
      scale = self.size / max(height, width)
      return round(height * scale), round(width * scale)
    short = min(height, width)
    return int(self.size * height / short), int(self.size * width / short)

  def _centre(self, matrix: np.ndarray) -> np.ndarray:
    """`size` rows from the middle; rows of 0 around it where there are fewer."""
    extra = len(matrix) - self.size
    if extra < 0:
      return np.pad(matrix, ((-extra // 2, -extra - -extra // 2), (0, 0)))
    first = round(extra / 2) if self.crop == "round" else extra // 2
    return matrix[first : first + self.size]


def resize_matrix(old: int, new: int) -> np.ndarray:
  """PIL's bicubic resize of `old` pixels to `new` as a matrix (new, old), float64; its rows sum to 1.

  Raises:
    ValueError: a size below 1.
  """
  checks.at_least("old", old, 1)
  checks.at_least("new", new, 1)
  scale = old / new
  stretch = max(scale, 1.0)
  support = 2.0 * stretch
  matrix = np.zeros((new, old))
  for i in range(new):
    centre = (i + 0.5) * scale
    first = max(int(centre - support + 0.5), 0)
    last = min(int(centre + support + 0.5), old)
    weights = _bicubic((np.arange(first, last) - centre + 0.5) / stretch)
    matrix[i, first:last] = weights / math.fsum(weights)
  return matrix


def _bicubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
  """The cubic convolution kernel (Keys 1981)."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = (((x - 5) * x + 8) * x - 4) * a
  return np.where(x < 1, near, np.where(x < 2, far, 0.0))
