"""A small vision transformer for small images (digits, MNIST, CIFAR-10 in pixel space)."""

import flax.linen as nn
import jax.numpy as jnp

from mfm_jax.models import layers
from mfm_jax.types import Array


class ViT(nn.Module):
  """Patches of state and context are embedded together; the conditioning modulates every block.

  Attention runs in XLA, which supports the forward-mode derivatives of the consistency objectives.
  """

  width: int
  depth: int
  heads: int
  patch: int
  num_classes: int = 0
  guided: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    s: Array,
    u: Array,
    x_s: Array,
    t: Array,
    x_t: Array,
    label: Array | None,
    guidance: Array | None,
  ) -> Array:
    channels = x_s.shape[-1]
    c = layers.Conditioning(self.width, self.num_classes, self.guided, dtype=self.dtype, name="conditioning")(
      s, u, t, label, guidance
    )[:, None]
    h = nn.Dense(self.width, dtype=self.dtype, name="state")(patches(x_s, self.patch))
    h = h + nn.Dense(self.width, dtype=self.dtype, name="context")(patches(x_t, self.patch))
    position = self.param("position", nn.initializers.normal(0.5), h.shape[1:])
    h = h + position[None].astype(self.dtype)
    for i in range(self.depth):
      h = Block(self.heads, self.dtype, name=f"block_{i}")(h, c)
    shift, scale = layers.Modulation(2, self.width, self.dtype, name="modulation_out")(c)
    h = layers.modulate(_norm(self.dtype)(h), shift, scale)
    out = nn.Dense(self.patch**2 * channels, kernel_init=layers.output_init, dtype=self.dtype, name="out")(h)
    return unpatch(out, self.patch, x_s.shape).astype(x_s.dtype)


class Block(nn.Module):
  """Pre-norm attention and MLP with shift, scale and gate from the conditioning (B, 1, width)."""

  heads: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, h: Array, c: Array) -> Array:
    batch, tokens, width = h.shape
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = layers.Modulation(
      6, width, self.dtype, name="modulation"
    )(c)
    y = layers.modulate(_norm(self.dtype)(h), shift_a, scale_a)
    qkv = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(y)
    q, k, v = jnp.split(qkv.reshape(batch, tokens, self.heads, -1), 3, axis=-1)
    y = layers.attention(q, k, v).reshape(h.shape)
    h = h + (1.0 + gate_a) * nn.Dense(width, dtype=self.dtype, name="projection")(y)
    y = layers.modulate(_norm(self.dtype)(h), shift_m, scale_m)
    y = nn.gelu(nn.Dense(4 * width, dtype=self.dtype, name="mlp_in")(y))
    return h + (1.0 + gate_m) * nn.Dense(width, dtype=self.dtype, name="mlp_out")(y)


def _norm(dtype):
  return nn.LayerNorm(use_scale=False, use_bias=False, epsilon=1e-6, dtype=dtype)


def patches(x: Array, size: int) -> Array:
  """(B, H, W, C) -> (B, H W / size^2, size^2 C), tokens row-major."""
  batch, height, width, channels = x.shape
  if height % size or width % size:
    raise ValueError(f"patch must divide height and width; got patch {size}, image {x.shape}")
  x = x.reshape(batch, height // size, size, width // size, size, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)


def unpatch(tokens: Array, size: int, shape: tuple[int, ...]) -> Array:
  """The inverse of `patches` for images of `shape` (B, H, W, C)."""
  batch, height, width, channels = shape
  x = tokens.reshape(batch, height // size, width // size, size, size, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(shape)
