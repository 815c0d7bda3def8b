"""Steering methods side by side on one subject: seeds, tuned scales, cost, and what tells them apart."""

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mfm_jax import oracles
from mfm_jax.data import datasets
from mfm_jax.metrics import classes, distances
from mfm_jax.metrics.steering import diversity, pmf_l2
from mfm_jax.oracles import GaussianMixture
from mfm_jax.rewards import callback
from mfm_jax.rewards.likelihoods import GaussianLikelihood
from mfm_jax.steering import cost
from mfm_jax.training.decoding import Blocks
from mfm_jax.training.steer_config import HELD_OUT, MethodConfig, SteerConfig
from mfm_jax.training.steered import Method, NotFiniteError, Outcome
from mfm_jax.training.subject import Subject, check_reward
from mfm_jax.types import Array, Cond, Reward

REFERENCE = 2 * HELD_OUT  # added to a seed: of the base samples that all methods are compared with
Figures = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Assessor:
  """What is measured on samples beside their reward.

  Attributes:
    tilt: the exact law p_1 exp(r), where it is known.
    log_z: log E[exp r], likewise.
    judge: a classifier that the reward does not know, and the class weights to be reached.
    weights: these, (num_classes,), normalised; None where the samples' law has no known proportions.
    favoured: weights of the classes in the reward, (num_classes,), normalised, whatever else is in it.
    decode: model space -> data space, in which distances are taken.
    scores: (x1 (n, ...), cond) -> the score (n,) of each other reward that judges, by name; None without.
  """

  tilt: GaussianMixture | None = None
  log_z: float | None = None
  judge: classes.Judge | None = None
  weights: np.ndarray | None = None
  favoured: np.ndarray | None = None
  decode: Callable | None = None
  scores: Callable[[np.ndarray, Cond], dict[str, np.ndarray]] | None = None

  @property
  def objective(self) -> str:
    """The figure that the comparison is about; less is better, but for "reward"."""
    return "sw2" if self.tilt is not None else "class_l2" if self.weights is not None else "reward"

  def __call__(self, x1: np.ndarray, base: np.ndarray, seed: int) -> Figures:
    """Figures of samples (num, ...), beside as many of the base model."""
    out: Figures = {}
    if self.tilt is not None:
      exact = self.exact(len(x1), seed)
      out |= {"sw2": distances.sliced_w2(x1, exact), "mmd2": distances.mmd_squared(x1, exact)}
    groups = None
    if self.judge is not None:
      groups = self.judge.predict(x1)
      if self.favoured is not None:
        out["judge_score"] = float(self.favoured[groups].mean())
      if self.weights is not None:
        out["class_l2"] = pmf_l2(classes.class_frequencies(groups, len(self.weights)), self.weights)
    x, base = (np.asarray(array if self.decode is None else self.decode(array)) for array in (x1, base))
    return {
      **out,
      "diversity": diversity(x, groups),
      "distance_to_base": distances.energy_distance(x, base),
    }

  def exact(self, num: int, seed: int) -> np.ndarray:
    """Exact samples of the tilt, where it is known."""
    assert self.tilt is not None
    return np.asarray(oracles.sample(jax.random.fold_in(jax.random.key(seed), 1), self.tilt, num))


def assessor(subject: Subject, config: SteerConfig, reward: Reward) -> Assessor:
  """What can be measured for this subject and reward.

  The exact tilt of a mixture by a Gaussian likelihood; for labelled images a judge that is fitted on the
  training split, and the class weights of a single class reward of weight 1; config.judges.

  Raises:
    ValueError: a judge that cannot be built, or does not give one real number a sample.
  """
  scores = _scores(subject, config.build_judges())
  if subject.mixture is not None and isinstance(reward, GaussianLikelihood):
    tilt, log_z = oracles.tilt(subject.mixture, reward.matrix, reward.observed, reward.sigma)
    return Assessor(tilt=tilt, log_z=float(log_z), scores=scores)
  run = subject.run
  if run is None or not (run.info.image and run.info.num_classes):
    decode = subject.decode
    if decode is not None and run is not None and not run.info.image:
      decode = Blocks(decode)  # latents need a network
    return Assessor(decode=decode, scores=scores)
  judge = classes.judge_of(datasets.load(run.config.data).train)
  return Assessor(
    judge=judge,
    weights=target_weights(config),
    favoured=_class_weights(config),
    decode=subject.decode,
    scores=scores,
  )


def _scores(
  subject: Subject, judges: dict[str, Reward]
) -> Callable[[np.ndarray, Cond], dict[str, np.ndarray]] | None:
  """The scores by all judges, in one program that decodes once; None without judges."""
  for judge in judges.values():
    check_reward(subject, judge)
  if not judges:
    return None

  def scores(x1: Array, cond: Cond) -> dict[str, Array]:
    x = x1 if subject.decode is None else subject.decode(x1)
    return {name: judge(x, cond) for name, judge in judges.items()}

  blocks = Blocks(scores)

  def reported(x1: np.ndarray, cond: Cond) -> dict[str, np.ndarray]:
    with callback.reported():  # mistakes of Python functions
      found = blocks(x1, cond)
    return {name: found[name] for name in judges}  # a program gives them in the order of their names

  return reported


