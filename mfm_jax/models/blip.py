"""ImageReward: BLIP's image encoder, BERT that attends to it, a head (Xu et al. 2023, arXiv:2304.05977).

BLIP: Li et al. 2022, arXiv:2201.12086.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.models import layers, transformer
from mfm_jax.models.score_head import ScoreHead
from mfm_jax.types import Array, PRNGKey, PyTree

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw scores; what is published is standardised
IMAGE_EPSILON, TEXT_EPSILON = 1e-6, 1e-12
TOKENS = 35  # of a prompt, padded


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlipConfig:
  """Sizes; the defaults are those of ImageReward."""

  image_size: int = 224
  patch: int = 16
  image_width: int = 1024
  image_depth: int = 24
  image_heads: int = 16
  text_width: int = 768
  text_depth: int = 12
  text_heads: int = 12
  vocabulary: int = 30524  # bert-base-uncased with [DEC] and [ENC]
  positions: int = 512

  def __post_init__(self):
    for field in dataclasses.fields(self):
      checks.at_least(field.name, getattr(self, field.name), 1)
    for whole, part in (
      ("image_size", "patch"),
      ("image_width", "image_heads"),
      ("text_width", "text_heads"),
    ):
      if getattr(self, whole) % getattr(self, part):
        raise ValueError(
          f"{part} must divide {whole}; got {part}={getattr(self, part)}, {whole}={getattr(self, whole)}"
        )


PRESETS = {
  "ImageReward": BlipConfig(),
  # For tests and rehearsals.
  "tiny": BlipConfig(
    image_size=32, image_width=32, image_depth=2, image_heads=4, text_width=24, text_depth=2, text_heads=3
  ),
}


class TextBlock(nn.Module):
  """BERT's post-norm block with attention to an image between self-attention and MLP; a body of a scan."""

  heads: int

  @nn.compact
  def __call__(self, h: Array, mask: Array, image: Array) -> tuple[Array, None]:
    width = h.shape[-1]
    q, k, v = transformer.split_heads(nn.Dense(3 * width, name="qkv")(h), 3, self.heads)
    y = nn.Dense(width, name="projection")(layers.attention(q, k, v, mask).reshape(h.shape))
    h = _norm("norm_attention")(h + y)
    (q,) = transformer.split_heads(nn.Dense(width, name="cross_query")(h), 1, self.heads)
    k, v = transformer.split_heads(nn.Dense(2 * width, name="cross_key_value")(image), 2, self.heads)
    y = nn.Dense(width, name="cross_projection")(layers.attention(q, k, v).reshape(h.shape))
    h = _norm("norm_cross")(h + y)
    y = nn.Dense(width, name="mlp_out")(transformer.gelu(nn.Dense(4 * width, name="mlp_in")(h)))
    return _norm("norm_mlp")(h + y), None


def _norm(name: str) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=TEXT_EPSILON, name=name)


class ImageRewardNet(nn.Module):
  """Normalised pixels (B, size, size, 3), ids and mask (B, L) of prompts -> standardised scores (B,)."""

  config: BlipConfig

  @nn.compact
  def __call__(self, pixels: Array, ids: Array, mask: Array) -> Array:
    c = self.config
    checks.shape("pixels", pixels, (None, c.image_size, c.image_size, 3))
    image = transformer.ImageEncoder(
      c.image_width,
      c.image_depth,
      c.image_heads,
      c.patch,
      transformer.gelu,
      IMAGE_EPSILON,
      norm_in=False,
      patch_bias=True,
      name="image",
    )(pixels)
    position = self.param("position", nn.initializers.normal(0.02), (c.positions, c.text_width))
    h = nn.Embed(c.vocabulary, c.text_width, name="tokens")(ids) + position[None, : ids.shape[1]]
    h = _norm("norm_in")(h)
    blocks = transformer.stack(TextBlock, c.text_depth, 2)(c.text_heads, name="blocks")
    h, _ = blocks(h, mask[:, None, None].astype(bool), image)
    return (ScoreHead(name="head")(h[:, 0]) - MEAN) / STD


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageReward:
  """The network as pure functions.

  Attributes:
    config: sizes.
    init: random parameters.
    score: (params, pixels (B, size, size, 3), ids (B, L), mask (B, L)) -> (B,).
  """

  config: BlipConfig
  init: Callable[[PRNGKey], PyTree]
  score: Callable[[PyTree, Array, Array, Array], Array]


def build(config: BlipConfig) -> ImageReward:
  """The network of `config`, float32."""
  net = ImageRewardNet(config)

  def init(key: PRNGKey) -> PyTree:
    pixels, ids = jnp.zeros((1, config.image_size, config.image_size, 3)), jnp.zeros((1, TOKENS), jnp.int32)
    return jax.jit(net.init)(key, pixels, ids, jnp.ones_like(ids))["params"]

  def score(params: PyTree, pixels: Array, ids: Array, mask: Array) -> Array:
    return layers.output(net, params, pixels, ids, mask)

  return ImageReward(config=config, init=init, score=score)
