"""The configuration of a steering experiment: reward, methods and their settings, number of samples."""

import dataclasses

from mfm_jax import checks, interpolants
from mfm_jax.rewards import classes, composition, likelihoods
from mfm_jax.steering import cost, drifts, steer
from mfm_jax.training.classifier import load_classifier
from mfm_jax.training.config import MixtureConfig
from mfm_jax.types import Reward

HELD_OUT = 1 << 20  # the seed on which scales are tuned; those of samples are below
REWARDS = ("likelihood", "quadratic", "classes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
  """One reward on data space.

  Attributes:
    name: "likelihood", -|A x - y|^2 / (2 sigma^2); "quadratic", -|x - centre|^2 / (2 sigma^2); "classes",
      log sum_c classes_c p(c | x) by a trained classifier.
    weight: multiplies it: lambda.
    matrix, observed: A and y of a likelihood; without them those of the paper's mixture.
    centre: of a quadratic.
    sigma: of both.
    classifier: folder of a run of experiments.classifier.
    classes: weights of its classes.
  """

  name: str = "likelihood"
  weight: float = 1.0
  matrix: tuple[tuple[float, ...], ...] = ()
  observed: tuple[float, ...] = ()
  centre: tuple[float, ...] = ()
  sigma: float = 0.2
  classifier: str = ""
  classes: tuple[float, ...] = ()

  def __post_init__(self):
    checks.one_of("reward.name", self.name, REWARDS)
    if self.name == "classes" and not self.classifier:
      raise ValueError("reward.classifier must name a trained classifier for reward.name=classes; got ''")
    if bool(self.matrix) != bool(self.observed):
      raise ValueError(
        "reward.matrix and reward.observed must be given together, or neither; got "
        f"{self.matrix} and {self.observed}"
      )

  def build(self) -> Reward:
    """The reward itself, without its weight.

    Raises:
      ValueError: values that the reward refuses, a folder that holds no classifier.
    """
    if self.name == "classes":
      try:
        classifier = load_classifier(self.classifier)
      except ValueError as error:
        raise ValueError(f"reward.classifier must be a folder of experiments.classifier; {error}") from None
      checks.shape("reward.classes", self.classes, (classifier.info.num_classes,))
      return classes.class_mixture(classifier.log_probs, self.classes)
    if self.name == "quadratic":
      return likelihoods.quadratic(self.centre, self.sigma)
    if not self.matrix:
      return dataclasses.replace(likelihoods.paper_likelihood(), sigma=self.sigma)
    return likelihoods.GaussianLikelihood(matrix=self.matrix, observed=self.observed, sigma=self.sigma)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
  """The settings of one method.

  Attributes:
    draws: posterior draws a step, N, or candidates of Best-of-N; 0: as many as MFM-GF's cost buys.
    jackknife: largest number of groups of the bias correction of MFM-GF and MFM-G (see `steering.value`); the
      largest divisor of `draws` up to it is taken. 1 is the paper's estimate.
    scales: of the steering term; of several the best on a held-out seed is used, the best by the figure
      that the comparison is about.
    renormalise, limit: see `drifts.renormalised`.
  """

  draws: int = 0
  jackknife: int = 8
  scales: tuple[float, ...] = (1.0,)
  renormalise: str = "none"
  limit: float = 1.0

  def __post_init__(self):
    checks.at_least("draws", self.draws, 0)
    checks.at_least("jackknife", self.jackknife, 1)
    checks.at_least("number of scales", len(self.scales), 1)
    checks.one_of("renormalise", self.renormalise, drifts.RENORMALISATIONS)
    if not self.limit > 0:
      raise ValueError(f"limit must be positive; got {self.limit}")

  @property
  def groups(self) -> int:
    """The number of groups of the bias correction."""
    return max(n for n in range(1, self.jackknife + 1) if self.draws % n == 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SteerConfig:
  """Everything that determines a comparison of steering methods on one trained run.

  Attributes:
    reward: what the samples are steered to.
    more_rewards: added to it.
    teacher: "oracle" for the closed-form posterior of `mixture` under `interpolant`; "" for the run of
      --workdir, which then has its own mixture and interpolant.
    methods: of `cost.METHODS`.
    best_of_n, dps, mfm_gf, mfm_g: their settings.
    sampler: "ode" or "sde", the same for all methods.
    steps: K.
    start: first time, in (0, 1).
    power: of the time grid, see `times.grid`.
    num: samples of a seed, at least 2.
    seeds: sampling seeds, `seed`, `seed` + 1, ...; figures are their means.
    rows: network evaluations at a time; 0 for as many as there are samples. Bounds the memory.
  """

  reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
  more_rewards: tuple[RewardConfig, ...] = ()
  teacher: str = ""
  mixture: MixtureConfig = dataclasses.field(default_factory=MixtureConfig)
  interpolant: str = "linear"
  methods: tuple[str, ...] = cost.METHODS
  best_of_n: MethodConfig = dataclasses.field(default_factory=MethodConfig)
  dps: MethodConfig = dataclasses.field(default_factory=MethodConfig)
  mfm_gf: MethodConfig = dataclasses.field(default_factory=lambda: MethodConfig(draws=32))
  mfm_g: MethodConfig = dataclasses.field(default_factory=MethodConfig)
  sampler: str = "sde"
  steps: int = 250
  start: float = 1e-3
  power: float = 2.0
  num: int = 4096
  seeds: int = 1
  seed: int = 0
  rows: int = 0

  def __post_init__(self):
    checks.one_of("teacher", self.teacher, ("", "oracle"))
    checks.one_of("interpolant", self.interpolant, interpolants.INTERPOLANTS)
    checks.one_of("sampler", self.sampler, steer.SAMPLERS)
    checks.at_least("number of methods", len(self.methods), 1)
    for method in self.methods:
      checks.one_of("method", method, cost.METHODS)
    for name, least in (("steps", 1), ("num", 2), ("seeds", 1)):
      checks.at_least(name, getattr(self, name), least)
    checks.at_least("rows", self.rows, 0)
    checks.in_interval("seed", self.seed, 0, HELD_OUT - self.seeds)
    if not 0 < self.start < 1:
      raise ValueError(f"start must lie in (0, 1); got {self.start}")
    if not self.power > 0:
      raise ValueError(f"power must be positive; got {self.power}")
    checks.at_least("mfm_gf.draws", self.mfm_gf.draws, 2)
    if self.dps.draws:
      raise ValueError(f"dps.draws must be 0: DPS has no posterior draws; got {self.dps.draws}")
    if self.best_of_n.scales != (1.0,) or self.best_of_n.renormalise != "none":
      raise ValueError(
        "best_of_n.scales and best_of_n.renormalise must be left alone: its candidates are not steered; got "
        f"{self.best_of_n.scales}, {self.best_of_n.renormalise!r}"
      )
    if not self.teacher and (self.mixture != MixtureConfig() or self.interpolant != "linear"):
      raise ValueError(
        "mixture and interpolant must be left alone without teacher=oracle: a run has its own; got "
        f"{self.mixture}, {self.interpolant!r}"
      )

  def settings(self, method: str) -> MethodConfig:
    """The settings of a method, with its number of draws filled in: at the cost of MFM-GF or below."""
    if method == "base":
      return MethodConfig()
    own = getattr(self, method)
    if method == "dps" or own.draws:
      return own
    budget = cost.cost("mfm_gf", steps=self.steps, draws=self.mfm_gf.draws).nfe
    draws = cost.draws_for(method, budget, steps=self.steps)
    if method == "mfm_g" and draws > own.jackknife:
      draws -= draws % own.jackknife  # so that the groups of its bias correction are as many as wanted
    return dataclasses.replace(own, draws=draws)

  def build_reward(self) -> Reward:
    """The sum of the rewards with their weights.

    A single Gaussian likelihood stays one, with its weight in sigma, so that its closed forms stay known.
    """
    weights = [part.weight for part in (self.reward, *self.more_rewards)]
    rewards = [part.build() for part in (self.reward, *self.more_rewards)]
    single = rewards[0] if len(rewards) == 1 else None
    if isinstance(single, likelihoods.GaussianLikelihood) and weights[0] > 0:
      return dataclasses.replace(single, sigma=single.sigma / weights[0] ** 0.5)
    return composition.weighted_sum(rewards, weights)
