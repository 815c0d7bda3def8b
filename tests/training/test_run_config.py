"""Configurations: dictionaries there and back, and what a mistake in one says."""

import importlib
import json
import re

import pytest
import run_case

from mfm_jax.data.datasets import DataConfig
from mfm_jax.training import config as configs
from mfm_jax.training.benchmark_config import BenchmarkConfig
from mfm_jax.training.classifier import ClassifierConfig
from mfm_jax.training.config import MixtureConfig, RunConfig, from_dict, to_dict
from mfm_jax.training.finetune_config import FinetuneConfig
from mfm_jax.training.steer_config import SteerConfig

NAMES = sorted(
  path.stem
  for path in (run_case.ROOT / "experiments/configs").glob("*.py")
  if path.stem not in ("__init__", "common")
)
# By the first word of the name.
KINDS = {
  "benchmark": BenchmarkConfig,
  "classifier": ClassifierConfig,
  "finetune": FinetuneConfig,
  "steer": SteerConfig,
}
VALID = {"data": {"name": "mixture"}}


@pytest.mark.parametrize("mode", ["", "smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_configuration_goes_through_json_and_back(name, mode):
  shipped = importlib.import_module(f"experiments.configs.{name}").get_config(mode)
  kind = KINDS.get(name.partition("_")[0], RunConfig)
  config = from_dict(kind, shipped.to_dict())
  plain = to_dict(config)
  stored = json.loads(json.dumps(plain))
  assert from_dict(kind, stored) == config
  assert stored == plain, "a resumed run compares what it stored with what it is given"
  assert configs.differences(stored, plain) == []


def test_there_are_configurations_to_test():
  assert {"gmm", "digits", "mnist"} <= set(NAMES)


def test_lists_in_lists_become_tuples_and_compare_equal_after_json():
  mixture = MixtureConfig(weights=(0.5, 0.5), means=((0.0, 1.0), (1.0, 0.0)), variances=(0.1, 0.2))
  config = RunConfig(data=DataConfig(name="mixture"), mixture=mixture)
  stored = json.loads(json.dumps(to_dict(config)))
  assert configs.differences(stored, to_dict(config)) == []
  assert from_dict(RunConfig, stored).mixture == mixture


def test_whole_numbers_serve_as_floats():
  config = from_dict(RunConfig, {**VALID, "ema": [0, 1], "optimizer": {"learning_rate": 1}})
  assert config.ema == (0.0, 1.0)
  assert isinstance(config.optimizer.learning_rate, float)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"stepz": 1}, "unknown config key config.stepz (did you mean steps?)"),
    ({"loss": {"weigting": "l2"}}, "unknown config key config.loss.weigting (did you mean weighting?)"),
    ({"loss": {"qqq": 1}}, "unknown config key config.loss.qqq; known keys: consistency"),
    # These belong to the data and are filled in from there.
    ({"loss": {"null_label": 1}}, "unknown config key config.loss.null_label"),
    ({"draws": {"num_classes": 1}}, "unknown config key config.draws.num_classes"),
    ({"data": {}}, "config.data must have the key name"),
    ({"steps": "3"}, "config.steps must be of type int; got '3'"),
    ({"steps": 2.5}, "config.steps must be of type int; got 2.5"),
    ({"steps": True}, "config.steps must be of type int; got True"),
    ({"steps": None}, "config.steps must be of type int; got None"),
    ({"optimizer": {"learning_rate": True}}, "config.optimizer.learning_rate must be of type float"),
    ({"data": {"name": "mixture", "labelled": 1}}, "config.data.labelled must be of type bool; got 1"),
    ({"teacher": 1}, "config.teacher must be of type str; got 1"),
    ({"ema": 0.9}, "config.ema must be a list; got 0.9"),
    ({"ema": ["0.9"]}, "config.ema must be of type float; got '0.9'"),
    ({"loss": 3}, "config.loss must be a group of keys; got 3"),
    ({"mixture": {"means": [0.0]}}, "config.mixture.means must be a list; got 0.0"),
    ({"steps": 0}, "steps must be at least 1; got 0"),
    ({"eval_every": -1}, "eval_every must be at least 0; got -1"),
    ({"ema": []}, "number of ema decays must be at least 1; got 0"),
    ({"ema": [1.5]}, "ema must lie in [0.0, 1.0]; got 1.5"),
    ({"interpolant": "cubic"}, "interpolant must be one of"),
    ({"loss": {"diagonal": "teacher"}}, "config.teacher must be oracle or a run folder"),
    ({"loss": {"consistency": "eulerian_teacher"}}, "loss.consistency=eulerian_teacher; got ''"),
    ({"data": {"name": "digits"}, "teacher": "oracle"}, "teacher=oracle needs data.name=mixture"),
  ],
)
def test_a_mistake_is_named_with_its_path(changes, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    from_dict(RunConfig, {**VALID, **changes})


def test_a_missing_group_is_named():
  with pytest.raises(ValueError, match="config must have the key data; got steps"):
    from_dict(RunConfig, {"steps": 1})


def test_keys_are_checked_before_values_are_read():
  for key in ("steps", "loss.weighting", "data.path", "ema"):
    configs.check_key(RunConfig, key)
  assert configs.check_key(SteerConfig, "judges[0].preference.weights") is str
  with pytest.raises(ValueError, match=r"config.judges.weigt \(did you mean weight"):
    configs.check_key(SteerConfig, "judges[1].weigt")
  with pytest.raises(ValueError, match=r"config.optimizer.lr; known keys: b1"):
    configs.check_key(RunConfig, "optimizer.lr")
  with pytest.raises(ValueError, match=r"config.optimiser \(did you mean optimizer"):
    configs.check_key(RunConfig, "optimiser.name")


def test_differences_name_path_old_and_new():
  old, new = to_dict(run_case.smoke()), to_dict(run_case.smoke({"loss.offset": 0.5, "seed": 3}))
  assert configs.differences(old, old) == []
  assert configs.differences(old, new) == ["config.loss.offset: 0.01 -> 0.5", "config.seed: 0 -> 3"]
  assert configs.differences({"a": 1}, {"b": {}}, "x") == ["x.a: 1 -> None", "x.b: None -> {}"]


def test_a_mixture_of_unequal_lists_is_refused():
  with pytest.raises(ValueError, match=r"must have one length; got \(1, 2, 1\)"):
    MixtureConfig(weights=(1.0,), means=((0.0,), (1.0,)), variances=(1.0,)).build()
