"""The training loop: train a run in a folder, or go on with it exactly where it stopped."""

import contextlib
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
from mfm_jax.training import (
  averages,
  decoding,
  distributed,
  folder,
  optimizer,
  pictures,
  posthoc,
  run,
  sharding,
  step,
)
from mfm_jax.training.checkpoint import Checkpoints, SaveError
from mfm_jax.training.config import RunConfig
from mfm_jax.training.interruption import Interruption
from mfm_jax.training.logging import MetricWriter
from mfm_jax.training.state import TrainState, create, params_sha256
from mfm_jax.types import Array, Decode, PyTree
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
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch_size(config.batch_size, mesh, config.accumulate)
  mixture = config.mixture.build() if config.data.name == "mixture" else None
  dataset = datasets.load(config.data, mixture)
  info = folder.data_info(dataset)
  folder.check_workdir(workdir, config, info, folder.RUN)
  decode = decoding.decoder(decoding.read_vae(config.decoder), info) if config.decoder else None
  pieces = run.parts(config, info)
  teacher = run.teacher(config, info)
  marginal = None if teacher is None else teacher.marginal
  loss = step.make_loss(pieces.model, pieces.interpolant, pieces.objective, pieces.draws, marginal)
  frozen = None if teacher is None else teacher.params
  start = run.start(config, info, pieces.model)

  def evaluation(writer: MetricWriter, frozen: PyTree) -> Evaluate:
    return _Evaluation(
      loss=jax.jit(
        lambda params, frozen, *rest: loss(sharding.whole(params, mesh), sharding.whole(frozen, mesh), *rest)
      ),
      frozen=frozen,
      batches=_held_out(dataset, config, mesh),
      painter=_painter(pieces, dataset, config, decode),
      config=config,
      workdir=workdir,
      mesh=mesh,
      writer=writer,
    )

  distributed.on_primary(lambda: folder.write_config(workdir, config, info, folder.RUN))
  return fit(
    config,
    workdir,
    mesh=mesh,
    init=start.init,
    given=start.given,
    loss=loss,
    frozen=frozen,
    batches=batches_of(dataset.train, config, config.seed, mesh),
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
  loss: step.Loss,
  frozen: PyTree = None,
  batches: Any,
  evaluation: Callable[[MetricWriter, PyTree], Evaluate],
  sources: dict[str, str],
  limits: Mapping[str, float] = types.MappingProxyType({}),
) -> dict[str, Any]:
  """Trains in a folder whose config.json is written, or goes on there.

  Args:
    config: of the training, with the keys of `RunConfig` that are about steps, optimiser and averages.
    workdir: the run folder.
    mesh: of the devices.
    init, given: init(given) are the parameters before the first step; `given` is an argument, see `Loss`.
    loss, frozen: see `step.Loss`.
    batches: of `batches_of`.
    evaluation: (writer, frozen on the mesh) -> state -> figures, which it writes; those of the last state go
      into the summary.
    sources: identities of what the training reads beside data, by the key of the configuration that names it.
    limits: of terms of the loss, in their means over a logging interval; beyond them the run stops.

  Returns and raises as `train`.
  """
  optimiser = optimizer.build(config.optimizer, config.steps)

  def fresh(given):
    return create(init(given), optimiser, averages.names(config))

  shapes = jax.eval_shape(fresh, given)
  places = sharding.by_rules(shapes, mesh, config.mesh)
  how = {"keep": config.keep_checkpoints, "keep_every": config.keep_every}
  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", **how, writable=True))
    stack.enter_context(checkpoints.named())
    interruption = stack.enter_context(Interruption())
    kept = None
    if config.ema_every:
      of_averages = Checkpoints(workdir / posthoc.FOLDER, keep=None, writable=True, beside=checkpoints)
      kept = stack.enter_context(of_averages)
    like = jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
    )
    restored, meta = checkpoints.restore(like), {}
    if restored is None:
      given_places = sharding.by_rules(given, mesh, config.mesh)
      state = jax.jit(fresh, out_shardings=places)(sharding.place(given, given_places))
    else:
      state, meta = restored.state, restored.meta
      _check_sources(meta, sources, config)
      batches.set_state(restored.data)
    done = int(state.step)
    finished = workdir / "summary.json"
    summary = json.loads(finished.read_text()) if finished.exists() else {"steps": None}
    # A run that was extended and killed has the summary of fewer steps.
    if distributed.agreed(done >= config.steps and summary["steps"] == done):
      if distributed.is_primary():
        print(f"{workdir} is finished: {done} of {config.steps} steps", flush=True)
      return summary
    if kept:
      kept.forget_after(done)
    if done and distributed.is_primary():
      print(f"resuming {workdir} at step {done} of {config.steps}", flush=True)
    writer = MetricWriter(workdir, resume_step=done, total=config.steps)
    try:
      frozen = sharding.place(frozen, sharding.by_rules(frozen, mesh, config.mesh))
      evaluate = evaluation(writer, frozen)
      trainer = _Trainer(
        config=config,
        mesh=mesh,
        writer=writer,
        checkpoints=checkpoints,
        kept=kept,
        frozen=frozen,
        evaluate=evaluate,
        meta=sources,
        limits=limits,
        interruption=interruption,
        window=meta.get("window", []),
        skipped=meta.get("skipped", 0),
      )
      train_step = step.make_train_step(loss, optimiser, config.seed, accumulate=config.accumulate, mesh=mesh)
      state, compile_seconds = trainer(train_step, state, batches)
      figures = evaluate(state)
    finally:
      writer.close()
  summary = {
    "params_sha256": params_sha256(distributed.to_host(state.params)),
    "steps": int(state.step),
    "seconds": round(writer.seconds, 2),
    "seconds_compile": round(compile_seconds, 2),
    **figures,
  }
  content = (json.dumps(summary) + "\n").encode()
  distributed.on_primary(lambda: write_atomically(finished, content))
  return summary


