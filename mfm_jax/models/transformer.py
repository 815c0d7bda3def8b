"""The plain pre-norm transformer of published vision and text encoders, scanned over its blocks."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mfm_jax.models import layers, vit
from mfm_jax.types import Array

Activation = Callable[[Array], Array]


def gelu(x: Array) -> Array:
  """x Phi(x), not its approximation by tanh."""
  return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: Array) -> Array:
  """x sigmoid(1.702 x): the activation that OpenAI's CLIP was trained with."""
  return x * jax.nn.sigmoid(1.702 * x)


class Block(nn.Module):
  """Pre-norm self-attention and MLP of four times the width: (B, L, width) -> the same; a body of `stack`."""

  heads: int
  activation: Activation
  epsilon: float

  @nn.compact
  def __call__(self, h: Array, mask: Array | None) -> tuple[Array, None]:
    width = h.shape[-1]
    y = nn.LayerNorm(epsilon=self.epsilon, name="norm_attention")(h)
    q, k, v = split_heads(nn.Dense(3 * width, name="qkv")(y), 3, self.heads)
    h = h + nn.Dense(width, name="projection")(layers.attention(q, k, v, mask).reshape(h.shape))
    y = nn.LayerNorm(epsilon=self.epsilon, name="norm_mlp")(h)
    y = self.activation(nn.Dense(4 * width, name="mlp_in")(y))
    return h + nn.Dense(width, name="mlp_out")(y), None


def stack(block: type[nn.Module], depth: int, inputs: int) -> Callable[..., nn.Module]:
  """`depth` blocks, each `(h, *inputs) -> (h, None)`, with parameters on a leading axis.

  In a backward pass a block is computed again: the memory for activations is that of one block.
  """
  return nn.scan(
    nn.remat(block, prevent_cse=False),
    variable_axes={"params": 0},
    split_rngs={"params": True},
    in_axes=(nn.broadcast,) * inputs,
    length=depth,
  )


def split_heads(x: Array, parts: int, heads: int) -> list[Array]:
  """(B, L, parts * width) -> `parts` arrays (B, L, heads, width / heads)."""
  batch, tokens, _ = x.shape
  return [y.reshape(batch, tokens, heads, -1) for y in jnp.split(x, parts, axis=-1)]


class ImageEncoder(nn.Module):
  """Patches and a class token through the blocks: (B, size, size, 3) -> (B, 1 + patches, width).

  `norm_in` is CLIP's norm before the blocks, `norm_out` the one after them, of all tokens. BLIP has a bias on
  its patches, and no `norm_in`.
  """

  width: int
  depth: int
  heads: int
  patch: int
  activation: Activation
  epsilon: float
  norm_in: bool
  patch_bias: bool

  @nn.compact
  def __call__(self, pixels: Array) -> Array:
    tokens = vit.patches(pixels, self.patch)
    h = nn.Dense(self.width, use_bias=self.patch_bias, name="patches")(tokens)
    token = self.param("class", nn.initializers.normal(0.02), (self.width,))
    position = self.param("position", nn.initializers.normal(0.02), (h.shape[1] + 1, self.width))
    first = jnp.broadcast_to(token[None, None], (h.shape[0], 1, self.width))
    h = jnp.concatenate([first, h], axis=1) + position[None]
    if self.norm_in:
      h = nn.LayerNorm(epsilon=self.epsilon, name="norm_in")(h)
    blocks = stack(Block, self.depth, 1)(self.heads, self.activation, self.epsilon, name="blocks")
    h, _ = blocks(h, None)
    return nn.LayerNorm(epsilon=self.epsilon, name="norm_out")(h)
