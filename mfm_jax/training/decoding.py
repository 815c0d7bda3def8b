"""Latents as pictures: the autoencoder of a run, and its `Decode`."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks, convert
from mfm_jax.data.sources import to_pixels
from mfm_jax.models import autoencoder
from mfm_jax.models.autoencoder import AutoencoderConfig
from mfm_jax.models.random_params import random_params
from mfm_jax.rewards.parts import in_parts
from mfm_jax.training import hoisted
from mfm_jax.training.folder import DataInfo
from mfm_jax.training.state import params_sha256
from mfm_jax.types import Array, Decode, PyTree

# In place of a file: random weights of the published size, or of one that is computed in no time.
RANDOM = {
  "random": AutoencoderConfig(),
  "random:tiny": AutoencoderConfig(channels=(8, 16), blocks=1, groups=4),
}


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
  """The autoencoder in a folder, or in its .safetensors file; raises as `convert.read_autoencoder`.

  `path` may also be a key of `RANDOM`: random weights, for rehearsals without published ones.
  """
  if str(path) in RANDOM:
    config = RANDOM[str(path)]
    params = random_params(lambda key: autoencoder.init(key, config))
  else:
    config, params = convert.read_autoencoder(path)
  return Vae(config=config, params=params, sha256=params_sha256(params))


def decoder(vae: Vae, info: DataInfo, *, tile: int = 0) -> Decode:
  """Model space -> [0, 1] images of a run on latents, not clipped; one at a time (a device), rematerialised.

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

  params = jax.tree.map(jnp.asarray, vae.params)  # once on the device, where `hoisted` finds them

  def of_part(z: Array) -> Array:
    return autoencoder.decode(vae.config, params, z, tile=tile, remat=True)

  def decode(x: Array) -> Array:
    return to_pixels(in_parts(of_part, x / info.latent_scale + info.latent_shift, rows=1))

  return decode


def pictures(decode: Decode, x: np.ndarray, batch: int = 16) -> np.ndarray:
  """Latents (..., h, w, C) as images (..., H, W, 3) in [0, 1], not clipped, a few in one program."""
  out = Blocks(decode, batch=batch)(x.reshape(-1, *x.shape[-3:]))
  return out.reshape(*x.shape[:-3], *out.shape[1:])


class Blocks:
  """`function` on any number of examples, a block of `batch` at a time by one program, as NumPy arrays.

  Networks that the function closes over are no constants of the program (`hoisted`).

  Args:
    function: of pytrees whose leaves have the examples as their leading axis, to such a pytree.
    batch: examples of a block.
  """

  def __init__(self, function: Callable[..., PyTree], *, batch: int = 16):
    checks.at_least("batch", batch, 1)
    self._function, self._batch = function, batch
    self._compiled: Callable[..., PyTree] | None = None

  def __call__(self, *arguments: PyTree) -> PyTree:
    """The results, in the order of the examples; arguments have one structure at all calls."""
    arguments = jax.tree.map(np.asarray, arguments)
    n, out = len(jax.tree.leaves(arguments)[0]), []
    for first in range(0, n, self._batch):
      chosen = np.arange(first, first + self._batch) % n  # the last block is filled up from the front
      block = jax.tree.map(lambda x, chosen=chosen: x[chosen], arguments)
      if self._compiled is None:
        self._compiled = hoisted.compile_hoisted(self._function, *block)
      out.append(jax.device_get(self._compiled(*block)))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *out)
