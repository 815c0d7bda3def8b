"""CLIP: image and text towers that embed into one space (Radford et al. 2021, arXiv:2103.00020)."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.models import transformer
from mfm_jax.models.layers import output
from mfm_jax.types import Array, PRNGKey, PyTree

ACTIVATIONS = {"gelu": transformer.gelu, "quick_gelu": transformer.quick_gelu}
EPSILON = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
  """Sizes of both towers. Weights do not tell the activation: OpenAI's have quick_gelu, LAION's gelu."""

  embedding: int  # dimension of the common space
  image_size: int = 224
  patch: int
  image_width: int
  image_depth: int
  image_heads: int
  text_width: int
  text_depth: int
  text_heads: int
  vocabulary: int = 49408
  context: int = 77  # tokens
  activation: str = "gelu"

  def __post_init__(self):
    checks.one_of("activation", self.activation, ACTIVATIONS)
    for field in dataclasses.fields(self):
      if field.name != "activation":
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


def _sizes(embedding, patch, image, text, **more) -> ClipConfig:
  names = ("width", "depth", "heads")
  towers = {
    f"{tower}_{n}": v
    for tower, vs in (("image", image), ("text", text))
    for n, v in zip(names, vs, strict=True)
  }
  return ClipConfig(embedding=embedding, patch=patch, **towers, **more)


# Named as open_clip names them; those with -quickgelu are OpenAI's weights.
PRESETS = {
  f"{name}{suffix}": _sizes(*sizes, activation=activation)
  for name, sizes in {
    "ViT-B-32": (512, 32, (768, 12, 12), (512, 12, 8)),
    "ViT-L-14": (768, 14, (1024, 24, 16), (768, 12, 12)),
    "ViT-H-14": (1024, 14, (1280, 32, 16), (1024, 24, 16)),
  }.items()
  for suffix, activation in (("", "gelu"), ("-quickgelu", "quick_gelu"))
} | {
  # For tests and rehearsals: everything but the size is that of the others.
  "tiny": _sizes(16, 8, (32, 2, 4), (24, 2, 3), image_size=32),
}


class ImageTower(nn.Module):
  """Normalised pixels (B, size, size, 3) -> embeddings (B, D), not normalised."""

  config: ClipConfig

  @nn.compact
  def __call__(self, pixels: Array) -> Array:
    c = self.config
    checks.shape("pixels", pixels, (None, c.image_size, c.image_size, 3))
    tokens = transformer.ImageEncoder(
      c.image_width,
      c.image_depth,
      c.image_heads,
      c.patch,
      ACTIVATIONS[c.activation],
      EPSILON,
      norm_in=True,
      patch_bias=False,
      name="encoder",
    )(pixels)
    return nn.Dense(c.embedding, use_bias=False, name="embedding")(tokens[:, 0])


class TextTower(nn.Module):
  """Ids (B, context) -> embeddings (B, D), not normalised, of the first token with the largest id.

  That is the end of the text: its id is the last of the vocabulary, also where the text is padded with it.
  Attention is causal, so what follows it, the padding, changes nothing.
  """

  config: ClipConfig

  @nn.compact
  def __call__(self, ids: Array) -> Array:
    c = self.config
    checks.shape("ids", ids, (None, c.context))
    position = self.param("position", nn.initializers.normal(0.01), (c.context, c.text_width))
    h = nn.Embed(c.vocabulary, c.text_width, name="tokens")(ids) + position[None]
    causal = jnp.tril(jnp.ones((c.context, c.context), bool))[None, None]
    activation = ACTIVATIONS[c.activation]
    blocks = transformer.stack(transformer.Block, c.text_depth, 1)(
      c.text_heads, activation, EPSILON, name="blocks"
    )
    h, _ = blocks(h, causal)
    h = nn.LayerNorm(epsilon=EPSILON, name="norm_out")(h)
    h = jnp.take_along_axis(h, ids.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    return nn.Dense(c.embedding, use_bias=False, name="embedding")(h)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
  """Both towers as pure functions of the parameters {"image": ..., "text": ..., "log_scale": ()}.

  Attributes:
    config: sizes.
    init: random parameters.
    image: (params["image"], pixels (B, size, size, 3)) -> (B, D).
    text: (params["text"], ids (B, context)) -> (B, D).
  """

  config: ClipConfig
  init: Callable[[PRNGKey], PyTree]
  image: Callable[[PyTree, Array], Array]
  text: Callable[[PyTree, Array], Array]


def build(config: ClipConfig) -> Clip:
  """The network of `config`, float32."""
  image, text = ImageTower(config), TextTower(config)

  def init(key: PRNGKey) -> PyTree:
    key_image, key_text = jax.random.split(key)
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3))
    return {
      "image": image.init(key_image, pixels)["params"],
      "text": text.init(key_text, jnp.zeros((1, config.context), jnp.int32))["params"],
      "log_scale": jnp.log(jnp.float32(1 / 0.07)),
    }

  return Clip(
    config=config,
    init=init,
    image=lambda params, pixels: output(image, params, pixels),
    text=lambda params, ids: output(text, params, ids),
  )


def unit(embeddings: Array) -> Array:
  """Embeddings (B, D) of length 1."""
  return embeddings / jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
