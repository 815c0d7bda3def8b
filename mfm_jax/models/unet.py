"""A convolutional network with skip connections for small images (the paper's network for MNIST)."""

import flax.linen as nn
import jax.numpy as jnp

from mfm_jax.models import layers, vit
from mfm_jax.models.convolution import SameConv
from mfm_jax.types import Array

GROUPS = 8  # of the group norms; it divides every number of channels


class UNet(nn.Module):
  """Patches of state and context are embedded together; the conditioning modulates every block.

  Each resolution is half the one before. It has `depth` blocks on the way down and as many on the way up,
  which also see what the former gave; in between there is attention. Halving and doubling move pixels to
  channels and back, where strided convolutions have slow gradients on CPUs. At last the output is affine in
  the state and the context, pixel by pixel, with coefficients from the network: so it can take noise away
  pixel by pixel however few its channels are for the pixels of a patch.
  """

  width: int
  depth: int
  heads: int
  patch: int
  multipliers: tuple[int, ...]  # channels over width, finest resolution first
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
    c = layers.Conditioning(
      4 * self.width, self.num_classes, self.guided, dtype=self.dtype, name="conditioning"
    )(s, u, t, label, guidance)[:, None, None]
    channels = [self.width * multiplier for multiplier in self.multipliers]

    def block(features, name):
      return Block(features, self.dtype, name=name)

    state, context = (fold(x, self.patch).astype(self.dtype) for x in (x_s, x_t))
    h = conv(channels[0], self.dtype, "state")(state) + conv(channels[0], self.dtype, "context")(context)
    skips = []
    for level, features in enumerate(channels):
      if level:
        h = nn.Dense(features, dtype=self.dtype, name=f"shrink_{level}")(fold(h, 2))
      for i in range(self.depth):
        h = block(features, f"down_{level}_{i}")(h, c)
        skips.append(h)
    h = Attention(self.heads, self.dtype, name="attention")(h, c)
    for level in reversed(range(len(channels))):
      if level < len(channels) - 1:
        h = unfold(nn.Dense(4 * channels[level], dtype=self.dtype, name=f"grow_{level}")(h), 2)
      for i in range(self.depth):
        h = block(channels[level], f"up_{level}_{i}")(jnp.concatenate([h, skips.pop()], -1), c)
    shift, scale = layers.Modulation(2, channels[0], self.dtype, name="modulation_out")(c)
    h = nn.silu(layers.modulate(_norm(self.dtype)(h), shift, scale))
    out = conv(3 * state.shape[-1], self.dtype, "out", kernel_init=layers.output_init)(h)
    offset, of_state, of_context = jnp.split(out, 3, axis=-1)
    return unfold(offset + of_state * state + of_context * context, self.patch).astype(x_s.dtype)


class Block(nn.Module):
  """Two convolutions beside the identity; the conditioning (B, 1, 1, c) modulates what is between them."""

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, h: Array, c: Array) -> Array:
    y = nn.silu(_norm(self.dtype)(h))
    y = conv(self.features, self.dtype, "conv_in")(y)
    shift, scale = layers.Modulation(2, self.features, self.dtype, name="modulation")(c)
    y = nn.silu(layers.modulate(_norm(self.dtype)(y), shift, scale))
    y = conv(self.features, self.dtype, "conv_out")(y)
    if h.shape[-1] != self.features:
      h = nn.Dense(self.features, dtype=self.dtype, name="skip")(h)
    return h + y


class Attention(nn.Module):
  """Attention between all positions, modulated by the conditioning (B, 1, 1, c), beside the identity.

  It runs in XLA, which supports the forward-mode derivatives of the consistency objectives.
  """

  heads: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, h: Array, c: Array) -> Array:
    batch, height, width, channels = h.shape
    shift, scale = layers.Modulation(2, channels, self.dtype, name="modulation")(c)
    y = layers.modulate(_norm(self.dtype)(h), shift, scale)
    qkv = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(y)
    q, k, v = jnp.split(qkv.reshape(batch, height * width, self.heads, -1), 3, axis=-1)
    y = layers.attention(q, k, v).reshape(h.shape)
    return h + nn.Dense(channels, dtype=self.dtype, name="projection")(y)


def conv(features: int, dtype: jnp.dtype, name: str, **kwargs) -> SameConv:
  """3x3, with zeros around the image, by which the network sees where it is."""
  return SameConv(features, dtype=dtype, name=name, **kwargs)


def _norm(dtype):
  return nn.GroupNorm(num_groups=GROUPS, use_scale=False, use_bias=False, epsilon=1e-6, dtype=dtype)


def fold(x: Array, size: int) -> Array:
  """Space to depth: (B, H, W, C) -> (B, H / size, W / size, size^2 C)."""
  batch, height, width, channels = x.shape
  return vit.patches(x, size).reshape(batch, height // size, width // size, size * size * channels)


def unfold(x: Array, size: int) -> Array:
  """The inverse of `fold`."""
  batch, height, width, channels = x.shape
  shape = (batch, height * size, width * size, channels // size**2)
  return vit.unpatch(x.reshape(batch, height * width, channels), size, shape)
