"""The configuration of a steering experiment: rewards, methods and their settings, number of samples."""

import dataclasses
from typing import Any

import numpy as np

from mfm_jax import checks, interpolants, times
from mfm_jax.rewards import composition, published
from mfm_jax.rewards.parts import largest_divisor
from mfm_jax.sampling import noise
from mfm_jax.steering import cost, drifts, search, smc, steer
from mfm_jax.training.classifier import load_classifier
from mfm_jax.training.config import MixtureConfig
from mfm_jax.training.reward_config import RewardConfig, scaled
from mfm_jax.types import Array, Reward

HELD_OUT = 1 << 20  # the seed on which scales are tuned; those of samples are below


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
  """The settings of one method.

  Attributes:
    steps: K; 0 for that of the comparison.
    draws: posterior draws a step, N, or candidates of Best-of-N; 0: as many as MFM-GF's cost buys.
    jackknife: largest number of groups of the bias correction of MFM-GF, MFM-G and their hybrid (see
      `steering.value`); the largest divisor of `draws` up to it is taken, for draws that are not independent
      of groups of at least 4. 1 is the paper's estimate.
    scheme: joint law of a state's draws, see `sampling.noise`.
    weight: of MFM-G in the hybrid, in [0, 1]; -1 for the one of least variance.
    scales: of the steering term; of several the best on a held-out seed is used, the best by the figure
      that the comparison is about.
    bounded: MFM-G: gradients are kept within what weights of its draws can give (`value.value_and_grad_g`).
    renormalise, limit: see `drifts.renormalised`.
    interval: times, first and last, between which there is guidance.
  """

  steps: int = 0
  draws: int = 0
  jackknife: int = 8
  scheme: str = "orthogonal"
  weight: float = -1.0
  scales: tuple[float, ...] = (1.0,)
  bounded: bool = False
  renormalise: str = "none"
  limit: float = 1.0
  interval: tuple[float, ...] = (0.0, 1.0)

  def __post_init__(self):
    for name, least in (("steps", 0), ("draws", 0), ("jackknife", 1)):
      checks.at_least(name, getattr(self, name), least)
    checks.one_of("scheme", self.scheme, noise.SCHEMES)
    if self.weight != -1.0:
      checks.in_interval("weight", self.weight)
    checks.at_least("number of scales", len(self.scales), 1)
    checks.one_of("renormalise", self.renormalise, drifts.RENORMALISATIONS)
    if not self.limit > 0:
      raise ValueError(f"limit must be positive; got {self.limit}")
    checks.shape("interval", self.interval, (2,))
    checks.in_interval("interval", self.interval)
    checks.ordered("interval[0]", self.interval[0], "interval[1]", self.interval[1])

  @property
  def groups(self) -> int:
    """The number of groups of the bias correction."""
    limit = self.jackknife if self.scheme == "independent" else min(self.jackknife, self.draws // 4)
    return largest_divisor(self.draws, max(limit, 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmcConfig:
  """Sequential Monte Carlo, see `steering.smc`.

  Attributes:
    guide: settings of the twist and of the proposals; of its scales 0 proposes from the base.
    twist: of `cost.GUIDES`: what estimates value and gradient.
    particles: of a population; it must divide the number of samples.
    threshold: share of them, below which the effective number of particles leads to resampling.
    potential: of `smc.POTENTIALS`.
  """

  guide: MethodConfig = dataclasses.field(default_factory=MethodConfig)
  twist: str = "mfm_gf"
  particles: int = 64
  threshold: float = 0.5
  potential: str = "difference"

  def __post_init__(self):
    checks.one_of("smc.twist", self.twist, cost.GUIDES)
    checks.at_least("smc.particles", self.particles, 1)
    checks.in_interval("smc.threshold", self.threshold)
    checks.one_of("smc.potential", self.potential, smc.POTENTIALS)
    if self.guide.interval != (0.0, 1.0):
      raise ValueError(
        f"smc.guide.interval must be (0.0, 1.0): a particle needs its value at all times; got "
        f"{self.guide.interval}"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
  """MFM-Search, see `steering.search`.

  Attributes:
    draws: N; 0: as many as MFM-GF's cost buys.
    particles: M.
    selection, transition: of `search.SELECTIONS` and `search.TRANSITIONS`.
    steps: K of the search; 0 for that of the comparison.
    power: of its time grid, from 0 to 1.
  """

  draws: int = 0
  particles: int = 4
  selection: str = "overall"
  transition: str = "stochastic"
  steps: int = 0
  power: float = 2.5

  def __post_init__(self):
    checks.at_least("search.draws", self.draws, 0)
    checks.at_least("search.steps", self.steps, 0)
    checks.at_least("search.particles", self.particles, 1)
    checks.one_of("search.selection", self.selection, search.SELECTIONS)
    checks.one_of("search.transition", self.transition, search.TRANSITIONS)
    if not self.power > 0:
      raise ValueError(f"search.power must be positive; got {self.power}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SteerConfig:
  """Everything that determines a comparison of steering methods on one trained run.

  Attributes:
    reward: what the samples are steered to.
    more_rewards: joined to it, one after the other (`RewardConfig.join`).
    judges: rewards that are not optimised, but measured on the samples of every method, without weight.
    label: class to be steered within; -1: none.
    guidance: scale, one that the run was trained with; 0 for its default.
    teacher: "oracle" for the closed-form posterior of `mixture` under `interpolant`; "" for the run of
      --workdir, which then has its own mixture and interpolant.
    methods: of `cost.METHODS`.
    best_of_n, dps, mfm_gf, mfm_g, hybrid, smc, search: their settings.
    sampler: "ode" or "sde", the same for all methods that steer (SMC is always "sde").
    steps: K.
    start: first time, in (0, 1).
    power: of the time grid, see `times.grid`.
    oracle_drift: the drift in closed form for a run of a mixture; only its posterior draws are its own.
    glass_steps: Heun steps of GLASS for each posterior draw of a marginal-only run; 0 refuses such a run.
    decoder: folder or .safetensors file of the autoencoder of a run on latents, whose images are rewarded, or
      a key of `decoding.RANDOM`.
    num: samples of a seed, at least 2.
    tuning: held-out seeds on which scales are compared.
    seeds: sampling seeds, `seed`, `seed` + 1, ...; figures are their means.
    rows: network evaluations at a time; 0 for as many as there are samples. Bounds the memory.
  """

  reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
  more_rewards: tuple[RewardConfig, ...] = ()
  judges: tuple[RewardConfig, ...] = ()
  label: int = -1
  guidance: float = 0.0
  teacher: str = ""
  mixture: MixtureConfig = dataclasses.field(default_factory=MixtureConfig)
  interpolant: str = "linear"
  methods: tuple[str, ...] = cost.METHODS
  best_of_n: MethodConfig = dataclasses.field(default_factory=MethodConfig)
  dps: MethodConfig = dataclasses.field(default_factory=MethodConfig)
  mfm_gf: MethodConfig = dataclasses.field(default_factory=lambda: MethodConfig(draws=32))
  mfm_g: MethodConfig = dataclasses.field(default_factory=MethodConfig)
  hybrid: MethodConfig = dataclasses.field(default_factory=MethodConfig)
  smc: SmcConfig = dataclasses.field(default_factory=SmcConfig)
  search: SearchConfig = dataclasses.field(default_factory=SearchConfig)
  sampler: str = "sde"
  steps: int = 250
  start: float = 1e-3
  power: float = 2.0
  oracle_drift: bool = False
  glass_steps: int = 0
  decoder: str = ""
  num: int = 4096
  tuning: int = 1
  seeds: int = 1
  seed: int = 0
  rows: int = 0

  def __post_init__(self):
    checks.one_of("teacher", self.teacher, ("", "oracle"))
    checks.one_of("interpolant", self.interpolant, interpolants.INTERPOLANTS)
    checks.one_of("sampler", self.sampler, steer.SAMPLERS)
    checks.at_least("label", self.label, -1)
    checks.at_least("guidance", self.guidance, 0)
    if self.teacher and (self.label >= 0 or self.guidance):
      raise ValueError(
        f"label and guidance must be absent with teacher=oracle: closed forms have none; got {self.label}, "
        f"{self.guidance}"
      )
    if self.reward.join != "sum":
      raise ValueError(f"reward.join must be sum for the first reward; got {self.reward.join}")
    for judge in self.judges:
      if (judge.join, judge.weight) != ("sum", 1.0):
        raise ValueError(f"judges must have weight 1 and join=sum; got {judge.weight}, {judge.join}")
    checks.at_least("number of methods", len(self.methods), 1)
    for method in self.methods:
      checks.one_of("method", method, cost.METHODS)
    for name, least in (
      ("steps", 1),
      ("num", 2),
      ("tuning", 1),
      ("seeds", 1),
      ("rows", 0),
      ("glass_steps", 0),
    ):
      checks.at_least(name, getattr(self, name), least)
    checks.in_interval("seed", self.seed, 0, HELD_OUT - self.seeds)
    if not 0 < self.start < 1:
      raise ValueError(f"start must lie in (0, 1); got {self.start}")
    if not self.power > 0:
      raise ValueError(f"power must be positive; got {self.power}")
    checks.at_least("mfm_gf.draws", self.mfm_gf.draws, 2)
    if self.dps.draws:
      raise ValueError(f"dps.draws must be 0: DPS has no posterior draws; got {self.dps.draws}")
    bounded = {"dps": self.dps, "mfm_gf": self.mfm_gf, "hybrid": self.hybrid}
    if self.smc.twist != "mfm_g":
      bounded["smc.guide"] = self.smc.guide
    for name, own in bounded.items():
      if own.bounded:
        raise ValueError(f"{name}.bounded must be False: the bound is one of MFM-G; got True")
    if self.mfm_g.bounded and self.mfm_g.draws == 1:
      raise ValueError("mfm_g.draws must be at least 2 with mfm_g.bounded: one draw has no spread; got 1")
    untouched = dataclasses.replace(self.best_of_n, draws=0, steps=0)
    if untouched != MethodConfig():
      raise ValueError(
        f"best_of_n may have draws and steps alone: its candidates are not steered; got {untouched}"
      )
    if not self.teacher and (self.mixture != MixtureConfig() or self.interpolant != "linear"):
      raise ValueError(
        "mixture and interpolant must be left alone without teacher=oracle: a run has its own; got "
        f"{self.mixture}, {self.interpolant!r}"
      )

  def settings(self, method: str) -> MethodConfig:
    """The settings of a method, with its number of draws filled in: at the cost of MFM-GF or below.

    SMC may cost one reward more, that of the end.
    """
    if method == "base":
      return MethodConfig()
    own = getattr(self, method)
    if method == "smc":
      own = own.guide
    elif method == "search":
      own = MethodConfig(draws=own.draws, steps=own.steps)
    if method == "dps" or own.draws or (method, self.smc.twist) == ("smc", "dps"):
      return own
    budget = cost.cost("mfm_gf", draws=self.mfm_gf.draws, **self._how("mfm_gf")).nfe + (method == "smc")
    draws = cost.draws_for(method, budget, **self._how(method))
    if method in ("mfm_g", "hybrid", "smc") and draws > own.jackknife:
      draws -= draws % own.jackknife  # so that the groups of its bias correction are as many as wanted
    return dataclasses.replace(own, draws=draws)

  def cost(self, method: str, draws: int | None = None) -> cost.Cost:
    """The cost of a sample by a method, with its own number of draws or another."""
    draws = self.settings(method).draws if draws is None else draws
    return cost.cost(method, draws=draws, **self._how(method))

  def times(self, method: str) -> Array:
    """The K + 1 times of a method; of a search from 0 to 1, of the others from `start`."""
    if method == "search":
      return times.grid(self.search.steps or self.steps, power=self.search.power)
    own = self.smc.guide if method == "smc" else MethodConfig() if method == "base" else getattr(self, method)
    return times.grid(own.steps or self.steps, start=self.start, power=self.power)

  def _how(self, method: str) -> dict[str, Any]:
    """The arguments of `cost.cost` but for the draws."""
    starts = np.asarray(self.times(method))[:-1]
    how: dict[str, Any] = {"steps": len(starts)}
    if method in ("base", "best_of_n"):
      return how
    how["evaluations"] = 2 * self.glass_steps or 1  # a Heun step of GLASS takes two
    if method == "search":
      return how | {"particles": self.search.particles}
    low, high = (self.smc.guide if method == "smc" else getattr(self, method)).interval
    return how | {"guided": int(((low <= starts) & (starts <= high)).sum()), "twist": self.smc.twist}

  @property
  def classifiers(self) -> str:
    """Identities of the trained classifiers and networks that rewards and judges read; "" for none."""
    parts = (self.reward, *self.more_rewards, *self.judges)
    parts = [part for part in parts if part.name in ("classes", *published.NAMES)]
    return ",".join(
      load_classifier(part.classifier).sha256 if part.name == "classes" else part.preference.identity
      for part in parts
    )

  def build_reward(self) -> Reward:
    """The rewards with their weights, joined.

    A single Gaussian likelihood stays one, with its weight in sigma, so that its closed forms stay known.
    """
    for part in (self.reward, *self.more_rewards, *self.judges):
      if part.name in published.NAMES:
        part.preference.check(part.name)  # of all, before the weights of one are read
    total = scaled(self.reward.build(), self.reward.weight)
    for part in self.more_rewards:
      reward = part.build()
      if part.join == "constraint":
        how = {"bound": part.bound, "strength": part.strength, "width": part.width}
        total = composition.constrained(total, reward, **how)
      elif part.join == "minimum":
        total = composition.minimum([total, scaled(reward, part.weight)])
      else:
        total = composition.weighted_sum([total, reward], [1.0, part.weight])
    return total

  def build_judges(self) -> dict[str, Reward]:
    """The judges by name; the second of a name is <name>_2."""
    out: dict[str, Reward] = {}
    for judge in self.judges:
      count = sum(name.partition("_")[0] == judge.name for name in out)
      out[judge.name if not count else f"{judge.name}_{count + 1}"] = judge.build()
    return out
