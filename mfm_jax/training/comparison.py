"""Steering methods side by side on one subject: seeds, tuned scales, cost, and what tells them apart."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from mfm_jax import oracles
from mfm_jax.data import datasets
from mfm_jax.metrics import classes, distances
from mfm_jax.metrics.steering import diversity, pmf_l2
from mfm_jax.oracles import GaussianMixture
from mfm_jax.rewards.likelihoods import GaussianLikelihood
from mfm_jax.steering import cost
from mfm_jax.training.steer_config import HELD_OUT, SteerConfig
from mfm_jax.training.steered import Method, NotFiniteError, Outcome, Subject
from mfm_jax.types import Reward

REFERENCE = 2 * HELD_OUT  # added to a seed: of the base samples that all methods are compared with
Figures = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Assessor:
  """What is measured on samples beside their reward.

  Attributes:
    tilt: the exact law p_1 exp(r), where it is known.
    judge: a classifier that the reward does not know, and the class weights to be reached.
    weights: these, (num_classes,), normalised.
    decode: model space -> data space, in which distances are taken.
  """

  tilt: GaussianMixture | None = None
  judge: classes.Judge | None = None
  weights: np.ndarray | None = None
  decode: Callable | None = None

  @property
  def objective(self) -> str:
    """The figure that the comparison is about; less is better, but for "reward"."""
    return "sw2" if self.tilt is not None else "class_l2" if self.weights is not None else "reward"

  def __call__(self, x1: np.ndarray, base: np.ndarray, seed: int) -> Figures:
    """Figures of samples (num, ...), beside as many of the base model."""
    out = {}
    if self.tilt is not None:
      exact = self.exact(len(x1), seed)
      out |= {"sw2": distances.sliced_w2(x1, exact), "mmd2": distances.mmd_squared(x1, exact)}
    groups = None
    if self.judge is not None:
      groups = self.judge.predict(x1)
      if self.weights is not None:
        out["class_l2"] = pmf_l2(classes.class_frequencies(groups, len(self.weights)), self.weights)
    x, base = (np.asarray(array if self.decode is None else self.decode(array)) for array in (x1, base))
    return {
      **out,
      "diversity": diversity(x, groups),
      "distance_to_base": distances.energy_distance(x, base),
    }

  def exact(self, num: int, seed: int) -> np.ndarray:
    """Exact samples of the tilt."""
    return np.asarray(oracles.sample(jax.random.fold_in(jax.random.key(seed), 1), self.tilt, num))


def assessor(subject: Subject, config: SteerConfig, reward: Reward) -> Assessor:
  """What can be measured for this subject and reward.

  The exact tilt of a mixture by a Gaussian likelihood; for labelled images a judge that is fitted on the
  training split, and the class weights of a single class reward of weight 1.
  """
  if subject.mixture is not None and isinstance(reward, GaussianLikelihood):
    return Assessor(tilt=oracles.tilt(subject.mixture, reward.matrix, reward.observed, reward.sigma)[0])
  run = subject.run
  if run is None or not (run.info.image and run.info.num_classes):
    return Assessor(decode=subject.decode)
  judge = classes.judge_of(datasets.load(run.config.data).train)
  return Assessor(judge=judge, weights=target_weights(config), decode=subject.decode)


def target_weights(config: SteerConfig) -> np.ndarray | None:
  """The class proportions of a single class reward of weight 1; None for other rewards."""
  reward = config.reward
  if reward.name != "classes" or reward.weight != 1.0 or config.more_rewards:
    return None
  return np.asarray(reward.classes) / np.sum(reward.classes)


def compare(
  subject: Subject,
  reward: Reward,
  config: SteerConfig,
  assess: Assessor,
  *,
  keep: bool = False,
) -> Iterator[tuple[dict[str, Any], Outcome]]:
  """Runs config.methods for config.seeds seeds, one after the other, and says so line by line.

  Args:
    subject, reward, config, assess: what is compared, and by what.
    keep: also keep every state of the first seed's paths.

  Yields:
    For each method, when it is done, its row: name, draws, groups of the jackknife, scale, effective draws
    a step, the mean of every figure over the seeds and its standard error (`<figure>_se`, None for one
    seed), the cost of a sample, seconds a seed without compilation; and the outcome of the first seed.
  """
  seeds = [config.seed + i for i in range(config.seeds)]
  base = Method(subject, reward, config, "base", num=config.num, keep=keep)
  reference = {seed: base(jax.random.key(REFERENCE + seed)).x1 for seed in seeds}
  for name in config.methods:
    spent = cost.cost(name, steps=config.steps, draws=config.settings(name).draws)
    print(f"{name}: {config.seeds} x {config.num} samples, {spent.nfe:,} passes each", flush=True)
    method = base if name == "base" else Method(subject, reward, config, name, num=config.num, keep=keep)
    scale = _tuned(method, assess, reference[seeds[0]])
    figures, seconds, first = [], [], None
    for seed in seeds:
      outcome = method(jax.random.key(seed), scale)
      figures.append({"reward": float(outcome.reward.mean()), **assess(outcome.x1, reference[seed], seed)})
      seconds.append(outcome.seconds)
      first = first or outcome
      shown = f"{assess.objective} {figures[-1][assess.objective]:.4g}"
      print(f"{name}: seed {seed}, {shown}, {outcome.seconds:.1f} s", flush=True)
    by_draws = "ess" in first.found
    row = {
      "method": name,
      "draws": method.settings.draws,
      "jackknife": method.settings.groups if by_draws else None,
      "scale": scale,
      "ess": float(first.found["ess"].mean()) if by_draws else None,
      **_over_seeds(figures),
      **_cost(spent),
      "seconds": round(float(np.mean(seconds)), 3),
      "seconds_compile": round(method.seconds_compile, 2),
    }
    yield row, first


def floor(assess: Assessor, config: SteerConfig) -> Figures | None:
  """Figures of exact samples of the tilt against others, mean over the seeds; None where it is not known."""
  if assess.tilt is None:
    return None
  rows = []
  for seed in range(config.seed, config.seed + config.seeds):
    x, y = assess.exact(config.num, HELD_OUT + seed), assess.exact(config.num, seed)
    rows.append({"sw2": distances.sliced_w2(x, y), "mmd2": distances.mmd_squared(x, y)})
  return _over_seeds(rows)


def _tuned(method: Method, assess: Assessor, base: np.ndarray) -> float:
  """The best of the method's scales on the held-out seed.

  Raises:
    ValueError: none of them gives finite samples.
  """
  scales = method.settings.scales
  if len(scales) == 1:
    return scales[0]
  found, mistake = {}, None
  for scale in scales:
    try:
      outcome = method(jax.random.key(HELD_OUT), scale)
    except NotFiniteError as error:  # a scale too large for the method drives its samples to infinity
      print(f"{method.name}: scale {scale:g} is left out: {error}", flush=True)
      mistake = error
      continue
    figures = {"reward": float(outcome.reward.mean()), **assess(outcome.x1, base, HELD_OUT)}
    found[scale] = figures[assess.objective]
  if not found:
    raise mistake
  best = (max if assess.objective == "reward" else min)(found, key=found.get)
  grid = ", ".join(f"{scale:g}: {found.get(scale, np.nan):.4g}" for scale in scales)
  print(
    f"{method.name}: scale {best:g}, the best {assess.objective} on a held-out seed of {grid}", flush=True
  )
  return best


def _over_seeds(rows: list[Figures]) -> dict[str, float | None]:
  out = {}
  for name in rows[0]:
    values = np.array([row[name] for row in rows])
    mean, known = float(values.mean()), bool(np.isfinite(values).all())
    out[name] = mean if known else None  # such as the diversity of too few samples of a class
    many = known and len(values) > 1
    out[f"{name}_se"] = float(values.std(ddof=1) / np.sqrt(len(values))) if many else None
  return out


def _cost(spent: cost.Cost) -> dict[str, int]:
  return {
    "nfe": spent.nfe,
    "forwards": spent.forwards,
    "backwards": spent.backwards,
    "decodes": spent.decodes,
    "reward_calls": spent.reward_calls,
  }
