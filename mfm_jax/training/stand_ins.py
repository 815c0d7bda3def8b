"""Stand-ins for weights that are published elsewhere, in the published formats, for tests and rehearsals.

The autoencoder is made by hand and does its work; the networks of rewards and metrics have random weights.
"""

import gzip
import pathlib

import jax
import numpy as np

from mfm_jax.convert import inception
from mfm_jax.models import autoencoder
from mfm_jax.models.autoencoder import AutoencoderConfig
from mfm_jax.types import PyTree

AUTOENCODER = AutoencoderConfig(channels=(10, 10), blocks=1, groups=1, scale=2.0)
_CONSTANT = 32.0  # of two channels: large against the signal, so that a norm divides by nearly a constant
_LUMINANCE = np.full(3, 1 / 3)
_DETAIL = 4.0  # brings the fourth channel of a latent to the size of the others
_LOG_VARIANCE = -8.0


def handmade_autoencoder() -> tuple[AutoencoderConfig, PyTree]:
  """An autoencoder without training: squares of 2x2 pixels to their mean colour and step from left to right.

  A decoded picture looks like its original at half the resolution. Every signal goes through the network
  beside its negative, for silu(y) - silu(-y) = y, and beside two large constants, so that what the norms
  divide by hardly depends on the signal: the network is linear but for a thousandth.
  """
  config = AUTOENCODER
  shapes = jax.eval_shape(lambda: autoencoder.init(jax.random.key(0), config))
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: np.full(leaf.shape, float(path[-1].key == "scale"), np.float32), shapes
  )
  encoder, decoder = params["encoder"], params["decoder"]
  gain = _CONSTANT * (2 / config.channels[0]) ** 0.5  # what the last norms divide by
  encoder["conv_in"]["kernel"][1, 1, :, :3] = np.eye(3)
  down = encoder["down_0"]
  down["kernel"][:2, :2, :3, :3] = np.eye(3) / 4
  down["kernel"][:2, :2, :3, 3] = _DETAIL / 4 * np.array([1, -1])[None, :, None] * _LUMINANCE
  down["kernel"][..., 4:8] = -down["kernel"][..., :4]
  down["bias"][8:] = _CONSTANT, -_CONSTANT
  encoder["conv_out"]["kernel"][1, 1, :8, :4] = gain * np.concatenate([np.eye(4), -np.eye(4)])
  encoder["conv_out"]["bias"][4:] = _LOG_VARIANCE
  encoder["moments"]["kernel"][0, 0] = np.eye(8)
  decoder["latent"]["kernel"][0, 0] = np.eye(4)
  decoder["conv_in"]["kernel"][1, 1, :, :4] = np.eye(4)
  up = decoder["up_1"]
  up["kernel"][1, 1, :3, :3] = np.eye(3)
  # Once values are doubled, the left of two pixels has its square's on the right, the right one on the left.
  # Their other neighbour is of the next square, which is why only half of the step is put back.
  up["kernel"][1, :, 3, :3] = 0.5 / _DETAIL * np.array([-1, 0, 1])[:, None]
  up["kernel"][..., 3:6] = -up["kernel"][..., :3]
  up["bias"][6:8] = _CONSTANT, -_CONSTANT
  decoder["conv_out"]["kernel"][1, 1, :6] = gain * np.concatenate([np.eye(3), -np.eye(3)])
  return config, params


def inception_state(seed: int = 0) -> dict[str, np.ndarray]:
  """Every tensor of the Inception network of FID, scaled so that features are of order 1.

  Its batch statistics are not those of a fresh network.
  """
  rng, out = np.random.default_rng(seed), {}
  for name, shape in inception.shapes():
    if name.endswith("conv.weight"):
      value = rng.normal(size=shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    elif name.endswith(("bn.weight", "running_var")):
      value = rng.uniform(0.7, 1.4, shape)
    elif name == "fc.weight":
      value = rng.normal(size=shape) * 0.05
    else:
      value = 0.1 * rng.normal(size=shape)
    out[name] = value.astype(np.float32)
  return out


def write_clip_vocabulary(folder: str | pathlib.Path) -> pathlib.Path:
  """As open_clip's, with a few merges; start and end are not the last ids of a real vocabulary."""
  merges = ["t h", "o f</w>", "th e</w>", "i n", "in g</w>", "d o", "do g</w>"]
  path = pathlib.Path(folder) / "bpe_simple_vocab_16e6.txt.gz"
  with gzip.open(path, "wt", encoding="utf-8") as file:
    file.write("\n".join(["#version: 0.2", *merges]))
  return path
