"""How fast a configuration trains and steers: seconds, images, FLOPs and bytes of compiled programs.

Parameters are small random numbers, and latents are noise: time does not depend on them.
"""

import dataclasses
import json
import pathlib
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.data import datasets, sources
from mfm_jax.data.sources import Source
from mfm_jax.steering import cost
from mfm_jax.training import dry_run, flops, loop, run, sharding, step, subject
from mfm_jax.training.config import RunConfig
from mfm_jax.training.folder import DataInfo
from mfm_jax.training.run import Run
from mfm_jax.training.state import TrainState
from mfm_jax.training.steer_config import RewardConfig, SteerConfig
from mfm_jax.training.steered import Method
from mfm_jax.types import PyTree

# Dense bf16 peak of one device in TFLOP/s, by a part of its name (from data sheets). The first counts:
# v5e, "TPU v5 lite", comes before v5p, "TPU v5".
PEAKS = {
  "H200": 989.0,
  "H100": 989.0,
  "A100": 312.0,
  "TPU v4": 275.0,
  "TPU v5 lite": 197.0,
  "TPU v5e": 197.0,
  "TPU v5": 459.0,
  "TPU v6": 918.0,
}
WARM_UP = 3  # calls before those that are timed


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThroughputConfig:
  """What is timed.

  Attributes:
    repeats: timed calls of each program.
    consistency: forms of the consistency term to train with; () for the configuration's own.
    methods: steering methods, `cost.METHODS` but for those that are not one drift.
    draws: N of each method that draws.
    rows: samples that are steered at once; 0 for the configuration's batch size.
    peak: TFLOP/s of one device; 0 for `PEAKS`, or for no utilisation where the device is not in it.
  """

  repeats: int = 20
  consistency: tuple[str, ...] = ()
  methods: tuple[str, ...] = ()
  draws: tuple[int, ...] = (4, 16)
  rows: int = 0
  peak: float = 0.0

  def __post_init__(self):
    checks.at_least("repeats", self.repeats, 1)
    checks.at_least("rows", self.rows, 0)
    checks.at_least("peak", self.peak, 0)
    for method in self.methods:
      checks.one_of("methods", method, ("base", *cost.GUIDES))
    for n in self.draws:
      checks.at_least("draws", n, 1)


def throughput(config: RunConfig, what: ThroughputConfig) -> dict[str, Any]:
  """Times the train step of a configuration, and steering by its network.

  Returns:
    device, devices, peak_tflops, and `rows`, one for each form of training and method of steering:
    name; seconds_compile; seconds, the median, seconds_low and seconds_high, the quartiles; images a second;
    flops of one call, without what is computed again to save memory; mfu, their share of the peak, or None;
    bytes, of arguments, output and temporaries by the compiler's analysis, and bytes_peak, of the device or,
    on a CPU, of the process so far. Of training also input_images, that the input pipeline makes a second,
    and live_ratio, the step on live batches to the step on one batch; of steering nfe, of one sample, and
    per_nfe, seconds of one pass over those of a forward pass, a backward one counting as two.
  """
  peak = what.peak or peak_of(jax.devices()[0].device_kind)
  rows = []
  for form in what.consistency or (config.loss.consistency,):
    own = dataclasses.replace(config, loss=dataclasses.replace(config.loss, consistency=form))
    rows.append(_finished(_training(own, what), peak))
  if what.methods:
    rows += [_finished(row, peak) for row in _steering(config, what)]
  return {
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "peak_tflops": peak,
    "rows": rows,
  }


def peak_of(kind: str) -> float:
  """The peak in TFLOP/s of a kind of device; 0 for one that is not in `PEAKS`."""
  return next((value for name, value in PEAKS.items() if name in kind), 0.0)


def _training(config: RunConfig, what: ThroughputConfig) -> dict[str, Any]:
  mesh, info = sharding.make_mesh(config.mesh), dry_run.info_of(config)
  sharding.check_batch_size(config.batch_size, mesh, config.accumulate)
  train_step, shapes = dry_run.abstract_step(config, info, mesh)
  batches = loop.batches_of(_source(config, info), config, config.seed, mesh)
  batch = sharding.put_batch(next(batches), mesh)
  start = time.monotonic()
  compiled = step.compile_step(train_step, *shapes[:2], batch, mesh, config.mesh)
  compile_seconds = time.monotonic() - start
  state, frozen = (
    sharding.place(tree, sharding.by_rules(tree, mesh, config.mesh))
    for tree in (_filled_state(shapes[0]), _filled(shapes[1]))
  )

  def cached():
    nonlocal state
    state, metrics = compiled(state, frozen, batch)
    jax.block_until_ready((state, metrics))

  upcoming = batch

  def live():
    nonlocal state, upcoming
    state, metrics = compiled(state, frozen, upcoming)
    upcoming = sharding.put_batch(next(batches), mesh)
    jax.block_until_ready((state, metrics))

  pairs = _times((cached, live), what.repeats)
  start = time.monotonic()
  for _ in range(what.repeats):
    next(batches)
  input_seconds = (time.monotonic() - start) / what.repeats
  return {
    "name": f"train {config.loss.consistency}",
    "rows": config.batch_size,
    "seconds_compile": compile_seconds,
    "times": pairs[0],
    "flops": dry_run.step_flops(config, info),
    "memory": compiled.memory_analysis(),
    "input_images": config.batch_size / jax.process_count() / input_seconds,
    "live_ratio": float(np.median(pairs[1]) / np.median(pairs[0])),
  }