@dataclasses.dataclass(kw_only=True)
class _Trainer:
  """Runs the steps: logs, evaluates and saves at their intervals, stops at values that are not finite.

  Attributes:
    window: metrics of the steps since the last logged one, so that the means that are logged after resuming
      are those of an uninterrupted run.
    skipped: steps in a row, now.
  """

  config: Any  # as `fit` takes it
  mesh: Mesh
  writer: MetricWriter
  checkpoints: Checkpoints
  kept: Checkpoints | None  # of power averages
  frozen: PyTree
  evaluate: Evaluate
  meta: dict[str, Any]
  limits: Mapping[str, float]
  interruption: Interruption
  window: list[dict[str, float | None]]
  skipped: int

  def __call__(self, train_step, state: TrainState, batches) -> tuple[TrainState, float]:
    """From the state's step to the last: (state, seconds of compilation)."""
    config, first = self.config, int(state.step)
    if first:
      self._keep(state, first)  # a process killed while it saved may have left the checkpoint alone
    if first >= config.steps:
      self._wait()
      return state, 0.0
    if first and config.eval_every and first % config.eval_every == 0:
      self.evaluate(state)  # which comes after the save; what it wrote then is not written twice
    batch, position = self._next(batches)
    start = time.monotonic()
    compiled = step.compile_step(train_step, state, self.frozen, batch, self.mesh, config.mesh)
    seconds = time.monotonic() - start
    self.writer.start_steps()
    pending = None
    for now in range(first + 1, config.steps + 1):
      last = now == config.steps
      state, metrics = compiled(state, self.frozen, batch)
      after = position  # of the data, when this step is done
      if not last:
        batch, position = self._next(batches)  # on its way to the device while the step runs
      # Fetched one step late, so that the device never waits for the host; at a save at once, so that
      # no parameters are kept that came from a value that is not finite.
      if pending is not None:
        self.window.append(self._fetch(*pending))
      pending = now, metrics
      leave = self.interruption.reached(now) and not last
      log = now % config.log_every == 0 or last
      save = now % config.checkpoint_every == 0 or last or leave
      if log or save:
        self.window.append(self._fetch(*pending))
        pending = None
      if log:
        means = _means(self.window)
        self.writer.write(now, {f"train/{name}": value for name, value in means.items()})
        self.writer.progress(now, means)
        self.checkpoints.check()
        for name, limit in self.limits.items():
          if means.get(name, 0.0) > limit:
            first = next(
              i for i, values in enumerate(self.window, now + 1 - len(self.window)) if values[name]
            )
            got = f"{means[name]:g} (first at step {first})"
            self._stop(f"the mean of {name} must be at most {limit:g}; got {got}", now)
        self.window = []
      if save:  # before the evaluation, which may take long, or fail
        self._save(state, after)
      if leave:  # there may be little time
        self.checkpoints.wait()
      self._keep(state, now)
      if leave:
        self._wait()
        self.interruption.leave(f"saved {self.checkpoints.last_good}; the same command goes on")
      if config.eval_every and now % config.eval_every == 0 and not last:
        self.evaluate(state)
    self._wait()
    return state, seconds

  def _save(self, state: TrainState, position: dict[str, Any]) -> None:
    self.checkpoints.save(state, position, {**self.meta, "window": self.window, "skipped": self.skipped})

  def _keep(self, state: TrainState, now: int) -> None:
    if self.kept and (now % self.config.ema_every == 0 or now >= self.config.steps):
      posthoc.keep(self.kept, state)

  def _wait(self) -> None:
    self.checkpoints.wait()
    if self.kept:
      self.kept.wait()

  def _next(self, batches) -> tuple[PyTree, dict[str, Any]]:
    """The next batch on the mesh, and the position of the data after it."""
    batch = sharding.put_batch(next(batches), self.mesh)
    return batch, batches.get_state()

  def _fetch(self, now, metrics) -> dict[str, float | None]:
    """The figures of a step; those that are not finite, of a step that was skipped, are None."""
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    broken = [name for name, value in values.items() if not np.isfinite(value)]
    self.skipped = self.skipped + 1 if values["skipped"] else 0
    if self.skipped > self.config.skip_not_finite:
      name = broken[0]
      self._stop(f"every term of the loss must be finite; got {name} = {values[name]}", now)
    return {name: None if name in broken else value for name, value in values.items()}

  def _stop(self, reason: str, now: int) -> None:
    with contextlib.suppress(SaveError):  # the reason to stop matters more
      self.checkpoints.wait()
    raise ValueError(f"{reason} at step {now}; last good checkpoint: {self.checkpoints.last_good}")