def target_weights(config: SteerConfig) -> np.ndarray | None:
  """The class proportions of a single class reward of weight 1; None for other rewards."""
  alone = config.reward.weight == 1.0 and not config.more_rewards
  return _class_weights(config) if alone and config.reward.name == "classes" else None


def _class_weights(config: SteerConfig) -> np.ndarray | None:
  """Weights of the classes in the first class reward, normalised; None without one."""
  for reward in (config.reward, *config.more_rewards):
    if reward.name == "classes":
      return np.asarray(reward.classes) / np.sum(reward.classes)
  return None


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
    For each method, when it is done, its row (see `run_method`) and the outcome of the first seed.
  """
  reference = base_samples(subject, reward, config)
  for name in config.methods:
    (row, outcome), *_ = run_method(subject, reward, config, assess, reference, name, keep=keep)
    yield row, outcome


def base_samples(subject: Subject, reward: Reward, config: SteerConfig) -> dict[int, np.ndarray]:
  """Seed -> samples of the base model, with which those of all methods are compared."""
  base = Method(subject, reward, config, "base", num=config.num)
  return {seed: base(jax.random.key(REFERENCE + seed)).x1 for seed in _seeds(config)}


def run_method(
  subject: Subject,
  reward: Reward,
  config: SteerConfig,
  assess: Assessor,
  reference: dict[int, np.ndarray],
  name: str,
  *,
  keep: bool = False,
  milestones: Sequence[int] = (),
) -> list[tuple[dict[str, Any], Outcome]]:
  """One method for config.seeds seeds.

  Args:
    subject, reward, config, assess, keep: as `compare`.
    reference: of `base_samples`.
    name: of `cost.METHODS`.
    milestones: of Best-of-N, numbers of candidates below its own that get a row each from the same stream.

  Returns:
    (row, outcome of the first seed), for the milestones first. A row has the method's name and settings, the
    scale, effective draws a step, what became of SMC's populations, the mean of every figure over the seeds
    and its standard error (`<figure>_se`; for one seed that of reward and judges over its samples, but for
    SMC, and None for the others), the cost of a sample, rewards left out because
    they are not finite, seconds a seed without compilation. docs/cli.md lists the columns.
  """
  spent = config.cost(name)
  print(f"{name}: {config.seeds} x {config.num} samples, {spent.nfe:,} passes each", flush=True)
  method = Method(subject, reward, config, name, num=config.num, keep=keep, milestones=milestones)
  scale = _tuned(method, assess, next(iter(reference.values())), config.tuning)
  runs: dict[int, list[Outcome]] = {n: [] for n in (*milestones, method.settings.draws)}  # of the seeds
  for seed in _seeds(config):
    whole = method(jax.random.key(seed), scale)
    for n, (x1, rewards) in whole.milestones.items():
      seconds, invalid = whole.seconds * n / method.settings.draws, int(whole.found["invalid"][:n].sum())
      part = dataclasses.replace(whole, x1=x1, reward=rewards, found={}, invalid=invalid, seconds=seconds)
      runs[n].append(part)
    runs[method.settings.draws].append(whole)
  out = []
  for n, outcomes in runs.items():
    figures: list[Figures] = []
    over_samples: dict[str, float | None] = {}
    for i, (seed, outcome) in enumerate(zip(_seeds(config), outcomes, strict=True)):
      extra = {} if outcome.populations is None else {"log_z": float(outcome.populations["log_z"].mean())}
      judged = assess.scores(outcome.x1, subject.cond(len(outcome.x1))) if assess.scores else {}
      outcome = outcomes[i] = dataclasses.replace(outcome, judged=judged)
      means = {f"judge_{judge}": mean_of_finite(scores) for judge, scores in judged.items()}
      found = assess(outcome.x1, reference[seed], seed)
      figures.append({"reward": outcome.mean_reward, **means, **found, **extra})
      if name != "smc":  # whose samples are not independent
        over_samples = {"reward": _standard_error(outcome.reward)}
        over_samples |= {f"judge_{judge}": _standard_error(scores) for judge, scores in judged.items()}
      shown = f"{assess.objective} {figures[-1][assess.objective]:.4g}"
      drawn = f", N = {n}" if n else ""
      print(f"{name}{drawn}: seed {seed}, {shown}, {outcome.seconds:.1f} s", flush=True)
    settings = dataclasses.replace(method.settings, draws=n)
    row = {
      "method": name,
      **_settings(config, name, settings),
      "scale": scale,
      "ess": float(np.nanmean(outcomes[0].found["ess"])) if "ess" in outcomes[0].found else None,
      **_populations(outcomes[0]),
      **_over_seeds(figures, over_samples),
      **_cost(config.cost(name, n)),
      "invalid": sum(outcome.invalid for outcome in outcomes),
      "seconds": round(float(np.mean([outcome.seconds for outcome in outcomes])), 3),
      "seconds_compile": round(method.seconds_compile, 2),
    }
    out.append((row, outcomes[0]))
  return out


def _populations(outcome: Outcome) -> dict[str, float | None]:
  """How SMC's populations fared: least effective share of particles, resamplings; null for other methods."""
  found = outcome.populations or {}
  return {
    "particles_share": float(found["share"].mean()) if found else None,
    "resampled": float(found["resampled"].mean()) if found else None,
  }


