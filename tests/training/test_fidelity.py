"""Posterior and value fidelity of latents: an exact map, one that ignores x_t, the picture of draws."""

import dataclasses

import jax.numpy as jnp
import map_case
import numpy as np
import pytest
from PIL import Image

from experiments.configs import digits
from mfm_jax.data.datasets import DataConfig
from mfm_jax.training import fidelity
from mfm_jax.training.config import RunConfig, from_dict
from mfm_jax.types import expand_like

CONFIG = from_dict(RunConfig, digits.get_config("smoke").to_dict())
# Standard normal "latents".
LATENTS = DataConfig(name="noise", shape=(4, 4, 4), classes=3, train_size=16, test_size=16)
SIZES = {"contexts": 6, "draws": 24, "times": (0.5,)}


def exact(s, u, x_s, t, x_t, cond):
  """For N(0, I) and the linear path: from s = 0 to u = 1 a posterior draw, at s = u the flow's velocity."""
  square = t**2 + (1.0 - t) ** 2
  mean, std = t / square, (1.0 - t) / jnp.sqrt(square)
  jump = expand_like(mean, x_t) * x_t + expand_like(std - 1.0, x_s) * x_s
  flow = expand_like((2.0 * s - 1.0) / (s**2 + (1.0 - s) ** 2), x_s) * x_s
  return jnp.where(expand_like(s == u, x_s), flow, jump)


def blind(s, u, x_s, t, x_t, cond):
  """One-step draws of the data law whatever x_t is; its marginal velocity, at s = u, is right."""
  return jnp.where(expand_like(s == u, x_s), exact(s, u, x_s, t, x_t, cond), 0.0)


def latents(velocity, tmp_path):
  config = dataclasses.replace(CONFIG, data=LATENTS)
  return map_case.run(config, velocity, tmp_path)


def test_an_exact_map_of_latents_is_at_the_floors(tmp_path):
  found = fidelity.evaluate(latents(exact, tmp_path), ["posterior", "value"], **SIZES)
  (row,), (value,) = found["posterior"], found["value"]
  assert list(row)[-4:] == ["coverage", "coverage_floor", "context", "context_rollouts"]
  assert row["energy"] < 0.1 * row["energy_mean"]
  assert row["coverage"] == pytest.approx(row["coverage_floor"], abs=0.15)
  # At t = 1/2 of the linear path x_t explains half of the variance of x1.
  assert row["context"] == pytest.approx(0.5, abs=0.2)
  assert row["context_rollouts"] == pytest.approx(row["context"], abs=0.1)
  assert value["value_error"] < 3 * value["value_floor"]
  assert not (tmp_path / "samples").exists()  # nothing to be seen without a decoder


def test_a_map_that_ignores_its_context_is_seen_and_a_decoder_shows_it(tmp_path):
  decode = {"decode": lambda x: jnp.clip(0.5 + 0.2 * x[..., :3], 0.0, 1.0)}
  (row,) = fidelity.evaluate(latents(blind, tmp_path), ["posterior"], **SIZES, **decode)["posterior"]
  assert row["context"] < 0.1 < row["context_rollouts"]
  assert row["energy"] > 0.2 * row["energy_mean"]
  with Image.open(tmp_path / "samples" / "fidelity.png") as picture:
    assert np.asarray(picture).ndim == 3
