"""The default configurations as ConfigDicts, and `smoke`, which shrinks any of them."""

import ml_collections

from mfm_jax.data.datasets import DataConfig
from mfm_jax.training.benchmark_config import BenchmarkConfig
from mfm_jax.training.classifier import ClassifierConfig
from mfm_jax.training.config import RunConfig, to_dict
from mfm_jax.training.finetune_config import FinetuneConfig
from mfm_jax.training.steer_config import SteerConfig


def default(name: str) -> ml_collections.ConfigDict:
  """Every key of a run with its default, for data.name = `name`; setting an unknown key is an error."""
  return _complete(RunConfig(data=DataConfig(name=name)))


def classifier(name: str) -> ml_collections.ConfigDict:
  """Every key of a classifier of data.name = `name`."""
  return _complete(ClassifierConfig(data=DataConfig(name=name)))


def steer() -> ml_collections.ConfigDict:
  """Every key of a steering experiment."""
  return _complete(SteerConfig())


def finetune(base: str) -> ml_collections.ConfigDict:
  """Every key of a fine-tuning of the run in the folder `base`."""
  return _complete(FinetuneConfig(base=base))


def benchmark(run=None, classifier=None, steer=None, **values) -> ml_collections.ConfigDict:
  """Every key of a benchmark, with the configurations of its parts."""
  config = _complete(BenchmarkConfig(**values))
  for name, part in (("run", run), ("classifier", classifier), ("steer", steer)):
    if part is not None:
      config[name] = ml_collections.ConfigDict(part.to_dict())
  return config


def _complete(config) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(_tuples(to_dict(config)))


def _tuples(value):
  """Lists as tuples, which alone config_flags lets the command line override: --config.ema=0.9,0.99."""
  if isinstance(value, dict):
    return {name: _tuples(item) for name, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def finish(config: ml_collections.ConfigDict, mode: str) -> ml_collections.ConfigDict:
  """`config` itself, or with mode "smoke" the same objective at a size that takes seconds on a CPU."""
  if _is_smoke(mode):
    config.steps, config.batch_size = 20, 16
    config.log_every, config.eval_every, config.checkpoint_every = 5, 10, 10
    config.eval_batches = 2
    config.model.width, config.model.depth = 32, 2
    config.data.train_size, config.data.test_size = 4096, 1024
    config.optimizer.warmup = 2
    config.loss.warmup = min(config.loss.warmup, 2)
    config.draws.anneal_start = min(config.draws.anneal_start, 2)
    config.draws.anneal_end = min(config.draws.anneal_end, 10)
  return config.lock()


def finish_classifier(config: ml_collections.ConfigDict, mode: str) -> ml_collections.ConfigDict:
  """`finish` for a classifier."""
  if _is_smoke(mode):
    config.steps, config.batch_size, config.width, config.log_every = 20, 16, 8, 10
    config.data.train_size, config.data.test_size = 4096, 1024
    config.optimizer.warmup = 2
  return config.lock()


def finish_steer(config: ml_collections.ConfigDict, mode: str) -> ml_collections.ConfigDict:
  """`finish` for a steering experiment."""
  if _is_smoke(mode):
    config.steps, config.num, config.seeds, config.smc.particles = 8, 32, 2, 32
    config.mfm_gf.draws = 4
    config.dps.scales = config.dps.scales[:2]
  return config.lock()


def finish_finetune(config: ml_collections.ConfigDict, mode: str) -> ml_collections.ConfigDict:
  """`finish` for a fine-tuning."""
  if _is_smoke(mode):
    config.steps, config.batch_size, config.eval_num = 20, 16, 64
    config.log_every, config.eval_every, config.checkpoint_every = 5, 10, 10
    config.draws.per_state = min(config.draws.per_state, 2)
    config.optimizer.warmup = 2
  return config.lock()


def finish_benchmark(config: ml_collections.ConfigDict, mode: str) -> ml_collections.ConfigDict:
  """`finish` for a benchmark."""
  if _is_smoke(mode):
    steer, variance, inverse = config.steer, config.variance, config.inverse
    steer.steps, steer.num, steer.seeds, steer.smc.particles = 8, 32, 2, 32
    steer.dps.scales = steer.dps.scales[:2]
    config.draws = (1, 4)
    variance.states, variance.repeats, variance.reference, variance.times = 32, 2, 16, (0.3, 0.7)
    inverse.num, inverse.steps, inverse.draws = 4, 8, 4
  return config.lock()


def _is_smoke(mode: str) -> bool:
  if mode not in ("", "smoke"):
    raise ValueError(f"the part of --config after the colon must be smoke or absent; got {mode!r}")
  return mode == "smoke"
