"""The training loop: train a run in a folder, or go on with it exactly where it stopped."""

import dataclasses
import json
import pathlib
import time
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mfm_jax.data import datasets, pipeline
from mfm_jax.data.datasets import Dataset
from mfm_jax.data.sources import Source
from mfm_jax.training import folder, optimizer, pictures, run, sharding, step
from mfm_jax.training.checkpoint import Checkpoints
from mfm_jax.training.config import RunConfig
from mfm_jax.training.logging import MetricWriter
from mfm_jax.training.state import TrainState, create, params_sha256
from mfm_jax.types import PyTree
from mfm_jax.viz import grids
from mfm_jax.viz.files import write_atomically

EVAL_SEED = 20_000  # of the held-out batches and their draws: the same at every evaluation
Evaluate = Callable[[TrainState], dict[str, float]]


def train(config: RunConfig, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Trains until config.steps; a folder with checkpoints of the same configuration is resumed.

  The final parameters do not depend on interruptions: batches and keys are functions of the step.

  Returns:
    The summary, also written to summary.json: params_sha256, steps, seconds, seconds_compile, the
    held-out losses of the longest average.

  Raises:
    ValueError: a foreign folder or another configuration (nothing is written); a term of the loss that
      is not finite, with the step and the last good checkpoint.
  """
  workdir = pathlib.Path(workdir)
  mesh = sharding.data_mesh()
  sharding.check_batch_size(config.batch_size, mesh)
  mixture = config.mixture.build() if config.data.name == "mixture" else None
  dataset = datasets.load(config.data, mixture)
  info = folder.data_info(dataset)
  folder.check_workdir(workdir, config, info, folder.RUN)
  pieces = run.parts(config, info)
  teacher = run.teacher(config, info)
  marginal = teacher and teacher.marginal
  loss = step.make_loss(pieces.model, pieces.interpolant, pieces.objective, pieces.draws, marginal)
  frozen = teacher and teacher.params
  start = run.start(config, info, pieces.model)

  def evaluation(writer: MetricWriter) -> Evaluate:
    return _Evaluation(
      loss=jax.jit(loss),
      frozen=frozen,
      batches=_held_out(dataset, config),
      painter=_painter(pieces, dataset, config),
      config=config,
      workdir=workdir,
      mesh=mesh,
      writer=writer,
    )

  folder.write_config(workdir, config, info, folder.RUN)
  return fit(
    config,
    workdir,
    mesh=mesh,
    init=start.init,
    given=start.given,
    loss=loss,
    frozen=frozen,
    batches=batches_of(dataset.train, config, config.seed),
    evaluation=evaluation,
    sources={"teacher": teacher.identity if teacher else "", "init": start.identity},
  )


def fit(
  config: Any,
  workdir: pathlib.Path,
  *,
  mesh: Mesh,
  init: Callable[[PyTree], PyTree],
  given: PyTree,
  loss: step.LossFn,
  frozen: PyTree = None,
  batches: Any,
  evaluation: Callable[[MetricWriter], Evaluate],
  sources: dict[str, str],
  limits: Mapping[str, float] = types.MappingProxyType({}),
) -> dict[str, Any]:
  """Trains in a folder whose config.json is written, or goes on there.

  Args:
    config: of the training, with the keys of `RunConfig` that are about steps, optimiser and averages.
    workdir: the run folder.
    mesh: of the devices.
    init, given: init(given) are the parameters before the first step; `given` is an argument, see `LossFn`.
    loss, frozen: see `step.LossFn`.
    batches: of `batches_of`.
    evaluation: writer -> state -> figures, which it writes; those of the last state go into the summary.
    sources: identities of what the training reads beside data, by the key of the configuration that names it.
    limits: of terms of the loss, in their means over a logging interval; beyond them the run stops.

  Returns and raises as `train`.
  """
  optimiser = optimizer.build(config.optimizer, config.steps)
  state = jax.jit(
    lambda given: create(init(given), optimiser, config.ema),
    out_shardings=sharding.replicated(mesh),
  )(given)
  with Checkpoints(workdir / "checkpoints", keep=config.keep_checkpoints, writable=True) as checkpoints:
    restored, window = checkpoints.restore(state), []
    if restored is not None:
      _check_sources(restored.meta, sources, config)
      state = restored.state
      batches.set_state(restored.data)
      window = restored.meta.get("window", [])
    done = int(state.step)
    finished = workdir / "summary.json"
    summary = json.loads(finished.read_text()) if finished.exists() else {"steps": None}
    # A run that was extended and killed has the summary of fewer steps.
    if done >= config.steps and summary["steps"] == done:
      print(f"{workdir} is finished: {done} of {config.steps} steps", flush=True)
      return summary
    if done:
      print(f"resuming {workdir} at step {done} of {config.steps}", flush=True)
    writer = MetricWriter(workdir, resume_step=done, total=config.steps)
    try:
      evaluate = evaluation(writer)
      trainer = _Trainer(
        config=config,
        mesh=mesh,
        writer=writer,
        checkpoints=checkpoints,
        frozen=frozen,
        evaluate=evaluate,
        meta=sources,
        limits=limits,
      )
      train_step = step.make_train_step(loss, optimiser, config.seed)
      state, compile_seconds = trainer(train_step, state, batches, window)
      figures = evaluate(state)
    finally:
      writer.close()
  summary = {
    "params_sha256": params_sha256(jax.device_get(state.params)),
    "steps": int(state.step),
    "seconds": round(writer.seconds, 2),
    "seconds_compile": round(compile_seconds, 2),
    **figures,
  }
  write_atomically(finished, (json.dumps(summary) + "\n").encode())
  return summary


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Trainer:
  """Runs the steps: logs, evaluates and saves at their intervals, stops at a value that is not finite."""

  config: Any  # as `fit` takes it
  mesh: Mesh
  writer: MetricWriter
  checkpoints: Checkpoints
  frozen: PyTree
  evaluate: Evaluate
  meta: dict[str, Any]
  limits: Mapping[str, float]

  def __call__(self, train_step, state: TrainState, batches, window) -> tuple[TrainState, float]:
    """From the state's step to the last: (state, seconds of compilation).

    `window` holds the metrics of the steps since the last logged one, so that the means that are logged
    after resuming are those of an uninterrupted run.
    """
    config, first = self.config, int(state.step)
    if first >= config.steps:
      return state, 0.0
    compiled, seconds = self._compile(train_step, state, batches)
    self.writer.start_steps()
    window, pending = list(window), None
    for now in range(first + 1, config.steps + 1):
      batch = sharding.put_batch(next(batches), self.mesh)
      state, metrics = compiled(state, self.frozen, batch)
      # Fetched one step late, so that the device never waits for the host; at a save at once, so that
      # no parameters are kept that came from a value that is not finite.
      if pending is not None:
        window.append(self._fetch(*pending))
      pending = now, metrics
      last = now == config.steps
      log = now % config.log_every == 0 or last
      save = now % config.checkpoint_every == 0 or last
      if log or save:
        window.append(self._fetch(*pending))
        pending = None
      if log:
        means = {name: np.mean([values[name] for values in window]) for name in window[0]}
        self.writer.write(now, {f"train/{name}": value for name, value in means.items()})
        self.writer.progress(now, means)
        for name, limit in self.limits.items():
          if means[name] > limit:
            self._stop(f"the mean of {name} must be at most {limit:g}; got {means[name]:g}", now)
        window = []
      if config.eval_every and now % config.eval_every == 0 and not last:
        self.evaluate(state)
      if save:
        self.checkpoints.save(state, batches.get_state(), {**self.meta, "window": window})
    self.checkpoints.wait()
    return state, seconds

  def _compile(self, train_step, state, batches):
    start, position = time.monotonic(), batches.get_state()
    batch = sharding.put_batch(next(batches), self.mesh)  # for its shapes
    compiled = step.compile_step(train_step, state, self.frozen, batch, self.mesh)
    batches.set_state(position)
    return compiled, time.monotonic() - start

  def _fetch(self, now, metrics) -> dict[str, float]:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    for name, value in values.items():
      if not np.isfinite(value):
        self._stop(f"every term of the loss must be finite; got {name} = {value}", now)
    return values

  def _stop(self, reason: str, now: int) -> None:
    self.checkpoints.wait()
    good = self.checkpoints.steps()
    where = f"step {good[-1]} in {self.checkpoints.folder}" if good else "none was saved yet"
    raise ValueError(f"{reason} at step {now}; last good checkpoint: {where}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Evaluation:
  """state -> held-out losses of the longest average; writes them and the pictures."""

  loss: step.LossFn
  frozen: PyTree
  batches: list[dict[str, np.ndarray]]
  painter: pictures.Painter
  config: RunConfig
  workdir: pathlib.Path
  mesh: Mesh
  writer: MetricWriter

  def __call__(self, state: TrainState) -> dict[str, float]:
    params, now = state.ema[str(max(self.config.ema))], int(state.step)
    totals = []
    for i, batch in enumerate(self.batches):
      key = jax.random.fold_in(jax.random.key(EVAL_SEED), i)
      # At the last step, so that annealing and warm-up do not change what is compared.
      batch = sharding.put_batch(batch, self.mesh)
      value, terms = self.loss(params, self.frozen, batch, key, self.config.steps)
      totals.append({"loss": float(value), **{name: float(term) for name, term in terms.items()}})
    means = {}
    for name in totals[0] if totals else ():
      means[f"held_out/{name}"] = float(np.mean([total[name] for total in totals]))
    self.writer.write(now, means)
    if jax.process_index() == 0:
      for name, picture in self.painter.pictures(params).items():
        grids.save_png(self.workdir / "samples" / f"{name}_{now:07d}.png", picture)
        self.writer.image(now, f"samples/{name}", picture)
    return means


def batches_of(source: Source, config: Any, seed: int):
  """This process's rows of the batches of config.batch_size; their iterator can be saved and restored."""
  return iter(
    pipeline.batches(
      source,
      batch_size=config.batch_size,
      seed=seed,
      host_index=jax.process_index(),
      host_count=jax.process_count(),
    )
  )


def _held_out(dataset: Dataset, config: RunConfig) -> list[dict[str, np.ndarray]]:
  batches = batches_of(dataset.test, config, EVAL_SEED)
  return [next(batches) for _ in range(config.eval_batches)]


def _painter(pieces: run.Parts, dataset: Dataset, config: RunConfig) -> pictures.Painter:
  return pictures.Painter(
    velocity=pieces.model.velocity,
    interpolant=pieces.interpolant,
    test=dataset.test,
    num_classes=dataset.num_classes,
    image=dataset.image,
    guided=bool(pieces.draws.guidance_scales),
    is_map=config.is_map,
  )


def _check_sources(meta: dict[str, Any], sources: dict[str, str], config: Any) -> None:
  for name, identity in sources.items():
    if meta.get(name, "") != identity:
      raise ValueError(
        f"a run must be resumed with the {name} it was started with; got "
        f"{getattr(config, name)!r} with parameters {identity}, the checkpoint has {meta.get(name, '')}"
      )
