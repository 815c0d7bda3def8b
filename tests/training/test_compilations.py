"""A training compiles its programs in the first steps, and none after them."""

import dataclasses
import importlib
import pkgutil

import jax
import pytest
import run_case

from experiments import configs
from mfm_jax.training import loop
from mfm_jax.training.config import RunConfig, from_dict
from mfm_jax.training.logging import MetricWriter

OTHERS = ("benchmark_", "common", "steer_", "classifier_", "finetune_")  # no runs
FAST = ("gmm",)
NAMES = sorted(m.name for m in pkgutil.iter_modules(configs.__path__) if not m.name.startswith(OTHERS))


def config_of(name):
  """A shipped configuration, its smoke form: everything that a run does once an interval of 5 steps."""
  get_config = importlib.import_module(f"experiments.configs.{name}").get_config
  config = from_dict(RunConfig, get_config("smoke").to_dict())
  every = {"log_every": 5, "eval_every": 5, "checkpoint_every": 5, "eval_batches": 1, "steps": 20}
  if name == "gmm":
    return run_case.smoke(every)  # which shares its programs
  depth = 2 if config.model.name == "dit" else 1  # a block of the encoder and one of the decoder
  model = dataclasses.replace(config.model, depth=depth, multipliers=config.model.multipliers[:2])
  return dataclasses.replace(config, model=model, **every)


def compilations(config, folder, monkeypatch) -> dict[int, int]:
  """Step -> programs lowered, to be compiled or found in the cache, when its line was logged."""
  events, found = [], {}

  def listen(event, duration, **kwargs):
    if event.endswith("jaxpr_to_mlir_module_duration"):
      events.append(event)

  def progress(self, step, values):
    found[step] = len(events)

  monkeypatch.setattr(MetricWriter, "progress", progress)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    loop.train(config, folder)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return found


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_nothing_is_compiled_after_the_first_steps(name, request, tmp_path, monkeypatch):
  """The first evaluation and the first checkpoint, at step 5, are among them."""
  config = config_of(name)
  if config.data.name == "idx":
    path = request.getfixturevalue("mfm_data_dir") / "mnist"
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(path)))
  if config.teacher:
    loss = dataclasses.replace(config.loss, diagonal="data", consistency="none")
    loop.train(dataclasses.replace(config, loss=loss, teacher="", init="", steps=5), tmp_path / "teacher")
    config = dataclasses.replace(config, **{key: str(tmp_path / "teacher") for key in ("teacher", "init")})
  found = compilations(config, tmp_path / "run", monkeypatch)
  assert 0 < found[5] <= found[10] == found[15] == found[20]
