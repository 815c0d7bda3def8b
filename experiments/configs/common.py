"""The default configurations as ConfigDicts, and `smoke`, which shrinks any of them."""

from typing import Any

import ml_collections

from mfm_jax.data.datasets import DataConfig
from mfm_jax.models.dit import SIZES
from mfm_jax.rewards.published import PreferenceConfig
from mfm_jax.training.benchmark_config import BenchmarkConfig
from mfm_jax.training.classifier import ClassifierConfig
from mfm_jax.training.config import RunConfig, to_dict
from mfm_jax.training.finetune_config import FinetuneConfig
from mfm_jax.training.reward_config import RewardConfig
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
    if config.model.name == "dit":
      config.model.heads, config.model.dit.encoder_depth = 4, 1
    config.data.train_size, config.data.test_size = 4096, 1024
    config.optimizer.warmup = 2
    config.loss.warmup = min(config.loss.warmup, 2)
    config.draws.anneal_start = min(config.draws.anneal_start, 2)
    config.draws.anneal_end = min(config.draws.anneal_end, 10)
  return config.lock()


def imagenet(size: str, *, batch_size: int, diagonal_power: float) -> ml_collections.ConfigDict:
  """ImageNet-256 latents and the published training (Table 5) of an MFM transformer with patches of 2."""
  config = default("latents")
  data, model, optimizer = config.data, config.model, config.optimizer
  data.shape, data.classes, data.latent_scale = (32, 32, 4), 1000, 0.18215
  model.name, model.precondition, model.patch = "dit", False, 2
  model.width, model.depth, model.heads, model.dit.encoder_depth = SIZES[size]
  model.dtype, model.dit.remat = "bfloat16", "dots"
  config.draws.context_power, config.draws.context_zero_rate = 2.0, 0.1
  config.draws.label_dropout, config.draws.guidance_scales = 0.2, (2.5,)
  config.loss.weighting, config.loss.offset = "adaptive", 0.01
  config.loss.diagonal_power, config.loss.consistency_power = diagonal_power, 1.0
  optimizer.name, optimizer.learning_rate, optimizer.schedule = "radam", 1e-4, "constant"
  optimizer.warmup, optimizer.clip = 2_000, 1.5
  config.steps, config.batch_size, config.ema = 100_000, batch_size, (0.9999,)
  config.log_every, config.eval_every, config.checkpoint_every = 100, 5_000, 5_000
  return config


def from_teacher(config: ml_collections.ConfigDict, run: str, *, built_in: float = 1.0):
  """`config` distilled from, and started at, the flow in the folder `run` (ESD with GLASS, Table 5).

  `built_in`: scale of the guidance in the flow's labelled velocity. The network's options must be the flow's.
  """
  config.teacher = config.init = run
  config.loss.diagonal, config.loss.consistency = "teacher", "eulerian_teacher"
  config.loss.teacher_guidance = built_in
  return config


# Published files of preference rewards in the folder `weights`, each with its tokenizer beside it.
WEIGHTS = {
  "imagereward": "weights/imagereward/ImageReward.pt",
  "hpsv2": "weights/hpsv2/HPS_v2.1_compressed.pt",
  "pickscore": "weights/pickscore/model.safetensors",
  "clip": "weights/clip/model.safetensors",
  "aesthetic": "weights/aesthetic/model.safetensors",
}
HEAD = "weights/aesthetic/sac+logos+ava1-l14-linearMSE.pth"  # of the aesthetic predictor


def preference(name: str, mode: str, **prompts: str) -> dict:
  """A reward of human preference, of its published file; with mode "smoke" tiny and of random weights.

  Args:
    name: of `WEIGHTS`.
    mode: of the configuration.
    prompts: keys of its `preference`, such as prompt.
  """
  own: dict[str, Any] = {"weights": WEIGHTS[name], "head": HEAD if name == "aesthetic" else "", **prompts}
  if _is_smoke(mode):
    own |= {"weights": "random", "head": "random" if own["head"] else "", "architecture": "tiny"}
    own |= {"prompt": "A photo.", "class_names": ""}
  return _tuples(to_dict(RewardConfig(name=name, preference=PreferenceConfig(**own))))


def finish_noise(config: ml_collections.ConfigDict, mode: str) -> ml_collections.ConfigDict:
  """`finish`, and with mode "smoke" small pictures of noise in place of data."""
  if _is_smoke(mode):
    config.data.name, config.data.path = "noise", ""
    config.data.shape = (8, 8, config.data.shape[-1])
  config = finish(config, mode)
  if config.data.name == "noise":
    config.data.train_size, config.data.test_size = 256, 64
  return config


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
    images = config.fid.images
    images.num, images.few, images.split = 32, True, "test"
    images.splits, images.subset = 2, 16
    config.fid.steps, config.fid.times, config.fid.guidance = (1, 2), (0.0, 0.5), 0.0
  return config.lock()


def _is_smoke(mode: str) -> bool:
  if mode not in ("", "smoke"):
    raise ValueError(f"the part of --config after the colon must be smoke or absent; got {mode!r}")
  return mode == "smoke"
