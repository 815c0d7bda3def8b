"""A classifier of clean data, for rewards, trained on the training split. It never judges what it steers."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mfm_jax import checks
from mfm_jax.data import datasets, pipeline
from mfm_jax.data.datasets import DataConfig
from mfm_jax.data.sources import to_pixels
from mfm_jax.models.classifier import build_classifier
from mfm_jax.training import averages, folder, optimizer
from mfm_jax.training.checkpoint import Checkpoints
from mfm_jax.training.config import MixtureConfig
from mfm_jax.training.folder import DataInfo
from mfm_jax.training.logging import MetricWriter
from mfm_jax.training.optimizer import OptimizerConfig
from mfm_jax.training.state import TrainState, create, params_sha256
from mfm_jax.types import Array, Decode
from mfm_jax.viz.files import write_atomically

EMA = "0.99"  # decay of the average that is kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
  """Everything that determines a classifier."""

  data: DataConfig
  mixture: MixtureConfig = dataclasses.field(default_factory=MixtureConfig)
  optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
  width: int = 32  # channels of the first convolution, a quarter of a hidden layer
  steps: int = 1_000
  batch_size: int = 128
  noise: float = 0.1  # largest standard deviation, in data space, of the noise on a training example
  label_smoothing: float = 0.0
  log_every: int = 100
  seed: int = 0

  def __post_init__(self):
    for name in ("width", "steps", "batch_size", "log_every"):
      checks.at_least(name, getattr(self, name), 1)
    checks.at_least("noise", self.noise, 0)
    checks.in_interval("label_smoothing", self.label_smoothing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
  """A trained classifier: `log_probs` takes data space, (B, ...) -> (B, num_classes), float32."""

  workdir: pathlib.Path
  info: DataInfo
  log_probs: Callable[[Array], Array]
  sha256: str


def decode_for(info: DataInfo) -> Decode | None:
  """Model space -> data space: pixels for images; None for vectors, where they are the same."""
  return to_pixels if info.image else None


def train_classifier(config: ClassifierConfig, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Trains on the training split; a finished folder of the same configuration is left as it is.

  It takes seconds to minutes, so an interrupted training starts anew.

  Returns:
    The summary, also in summary.json: params_sha256, steps, seconds, accuracy and log_loss on the test split.

  Raises:
    ValueError: unlabelled data, a foreign folder or another configuration (nothing is written), a loss
      that is not finite.
  """
  workdir = pathlib.Path(workdir)
  mixture = config.mixture.build() if config.data.name == "mixture" else None
  dataset = datasets.load(config.data, mixture)
  if dataset.num_classes < 2:
    raise ValueError(f"a classifier needs labelled data; got {config.data.name} without labels")
  info = folder.data_info(dataset)
  folder.check_workdir(workdir, config, info, folder.CLASSIFIER)
  finished = workdir / "summary.json"
  if finished.exists():
    print(f"{workdir} is finished", flush=True)
    return json.loads(finished.read_text())
  (init, log_probs), decode = _network(config, info), decode_for(info)
  optimiser = optimizer.build(config.optimizer, config.steps)

  @jax.jit
  def step(state: TrainState, batch: dict[str, Array]):
    key_size, key_noise = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step))
    x = batch["x1"] if decode is None else decode(batch["x1"])
    size = config.noise * jax.random.uniform(key_size, (x.shape[0],) + (1,) * (x.ndim - 1))
    x = x + size * jax.random.normal(key_noise, x.shape)
    target = optax.smooth_labels(jax.nn.one_hot(batch["label"], info.num_classes), config.label_smoothing)

    def loss(params):
      return -(target * log_probs(params, x)).sum(1).mean()

    value, grads = jax.value_and_grad(loss)(state.params)
    updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = averages.update(state.ema[EMA], params, EMA, state.step)
    return TrainState(state.step + 1, params, opt_state, {EMA: ema}), value

  state = create(init(jax.random.key(config.seed)), optimiser, (EMA,))
  batches = pipeline.batches(dataset.train, batch_size=config.batch_size, seed=config.seed)
  folder.write_config(workdir, config, info, folder.CLASSIFIER)
  writer = MetricWriter(workdir, resume_step=0, total=config.steps)
  try:
    for now in range(1, config.steps + 1):
      state, value = step(state, next(batches))
      if now % config.log_every == 0 or now == config.steps:
        if not np.isfinite(value):
          raise ValueError(f"the loss of a classifier must be finite; got {value} at step {now}")
        writer.write(now, {"train/loss": float(value)})
        writer.progress(now, {"loss": float(value)})
    with Checkpoints(workdir / "checkpoints", keep=1, writable=True) as checkpoints:
      checkpoints.save(state, batches.get_state(), {})
  finally:
    writer.close()
  summary = {
    "params_sha256": params_sha256(jax.device_get(state.ema[EMA])),
    "steps": config.steps,
    "seconds": round(writer.seconds, 2),
    **_test(lambda x: log_probs(state.ema[EMA], x), dataset.test, decode),
  }
  write_atomically(finished, (json.dumps(summary) + "\n").encode())
  return summary


def load_classifier(workdir: str | pathlib.Path) -> Classifier:
  """The trained classifier of a folder, at the average of its parameters.

  Raises:
    ValueError: no such folder, one of another kind, or one whose training did not finish.
  """
  workdir = pathlib.Path(workdir)
  config, info = folder.read(workdir, ClassifierConfig, folder.CLASSIFIER)
  init, log_probs = _network(config, info)
  fresh = create(init(jax.random.key(0)), optimizer.build(config.optimizer, config.steps), (EMA,))
  with Checkpoints(workdir / "checkpoints", keep=1) as checkpoints:
    restored = checkpoints.restore(fresh)
  if restored is None:
    raise ValueError(f"workdir must hold a finished classifier; got none in {workdir}")
  params = jax.device_get(restored.state.ema[EMA])  # of no device, so that it runs on any

  def of_data(x: Array) -> Array:
    checks.shape(f"x of the classifier {workdir}", x, (None, *info.shape))
    return log_probs(params, x)

  return Classifier(
    workdir=workdir,
    info=info,
    log_probs=of_data,
    sha256=params_sha256(params),
  )


def _network(config: ClassifierConfig, info: DataInfo):
  return build_classifier(shape=info.shape, num_classes=info.num_classes, width=config.width)


def _test(log_probs: Callable[[Array], Array], test, decode, batch: int = 1024) -> dict[str, float]:
  """Accuracy and mean -log p of the true class over a split."""
  right, total = 0, 0.0
  log_probs = jax.jit(log_probs)
  for start in range(0, len(test), batch):
    part = test.take(np.arange(start, min(start + batch, len(test))))
    x = jnp.asarray(part["x1"])
    table = np.asarray(log_probs(x if decode is None else decode(x)))
    right += int((table.argmax(1) == part["label"]).sum())
    total -= float(table[np.arange(len(table)), part["label"]].sum())
  return {"accuracy": right / len(test), "log_loss": total / len(test)}
