"""Inverse problems on a trained run: posterior samples of held-out images by steering, and how true they are.

Settings are chosen on images of the training split, and coverage is measured on those of the test split.
"""

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks, times
from mfm_jax.data import datasets
from mfm_jax.metrics import calibration
from mfm_jax.rewards import operators
from mfm_jax.rewards.inverse import OBSERVED, InverseProblem, without
from mfm_jax.steering import cost, drifts
from mfm_jax.steering.steer import SAMPLERS, steer
from mfm_jax.training.steered import NotFiniteError
from mfm_jax.training.subject import Subject
from mfm_jax.types import Array, PRNGKey, PyTree
from mfm_jax.viz.files import write_npz
from mfm_jax.viz.inverse import inverse_panel

ALL = "all"  # in place of an operator: all of them pooled


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseConfig:
  """Everything that determines the observations, and how their posteriors are sampled (MFM-GF).

  Attributes:
    operators: each is applied to all images, see `operators.parse`.
    sigma: standard deviation of the observations' noise, in data space.
    split: "test" or "train", of the run's data.
    num: images, evenly spaced in the split; 0 for all of it.
    samples: of each posterior; at least 2 / (1 - level) - 1, such as 19 or 39 for intervals of 90 %.
    draws, jackknife: see `steering.value`.
    sampler, steps, start, power: as `steer_config.SteerConfig`.
    rows: samples in one compiled call, as many observations as fit, at least one; 0: all.
    level, least_std: see `calibration.report`.
    seed: of noise, starts and paths.
  """

  operators: tuple[str, ...] = ("half:right", "half:bottom")
  sigma: float = 0.2
  split: str = "test"
  num: int = 0
  samples: int = 19
  draws: int = 16
  jackknife: int = 1
  sampler: str = "sde"
  steps: int = 32
  start: float = 1e-3
  power: float = 2.0
  rows: int = 1024
  level: float = 0.9
  least_std: float = 0.05
  seed: int = 0

  def __post_init__(self):
    checks.at_least("number of operators", len(self.operators), 1)
    checks.one_of("split", self.split, ("train", "test"))
    checks.one_of("sampler", self.sampler, SAMPLERS)
    for name, least in (("num", 0), ("samples", 2), ("draws", 2), ("steps", 1), ("rows", 0), ("seed", 0)):
      checks.at_least(name, getattr(self, name), least)
    if not 0 < self.start < 1:
      raise ValueError(f"start must lie in (0, 1); got {self.start}")
    if self.jackknife < 1 or self.draws % self.jackknife:
      raise ValueError(f"jackknife must divide draws; got jackknife={self.jackknife}, draws={self.draws}")
    calibration.check_level(self.level, self.samples)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Solved:
  """The posteriors of n images under one operator; arrays in data space."""

  operator: str
  truth: np.ndarray  # (n, H, W, C)
  hidden: np.ndarray  # bool (H, W, C): not seen; all where no pixel is seen by itself
  observed: np.ndarray  # y, (n, ...)
  shown: np.ndarray  # y as images (n, h, w, C), NaN where nothing is seen
  samples: np.ndarray  # (n, S, H, W, C)
  ess: np.ndarray  # (K,), effective draws at each step, mean over all paths
  residual: np.ndarray  # (n,), root mean square of (A x - y) / sigma over the samples
  mean_residual: np.ndarray  # (n,), that of the posterior mean
  seconds: float  # without compilation

  def save(self, path: pathlib.Path) -> None:
    """Writes an .npz of all fields, and of mean and std of the samples, float32."""
    mean, std = (array.astype(np.float32) for array in calibration.moments(self.samples))
    write_npz(path, {**dataclasses.asdict(self), "mean": mean, "std": std})

  @classmethod
  def load(cls, path: pathlib.Path) -> "Solved":
    """What `save` wrote."""
    with np.load(path) as arrays:
      fields = {field.name: arrays[field.name] for field in dataclasses.fields(cls)}
    return cls(**fields | {"operator": str(fields["operator"]), "seconds": float(fields["seconds"])})

  def picture(self, *, rows: int = 6, shown: int = 4):
    """A Figure of `rows` images, evenly spaced among all."""
    chosen = np.linspace(0, len(self.truth) - 1, min(rows, len(self.truth))).round().astype(int)
    return inverse_panel(self.truth[chosen], self.shown[chosen], self.samples[chosen], shown=shown)