def _means(window: list[dict[str, float | None]]) -> dict[str, float]:
  """The mean of each figure over the steps that have it; "skipped", where it is not 0, is their number."""
  means = {}
  for name in window[-1]:
    found = [value for values in window if (value := values.get(name)) is not None]
    if found:
      means[name] = float(np.mean(found))
  skipped = means.pop("skipped", 0.0) * len(window)
  return {**means, "skipped": skipped} if skipped else means


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Evaluation:
  """state -> held-out losses of the longest average; writes them and the pictures."""

  loss: Callable[..., tuple[Array, dict[str, Array]]]
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
    params = distributed.to_host(params) if jax.process_count() > 1 else params
    if distributed.is_primary():
      for name, picture in self.painter.pictures(params).items():
        grids.save_png(self.workdir / "samples" / f"{name}_{now:07d}.png", picture)
        self.writer.image(now, f"samples/{name}", picture)
    return means


def batches_of(source: Source, config: Any, seed: int, mesh: Mesh):
  """This process's rows of the batches of config.batch_size; their iterator can be saved and restored."""
  rows = sharding.rows_of_process(config.batch_size, mesh)
  return iter(pipeline.batches(source, batch_size=config.batch_size, seed=seed, rows=rows))


def _held_out(dataset: Dataset, config: RunConfig, mesh: Mesh) -> list[dict[str, np.ndarray]]:
  batches = batches_of(dataset.test, config, EVAL_SEED, mesh)
  return [next(batches) for _ in range(config.eval_batches)]


def _painter(
  pieces: run.Parts, dataset: Dataset, config: RunConfig, decode: Decode | None
) -> pictures.Painter:
  return pictures.Painter(
    velocity=pieces.model.velocity,
    interpolant=pieces.interpolant,
    test=dataset.test,
    num_classes=dataset.num_classes,
    image=dataset.image,
    decode=decode,
    guided=bool(pieces.draws.guidance_scales),
    is_map=config.is_map,
    mixture=config.mixture.build() if config.data.name == "mixture" else None,
  )


def _check_sources(meta: dict[str, Any], sources: dict[str, str], config: Any) -> None:
  for name, identity in sources.items():
    if meta.get(name, "") != identity:
      raise ValueError(
        f"a run must be resumed with the {name} it was started with; got "
        f"{getattr(config, name)!r} with parameters {identity}, the checkpoint has {meta.get(name, '')}"
      )