def _steering(config: RunConfig, what: ThroughputConfig) -> list[dict[str, Any]]:
  info = dry_run.info_of(config)
  pieces = run.parts(config, info)
  params = jax.jit(pieces.model.init)(jax.random.key(0))
  known: dict[str, Any] = {"workdir": pathlib.Path(), "config": config, "info": info, "parts": pieces}
  network = Run(**known, step=0, ema="raw", params=params, sha256="")
  steered = dataclasses.replace(subject.from_run(network), decode=None)
  rows = what.rows or config.batch_size
  x, t, cond = jnp.zeros((rows, *info.shape)), jnp.full(rows, 0.5), steered.cond(rows)
  forward = jax.jit(lambda params, x: pieces.model.velocity(params)(t, t, x, t, x, cond))

  def once():
    jax.block_until_ready(forward(params, x))

  forward_flops = flops.count(forward, params, x)
  plain = float(np.median(_times((once,), what.repeats)[0]))
  reward = RewardConfig(name="quadratic", centre=(0.0,) * int(np.prod(info.shape))).build()

  def flat(x, cond):
    return reward(x.reshape(len(x), -1), cond)

  out = []
  for method in what.methods:
    for draws in what.draws if method in cost.DRAWING else (0,):
      steer = SteerConfig(methods=(method,), steps=1, num=rows)
      own = dataclasses.replace(steer.settings(method), draws=draws)
      changed: dict[str, Any] = {} if method == "base" else {method: own}
      steer = dataclasses.replace(steer, **changed)
      compiled = Method(steered, flat, steer, method, num=rows)
      spent = steer.cost(method, draws)

      def call(compiled=compiled):
        compiled(jax.random.key(0))

      times = _times((call,), what.repeats)[0]
      network_calls = spent.forwards + 2 * spent.backwards
      out.append(
        {
          "name": f"steer {method}" + (f" {draws}" if draws else ""),
          "rows": rows,
          "seconds_compile": compiled.seconds_compile,
          "times": times,
          "flops": network_calls * forward_flops,
          "memory": None,
          "nfe": spent.nfe,
          "per_nfe": float(np.median(times) / network_calls / plain),
        }
      )
  return out


def _finished(row: dict[str, Any], peak: float) -> dict[str, Any]:
  times, memory, rows = row.pop("times"), row.pop("memory"), row.pop("rows")
  low, median, high = (float(value) for value in np.quantile(times, [0.25, 0.5, 0.75]))
  speed = row["flops"] / median
  stats = jax.local_devices()[0].memory_stats() or {}
  return {
    **row,
    "seconds": median,
    "seconds_low": low,
    "seconds_high": high,
    "images": rows / median,
    "tflops": speed / 1e12,
    "mfu": speed / (peak * 1e12 * jax.device_count()) if peak else None,
    "bytes": memory
    and memory.argument_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes,
    "bytes_peak": stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
  }


def compare(ours: dict[str, Any], path: str | pathlib.Path) -> list[dict[str, Any]]:
  """The rows of `throughput` beside those of an earlier one: ratios of theirs to ours, by name.

  Raises:
    ValueError: a file that is not the JSON of `throughput`.
  """
  try:
    theirs = {row["name"]: row for row in json.loads(pathlib.Path(path).read_text())["rows"]}
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise ValueError(f"--compare must name the JSON of a throughput; got {path}: {error}") from None
  return [
    {"name": row["name"], "speed_up": theirs[row["name"]]["seconds"] / row["seconds"]}
    for row in ours["rows"]
    if row["name"] in theirs
  ]


def _times(calls: Sequence[Callable[[], None]], repeats: int) -> list[list[float]]:
  """Seconds of each call, taken in turn, so that what else the machine does hits all alike."""
  for call in calls:
    for _ in range(WARM_UP):
      call()
  out: list[list[float]] = [[] for _ in calls]
  for _ in range(repeats):
    for call, times in zip(calls, out, strict=True):
      start = time.monotonic()
      call()
      times.append(time.monotonic() - start)
  return out


def _filled(tree: PyTree) -> PyTree:
  """Small random arrays in these shapes; zeros for what counts."""
  rng = np.random.default_rng(0)

  def fill(x):
    if jnp.issubdtype(x.dtype, jnp.floating):
      return (0.02 * rng.standard_normal(x.shape, np.float32)).astype(x.dtype)
    return np.zeros(x.shape, x.dtype)

  return jax.tree.map(fill, tree)


def _filled_state(state: TrainState) -> TrainState:
  """As `_filled`, with an optimiser at its start: a negative second moment would make all parameters NaN."""
  return _filled(state)._replace(
    opt_state=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state.opt_state)
  )


def _source(config: RunConfig, info: DataInfo) -> Source:
  """The training data; noise for latents, which need not be here."""
  if config.data.shape:
    return sources.noise(info.shape, 4096, 0, num_classes=info.num_classes)
  mixture = config.mixture.build() if config.data.name == "mixture" else None
  return datasets.load(config.data, mixture).train