def images(subject: Subject, config: InverseConfig) -> tuple[np.ndarray, np.ndarray]:
  """The images of a configuration, (n, H, W, C), and the mean training image, in data space.

  Raises:
    ValueError: a subject without a run of images, more images than the split has.
  """
  run = subject.run
  if run is None or not run.info.image:
    raise ValueError(f"inverse problems need a run of images; got examples of shape {subject.shape}")
  data = datasets.load(run.config.data)
  source = getattr(data, config.split)
  if config.num > len(source):
    raise ValueError(
      f"num must be at most {len(source)}, the size of the {config.split} split; got {config.num}"
    )
  chosen = np.linspace(0, len(source) - 1, config.num or len(source)).round().astype(int)
  train = data.train.take(np.linspace(0, len(data.train) - 1, min(len(data.train), 4096)).astype(int))["x1"]
  chosen, mean = (
    np.asarray(subject.in_data_space(jnp.asarray(x))) for x in (source.take(chosen)["x1"], train.mean(0))
  )
  return chosen, mean


def solve(
  subject: Subject, operator: str, truth: np.ndarray, config: InverseConfig, *, index: int = 0
) -> Solved:
  """Observes each image and samples its posterior by MFM-GF, a block of observations at a time.

  Args:
    subject: a trained map; its label is the null label for the posterior under the whole data law.
    operator: see `operators.parse`.
    truth: (n, H, W, C), in data space.
    config: settings; config.operators is not read.
    index: of the operator among several, so that their noise differs.

  Raises:
    ValueError: a marginal-only run, an operator that does not fit, images of another shape.
    NotFiniteError: a sample that is NaN or infinite.
  """
  if subject.draws is None:
    raise ValueError(f"MFM-GF needs a run trained as a map; got the marginal-only run {subject.source}")
  checks.shape("truth", truth, (None, *subject.shape))
  problem = InverseProblem(operator=operators.parse(operator, subject.shape), sigma=config.sigma)
  key_noise, key_path = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), index))
  observed = np.asarray(problem.observe(key_noise, jnp.asarray(truth)))
  n, count = len(truth), config.samples
  block = min(max((config.rows or n * count) // count, 1), n)
  sample = jax.jit(_sampler(subject, problem, config, block * count))
  sample = sample.lower(subject.params, key_path, observed[:block].repeat(count, axis=0)).compile()
  start, parts, ess = time.monotonic(), [], []
  for first in range(0, n, block):
    # The last block is filled up with observations of the front, whose samples are cut off.
    chosen = np.arange(first, first + block) % n
    x, found = sample(
      subject.params, jax.random.fold_in(key_path, first), observed[chosen].repeat(count, axis=0)
    )
    parts.append(np.asarray(x).reshape(block, count, *truth.shape[1:])[: n - first])
    ess.append(np.asarray(found).reshape(config.steps, block, count)[:, : n - first])
  seconds = time.monotonic() - start
  samples = np.concatenate(parts)
  bad = ~np.isfinite(samples).reshape(n, -1).all(1)
  if bad.any():
    raise NotFiniteError(f"samples must be finite; got others for observation {np.argmax(bad)} of {operator}")

  def residual(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(problem.residual(jnp.asarray(x), jnp.asarray(y)))

  made = problem.operator
  flat = residual(samples.reshape(n * count, *truth.shape[1:]), observed.repeat(count, axis=0))
  return Solved(
    operator=operator,
    truth=truth,
    hidden=~made.mask(subject.shape) if isinstance(made, operators.Inpaint) else np.ones(subject.shape, bool),
    observed=observed,
    shown=made.picture(observed, subject.shape) if isinstance(made, operators.Inpaint) else observed,
    samples=samples,
    ess=np.concatenate(ess, axis=1).mean((1, 2)),
    residual=_rms(flat.reshape(n, -1)),
    mean_residual=_rms(residual(samples.mean(1), observed).reshape(n, -1)),
    seconds=seconds,
  )


def figures(solved: list[Solved], prior_mean: np.ndarray, config: InverseConfig) -> dict[str, float]:
  """Figures of one operator, or of several pooled: they have the same images, whose errors go together.

  Args:
    solved: of `solve`, the same images in the same order.
    prior_mean: (H, W, C), the mean training image.
    config: of `solve`.

  Returns:
    Those of `calibration.report` on the hidden pixels, and
    "observations", "samples": number of observations, and of samples of each.
    "rmse_prior": of the mean training image in place of the posterior's.
    "residual", "mean_residual": root mean square of (A x - y) / sigma over samples x, and of the posterior
      mean. 1 is the truth's; samples of the exact posterior have about 1 or a little less or more.
    "ess": effective draws, mean over steps; "nfe": passes a sample; "seconds" of all, without compilation.
  """
  truth = np.concatenate([one.truth for one in solved])
  hidden = np.concatenate([np.broadcast_to(one.hidden, one.truth.shape) for one in solved])
  samples = np.concatenate([one.samples for one in solved])
  groups = np.concatenate([np.arange(len(one.truth)) for one in solved])
  options: dict[str, Any] = {
    "hidden": hidden,
    "groups": groups,
    "level": config.level,
    "least_std": config.least_std,
  }
  return {
    "observations": len(truth),
    "samples": config.samples,
    **calibration.report(samples, truth, **options),
    "rmse_prior": float(np.sqrt(np.mean(np.square(truth - prior_mean[None])[hidden]))),
    "residual": float(_rms(np.concatenate([one.residual for one in solved])[None])[0]),
    "mean_residual": float(_rms(np.concatenate([one.mean_residual for one in solved])[None])[0]),
    "ess": float(np.mean([one.ess.mean() for one in solved])),
    "nfe": cost.cost("mfm_gf", steps=config.steps, draws=config.draws).nfe,
    "seconds": round(sum(one.seconds for one in solved), 2),
  }


def inverse_problems(
  subject: Subject, config: InverseConfig, known: Mapping[str, Solved] | None = None
) -> Iterator[tuple[str, dict[str, float], list[Solved]]]:
  """All operators of `config`, one after the other, then "all" of them pooled.

  Args:
    subject: as `solve`.
    config: the operators and settings.
    known: posteriors by operator that are not to be sampled again.

  Yields:
    Operator or "all", `figures`, and the posteriors that they are of.

  Raises:
    ValueError: as `images` and `solve`, for every operator before the first is solved.
  """
  truth, prior_mean = images(subject, config)
  for operator in config.operators:
    operators.parse(operator, subject.shape)
  solved: list[Solved] = []
  for index, operator in enumerate(config.operators):
    found = (known or {}).get(operator) or solve(subject, operator, truth, config, index=index)
    solved.append(found)
    yield operator, figures([found], prior_mean, config), [found]
  yield ALL, figures(solved, prior_mean, config), solved


def _sampler(subject: Subject, problem: InverseProblem, config: InverseConfig, rows: int):
  grid = times.grid(config.steps, start=config.start, power=config.power)

  def sample(params: PyTree, key: PRNGKey, observed: Array) -> tuple[Array, Array]:
    guide = drifts.mfm_gf(
      without(subject.velocity(params), OBSERVED),
      subject.interpolant,
      problem,
      {**(subject.cond(rows) or {}), OBSERVED: observed},
      draws=config.draws,
      jackknife=config.jackknife,
      decode=subject.decode,
      marginal=without(subject.marginal(params), OBSERVED),
    )
    key_start, key_path = jax.random.split(key)
    x = jax.random.normal(key_start, (rows, *subject.shape))
    x, info = steer(key_path, x, grid, guide, subject.interpolant, sampler=config.sampler)
    return subject.in_data_space(x), info["aux"]["ess"]

  return sample


def _rms(x: np.ndarray) -> np.ndarray:
  return np.sqrt(np.mean(np.square(x), axis=1))
