"""Latents as pictures: the autoencoder of a run, and its `Decode`."""

import dataclasses
import pathlib

import jax
import numpy as np

from mfm_jax import convert
from mfm_jax.data.sources import to_pixels
from mfm_jax.models import autoencoder
from mfm_jax.models.autoencoder import AutoencoderConfig
from mfm_jax.training.folder import DataInfo
from mfm_jax.training.state import params_sha256
from mfm_jax.types import Array, Decode, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Vae:
  """An autoencoder read from a file.

  Attributes:
    config: sizes and scale.
    params: of encoder and decoder.
    sha256: of the parameters (`params_sha256`), the same however the file names its tensors.
  """

  config: AutoencoderConfig
  params: PyTree
  sha256: str


def read_vae(path: str | pathlib.Path) -> Vae:
  """The autoencoder in a folder, or in its .safetensors file; raises as `convert.read_autoencoder`."""
  config, params = convert.read_autoencoder(path)
  return Vae(config=config, params=params, sha256=params_sha256(params))


def decoder(vae: Vae, info: DataInfo, *, tile: int = 0) -> Decode:
  """Model space -> [0, 1] images of a run on latents, not clipped; one image at a time, rematerialised.

  Args:
    vae: the autoencoder.
    info: of the run's data.
    tile: see `autoencoder.decode`.

  Raises:
    ValueError: a run on other data, or on latents of another autoencoder.
  """
  channels = vae.config.latent_channels
  if info.image or len(info.shape) != 3 or info.shape[-1] != channels:
    raise ValueError(
      f"the autoencoder must be of a run on latents (h, w, {channels}); got one on {info.shape}"
    )
  if info.autoencoder not in ("", vae.sha256):
    raise ValueError(
      f"the autoencoder must be the one that the run's latents are of, {info.autoencoder}; got {vae.sha256}"
    )

  def decode(x: Array) -> Array:
    z = x / info.latent_scale + info.latent_shift
    return to_pixels(autoencoder.decode(vae.config, vae.params, z, sliced=True, tile=tile, remat=True))

  return decode


def pictures(decode: Decode, x: np.ndarray, batch: int = 16) -> np.ndarray:
  """Latents (..., h, w, C) as images (..., H, W, 3) in [0, 1], not clipped, a few in one program."""
  flat = x.reshape(-1, *x.shape[-3:])
  padded = np.concatenate([flat, np.zeros((-len(flat) % batch, *flat.shape[1:]), flat.dtype)])
  run = jax.jit(decode)
  parts = [np.asarray(run(padded[i : i + batch])) for i in range(0, len(padded), batch)]
  out = np.concatenate(parts)[: len(flat)]
  return out.reshape(*x.shape[:-3], *out.shape[1:])
