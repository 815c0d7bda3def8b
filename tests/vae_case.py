"""A tiny autoencoder and a folder of noise pictures, shared by the tests of latents."""

import pathlib

import jax
import numpy as np
from PIL import Image

from mfm_jax import convert
from mfm_jax.models import autoencoder
from mfm_jax.models.autoencoder import AutoencoderConfig

CONFIG = AutoencoderConfig(channels=(4, 8), blocks=1, groups=2, scale=0.5)
SIZE = 8  # side of a picture; its latent has half of it
CLASSES = ("n01", "n02", "n03")


def params(config: AutoencoderConfig = CONFIG, seed: int = 0):
  """Random weights from shapes, without compiling an initialisation; biases and scales are random too."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda: autoencoder.init(jax.random.key(0), config))

  def fill(path, leaf):
    fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 100.0
    value = rng.standard_normal(leaf.shape, np.float32) / np.float32(np.sqrt(fan_in))
    return value + np.float32(path[-1].key == "scale")

  return jax.tree_util.tree_map_with_path(fill, shapes)


def write_vae(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
  """A folder of random weights."""
  convert.write_autoencoder(folder, CONFIG, params(seed=seed))
  return folder


def write_pictures(folder: pathlib.Path, counts: dict[str, int]) -> pathlib.Path:
  """`counts` pictures of noise a class, by folder ("train", "val")."""
  rng = np.random.default_rng(0)
  for split, count in counts.items():
    for name in CLASSES:
      (folder / split / name).mkdir(parents=True)
      for i in range(count):
        pixels = rng.integers(0, 256, (SIZE + 1 + i, SIZE + 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
  return folder
