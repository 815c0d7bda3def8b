"""A run whose pictures show their labels, an extractor that averages over regions; and a program for tests.

The program evaluates the run, in as many processes as join, and writes what the primary found.
"""

import json
import sys

import jax.numpy as jnp
import map_case
import numpy as np

from experiments.configs import digits
from mfm_jax.metrics.reference import Fingerprint
from mfm_jax.models.inception import Features
from mfm_jax.training import distributed, evaluation, shares
from mfm_jax.training.config import RunConfig, from_dict
from mfm_jax.training.evaluation import ImageConfig
from mfm_jax.training.run import Run
from mfm_jax.types import expand_like

FINGERPRINT = Fingerprint(convention="adm", weights_sha256="abc")
CONFIG = from_dict(RunConfig, digits.get_config("smoke").to_dict())
CHUNK = 16  # pictures of a part, in tests
METRICS = ("fid", "sfid", "is", "precision_recall", "kid", "class_fid", "posterior_fid")


def extract(pixels: np.ndarray) -> Features:
  """Four, three and five numbers from bytes."""
  assert pixels.dtype == np.uint8
  x = pixels.astype(np.float32) / 255.0
  pool = np.stack([x[:, :4, :4], x[:, 4:, :4], x[:, :4, 4:], x[:, 4:, 4:]], 1).mean((2, 3, 4))
  logits = np.concatenate([pool, x[:, :1, 0, 0]], 1)
  return Features(pool=pool, spatial=pool[:, :3] ** 2, logits=logits, biased_logits=logits + 1.0)


def extractor(*args, **kwargs):
  """In place of `features.extractor`."""
  return extract, FINGERPRINT


def velocity(s, u, x_s, t, x_t, cond):
  """A draw is x_t and some noise, but for its first pixel, which shows the label."""
  target = expand_like(t, x_t) * x_t + 0.1 * (1.0 - expand_like(t, x_t)) * x_s
  shown = 0.1 * (cond["label"] if cond else jnp.zeros(len(t))) - 1.0
  return target.at[:, 0, 0, 0].set(shown) - x_s


def run() -> Run:
  """The run, in closed form."""
  return map_case.run(CONFIG, velocity)


def evaluate(folder: str) -> dict:
  """Every metric of 70 samples, whose last part is not full; files of samples and of the reference."""
  names = {"write_samples": f"{folder}/samples.npz", "write_reference": f"{folder}/reference.npz"}
  images = ImageConfig(split="test", num=70, few=True, splits=2, subset=10, **names)
  return evaluation.evaluate(run(), METRICS, images, times=(0.5,))


if __name__ == "__main__":
  distributed.join()
  shares.CHUNK, evaluation.extractor = CHUNK, extractor
  found = evaluate(sys.argv[1])
  if distributed.is_primary():
    print(json.dumps(found), flush=True)
