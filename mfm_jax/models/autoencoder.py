"""The autoencoder of latent diffusion: images in [-1, 1] <-> latents of an eighth of their side.

Rombach et al., High-resolution image synthesis with latent diffusion models, 2022, in the sizes of the
published sd-vae-ft-mse and sd-vae-ft-ema. Latents here are as the encoder gives them; a diffusion model is
trained on (latent - shift) * scale.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.models.layers import attention, output
from mfm_jax.types import Array, PRNGKey, PyTree

LOG_VARIANCE = (-30.0, 20.0)  # bounds of the published code
OVERLAP = 0.25  # of two tiles, as a share of their side
_EPSILON = 1e-6  # of the group norms
_PRECISION = "float32"  # of products; accelerators would round to TF32 or bfloat16


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
  """Sizes; the defaults are the published ones.

  Attributes:
    channels: of each resolution, the finest first; each one halves the side of the one before.
    blocks: residual blocks of each resolution of the encoder; the decoder has one more.
    groups: of the norms.
    latent_channels: C of a latent.
    scale, shift: a diffusion model is trained on (latent - shift) * scale.

  Raises:
    ValueError: a size below 1, channels that the groups do not divide.
  """

  channels: tuple[int, ...] = (128, 256, 512, 512)
  blocks: int = 2
  groups: int = 32
  latent_channels: int = 4
  scale: float = 0.18215
  shift: float = 0.0

  def __post_init__(self):
    checks.at_least("number of channels", len(self.channels), 1)
    for name in ("blocks", "groups", "latent_channels"):
      checks.at_least(name, getattr(self, name), 1)
    for channels in self.channels:
      if channels < 1 or channels % self.groups:
        raise ValueError(f"channels must be multiples of groups={self.groups}; got {self.channels}")
    if not self.scale > 0:
      raise ValueError(f"scale must be above 0; got {self.scale}")

  @property
  def reduction(self) -> int:
    """Side of an image over that of its latent."""
    return 2 ** (len(self.channels) - 1)


class Moments(NamedTuple):
  """Mean and log-variance of the Gaussian posterior of a latent, each (B, h, w, C)."""

  mean: Array
  log_variance: Array


def init(key: PRNGKey, config: AutoencoderConfig) -> PyTree:
  """Random parameters {"encoder": ..., "decoder": ...}."""
  key_encoder, key_decoder = jax.random.split(key)
  side = config.reduction
  image, latent = jnp.zeros((1, side, side, 3)), jnp.zeros((1, 1, 1, config.latent_channels))
  return {
    "encoder": Encoder(config).init(key_encoder, image)["params"],
    "decoder": Decoder(config).init(key_decoder, latent)["params"],
  }


def encode(config: AutoencoderConfig, params: PyTree, x: Array) -> Moments:
  """The posterior of the latents of images in [-1, 1]: (B, H, W, 3) -> (B, H / r, W / r, C) twice.

  Raises:
    ValueError: a height or width that is not a multiple of r = config.reduction.
  """
  checks.shape("x", x, (None, None, None, 3))
  if x.shape[1] % config.reduction or x.shape[2] % config.reduction:
    raise ValueError(f"the sides of images must be multiples of {config.reduction}; got {x.shape[1:3]}")
  with jax.default_matmul_precision(_PRECISION):
    mean, log_variance = jnp.split(output(Encoder(config), params["encoder"], x), 2, axis=-1)
  return Moments(mean, jnp.clip(log_variance, *LOG_VARIANCE))


def sample(key: PRNGKey, moments: Moments) -> Array:
  """A draw of the posterior, like its mean."""
  noise = jax.random.normal(key, moments.mean.shape, moments.mean.dtype)
  return moments.mean + jnp.exp(0.5 * moments.log_variance) * noise


def decode(
  config: AutoencoderConfig,
  params: PyTree,
  z: Array,
  *,
  sliced: bool = False,
  tile: int = 0,
  remat: bool = False,
) -> Array:
  """Images of latents, in [-1, 1] but for overshoot: (B, h, w, C) -> (B, h r, w r, 3).

  Args:
    config, params: of the autoencoder.
    z: latents as the encoder gives them, not scaled.
    sliced: one image after the other, in the memory of one.
    tile: decodes tiles of this side, which overlap by a quarter and are blended linearly; 0: the whole. The
      norms and the attention then see a tile alone, so that the result is near the whole's, not equal to it.
    remat: for gradients, computes activations again in place of keeping them: of each image if sliced, and
      within an image of each residual block.

  Raises:
    ValueError: latents of another number of channels, a tile that is not a multiple of 4.
  """
  checks.shape("z", z, (None, None, None, config.latent_channels))
  decoder = Decoder(config, remat=remat)

  def whole(z):
    return output(decoder, params["decoder"], z)

  def one_by_one(z):
    one = lambda z: whole(z[None])[0]  # noqa: E731
    # Of the scan over images too, which would otherwise keep what the gradient of every one needs.
    return jax.lax.map(jax.checkpoint(one) if remat else one, z)

  run = one_by_one if sliced else whole
  with jax.default_matmul_precision(_PRECISION):
    return _tiled(run, z, tile, config.reduction) if tile else run(z)


def _tiled(run, z: Array, tile: int, reduction: int) -> Array:
  """`run` on overlapping tiles; those of one shape go through one scan."""
  if tile < 4 or tile % 4:
    raise ValueError(f"tile must be a multiple of 4, so that a quarter is whole; got {tile}")
  stride, blend = round(tile * (1 - OVERLAP)), round(tile * OVERLAP) * reduction
  tops, lefts = (range(0, size, stride) for size in z.shape[1:3])
  tiles = {(i, j): z[:, i : i + tile, j : j + tile] for i in tops for j in lefts}
  decoded: dict[tuple[int, int], Array] = {}
  for shape in dict.fromkeys(part.shape for part in tiles.values()):
    places = [place for place, part in tiles.items() if part.shape == shape]
    results = jax.lax.map(run, jnp.stack([tiles[place] for place in places]))
    decoded |= dict(zip(places, results))
  rows = []
  for i in tops:
    for j in lefts:
      if i:
        decoded[i, j] = _blend(decoded[i - stride, j], decoded[i, j], blend, axis=1)
      if j:
        decoded[i, j] = _blend(decoded[i, j - stride], decoded[i, j], blend, axis=2)
    kept = stride * reduction
    rows.append(jnp.concatenate([decoded[i, j][:, :kept, :kept] for j in lefts], axis=2))
  return jnp.concatenate(rows, axis=1)


def _blend(before: Array, after: Array, extent: int, axis: int) -> Array:
  """`after`, its first `extent` rows or columns going over linearly from the last ones of `before`."""
  extent = min(extent, before.shape[axis], after.shape[axis])
  start = before.shape[axis] - extent
  old = jax.lax.slice_in_dim(before, start, start + extent, axis=axis)
  new, rest = jnp.split(after, [extent], axis=axis)
  weight = jnp.arange(extent, dtype=after.dtype) / extent
  weight = jnp.expand_dims(weight, [n for n in range(4) if n != axis])
  return jnp.concatenate([old * (1 - weight) + new * weight, rest], axis=axis)


class ResidualBlock(nn.Module):
  """Two normalised convolutions beside a shortcut: (B, h, w, c) -> (B, h, w, features)."""

  features: int
  groups: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    h = nn.Conv(self.features, (3, 3), name="conv1")(nn.silu(_norm(self.groups, "norm1")(x)))
    h = nn.Conv(self.features, (3, 3), name="conv2")(nn.silu(_norm(self.groups, "norm2")(h)))
    if x.shape[-1] != self.features:
      x = nn.Conv(self.features, (1, 1), name="shortcut")(x)
    return x + h


class SelfAttention(nn.Module):
  """One head over all positions, added to its input: (B, h, w, c) -> the same."""

  groups: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    batch, height, width, channels = x.shape
    h = _norm(self.groups, "norm")(x).reshape(batch, height * width, channels)
    q, k, v = (nn.Dense(channels, name=name)(h)[:, :, None] for name in ("query", "key", "value"))
    h = nn.Dense(channels, name="projection")(attention(q, k, v)[:, :, 0])
    return x + h.reshape(x.shape)


class Encoder(nn.Module):
  """Images to mean and unclipped log-variance: (B, H, W, 3) -> (B, H / r, W / r, 2 C)."""

  config: AutoencoderConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    config = self.config
    h = nn.Conv(config.channels[0], (3, 3), name="conv_in")(x)
    for level, channels in enumerate(config.channels):
      if level:
        # Padded after the image alone, as the published weights are trained.
        padding = ((0, 1), (0, 1))
        name = f"down_{level - 1}"
        h = nn.Conv(h.shape[-1], (3, 3), strides=(2, 2), padding=padding, name=name)(h)
      for i in range(config.blocks):
        h = ResidualBlock(channels, config.groups, name=f"level_{level}_block_{i}")(h)
    h = _middle(h, ResidualBlock, config)
    h = nn.silu(_norm(config.groups, "norm_out")(h))
    h = nn.Conv(2 * config.latent_channels, (3, 3), name="conv_out")(h)
    return nn.Conv(2 * config.latent_channels, (1, 1), name="moments")(h)


class Decoder(nn.Module):
  """Latents to images: (B, h, w, C) -> (B, h r, w r, 3); `remat` as in `decode`."""

  config: AutoencoderConfig
  remat: bool = False

  @nn.compact
  def __call__(self, z: Array) -> Array:
    config = self.config
    block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
    h = nn.Conv(config.latent_channels, (1, 1), name="latent")(z)
    h = nn.Conv(config.channels[-1], (3, 3), name="conv_in")(h)
    h = _middle(h, block, config)
    for level, channels in reversed(list(enumerate(config.channels))):
      for i in range(config.blocks + 1):
        h = block(channels, config.groups, name=f"level_{level}_block_{i}")(h)
      if level:
        h = h.repeat(2, axis=1).repeat(2, axis=2)
        h = nn.Conv(channels, (3, 3), name=f"up_{level}")(h)
    h = nn.silu(_norm(config.groups, "norm_out")(h))
    return nn.Conv(3, (3, 3), name="conv_out")(h)


def _middle(h: Array, block: type[nn.Module], config: AutoencoderConfig) -> Array:
  """The layers at the coarsest resolution that encoder and decoder share."""
  channels = config.channels[-1]
  h = block(channels, config.groups, name="middle_block_0")(h)
  h = SelfAttention(config.groups, name="middle_attention")(h)
  return block(channels, config.groups, name="middle_block_1")(h)


def _norm(groups: int, name: str) -> nn.GroupNorm:
  # The variance about the mean: E x^2 - (E x)^2 loses digits where the mean is large.
  return nn.GroupNorm(groups, epsilon=_EPSILON, use_fast_variance=False, name=name)
