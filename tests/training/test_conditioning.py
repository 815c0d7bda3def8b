"""Every conditioning input of a shipped configuration is used after training, with the skip and without."""

import dataclasses
import importlib
import os

import jax.numpy as jnp
import pytest

from mfm_jax.training import loop
from mfm_jax.training.conditioning import conditioning_rows
from mfm_jax.training.config import RunConfig, from_dict
from mfm_jax.training.run import load_run

# Shorter trainings than the configurations' own, long enough to learn what each input is for.
SETTINGS = {
  "gmm": {"steps": 800, "batch_size": 256, "model.width": 32, "model.depth": 2, "data.train_size": 1 << 14},
  "digits": {"steps": 1000},
  "mnist": {
    "steps": 3000,
    "batch_size": 64,
    "model.width": 32,
    "model.depth": 1,
    "model.patch": 4,
    "model.multipliers": (1, 2),
  },
}
INPUTS = {"gmm": {"x_t", "t"}, "digits": {"x_t", "t", "label"}, "mnist": {"x_t", "t", "label", "guidance"}}


def trained(name, skip, folder):
  config = importlib.import_module(f"experiments.configs.{name}").get_config()
  config.update_from_flattened_dict(SETTINGS[name])
  config.log_every = config.checkpoint_every = config.steps
  config.eval_every, config.optimizer.warmup = 0, 0
  config.optimizer.learning_rate = max(config.optimizer.learning_rate, 1e-3)
  config.ema = (0.98,)
  config.model.precondition = skip
  loop.train(from_dict(RunConfig, config.to_dict()), folder)
  return load_run(folder)


@pytest.fixture(scope="module")
def gmm(tmp_path_factory):
  """The mixture with the skip."""
  return trained("gmm", True, tmp_path_factory.mktemp("gmm"))


@pytest.mark.parametrize(
  "skip", [pytest.param(True, id="skip"), pytest.param(False, id="bare", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  "name",
  ["gmm", pytest.param("digits", marks=pytest.mark.slow), pytest.param("mnist", marks=pytest.mark.slow)],
)
def test_shuffling_an_input_raises_the_held_out_loss(name, skip, tmp_path, request):
  if name == "mnist" and "MFM_DATA_DIR" not in os.environ:
    pytest.skip("MNIST needs $MFM_DATA_DIR")
  made = (name, skip) == ("gmm", True)
  run = request.getfixturevalue("gmm") if made else trained(name, skip, tmp_path)
  increases = {row["input"]: row["increase"] for row in conditioning_rows(run)}
  assert set(increases) == INPUTS[name]
  assert min(increases.values()) >= 0.01, increases


def test_a_dead_context_is_seen(gmm):
  run, net = gmm, gmm.params["net"]
  dead = {**net, "context": {**net["context"], "kernel": jnp.zeros_like(net["context"]["kernel"])}}
  rows = conditioning_rows(dataclasses.replace(run, params={**run.params, "net": dead}), batches=2)
  increases = {row["input"]: row["increase"] for row in rows}
  assert increases["x_t"] == 0.0
  assert increases["t"] > 0.01
