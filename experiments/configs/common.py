"""The default configuration as a ConfigDict, and `smoke`, which shrinks any of them."""

import ml_collections

from mfm_jax.data.datasets import DataConfig
from mfm_jax.training.config import RunConfig, to_dict


def default(name: str) -> ml_collections.ConfigDict:
  """Every key of a run with its default, for data.name = `name`; setting an unknown key is an error."""
  return ml_collections.ConfigDict(_tuples(to_dict(RunConfig(data=DataConfig(name=name)))))


def _tuples(value):
  """Lists as tuples, which alone config_flags lets the command line override: --config.ema=0.9,0.99."""
  if isinstance(value, dict):
    return {name: _tuples(item) for name, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def finish(config: ml_collections.ConfigDict, mode: str) -> ml_collections.ConfigDict:
  """`config` itself, or with mode "smoke" the same objective at a size that takes seconds on a CPU."""
  if mode not in ("", "smoke"):
    raise ValueError(f"the part of --config after the colon must be smoke or absent; got {mode!r}")
  if mode == "smoke":
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