def _settings(config: SteerConfig, name: str, settings: MethodConfig) -> dict[str, Any]:
  """What tells rows of one method apart."""
  particles = {"smc": config.smc.particles, "search": config.search.particles}.get(name)
  gradient = (config.smc.twist if name == "smc" else name) in ("mfm_gf", "mfm_g", "hybrid")
  return {
    "steps": len(config.times(name)) - 1,
    "draws": settings.draws,
    "particles": particles,
    "jackknife": settings.groups if gradient else None,
    "scheme": settings.scheme if gradient else None,
  }


def _seeds(config: SteerConfig) -> range:
  return range(config.seed, config.seed + config.seeds)


def floor(assess: Assessor, config: SteerConfig) -> dict[str, float | None] | None:
  """Figures of exact samples of the tilt against others, mean over the seeds, and log Z; None if unknown."""
  if assess.tilt is None:
    return None
  rows = []
  for seed in _seeds(config):
    x, y = assess.exact(config.num, HELD_OUT + seed), assess.exact(config.num, seed)
    rows.append({"sw2": distances.sliced_w2(x, y), "mmd2": distances.mmd_squared(x, y)})
  return {**_over_seeds(rows), "log_z": assess.log_z}


def _tuned(method: Method, assess: Assessor, base: np.ndarray, seeds: int) -> float:
  """The best of the method's scales by its mean over `seeds` held-out seeds.

  Raises:
    ValueError: none of them gives finite samples.
  """
  scales = method.settings.scales
  if len(scales) == 1:
    return scales[0]
  found: dict[float, float] = {}
  mistake: NotFiniteError | None = None
  for scale in scales:
    values = []
    try:
      for seed in range(HELD_OUT, HELD_OUT + seeds):
        outcome = method(jax.random.key(seed), scale)
        figures = {"reward": outcome.mean_reward, **assess(outcome.x1, base, seed)}
        values.append(figures[assess.objective])
    except NotFiniteError as error:  # a scale too large for the method drives its samples to infinity
      print(f"{method.name}: scale {scale:g} is left out: {error}", flush=True)
      mistake = error
      continue
    found[scale] = float(np.mean(values))
  if mistake is not None and not found:
    raise mistake
  best = (max if assess.objective == "reward" else min)(found, key=found.__getitem__)
  grid = ", ".join(f"{scale:g}: {found.get(scale, np.nan):.4g}" for scale in scales)
  edge = " (an end of the grid)" if best in (min(scales), max(scales)) else ""
  print(
    f"{method.name}: scale {best:g}{edge}, the best {assess.objective} on held-out seeds of {grid}",
    flush=True,
  )
  return best


def mean_of_finite(values: np.ndarray) -> float:
  """The mean of those that are finite; NaN without any."""
  finite = values[np.isfinite(values)]
  return float(finite.mean()) if len(finite) else float("nan")


def _standard_error(values: np.ndarray) -> float | None:
  finite = values[np.isfinite(values)]
  return float(finite.std(ddof=1) / np.sqrt(len(finite))) if len(finite) > 1 else None


def _over_seeds(
  rows: list[Figures], over_samples: Mapping[str, float | None] = types.MappingProxyType({})
) -> dict[str, float | None]:
  """Means and standard errors; `over_samples` has those of figures where there is one seed alone."""
  out = {}
  for name in rows[0]:
    values = np.array([row[name] for row in rows])
    mean, known = float(values.mean()), bool(np.isfinite(values).all())
    out[name] = mean if known else None  # such as the diversity of too few samples of a class
    many = known and len(values) > 1
    alone = over_samples.get(name) if known else None
    out[f"{name}_se"] = float(values.std(ddof=1) / np.sqrt(len(values))) if many else alone
  return out


def _cost(spent: cost.Cost) -> dict[str, int]:
  return {
    "nfe": spent.nfe,
    "forwards": spent.forwards,
    "backwards": spent.backwards,
    "decodes": spent.decodes,
    "reward_calls": spent.reward_calls,
  }
