"""The configuration of a benchmark: what is trained, and which comparison is made of it."""

import dataclasses

from mfm_jax import checks
from mfm_jax.steering import cost, steer
from mfm_jax.training.classifier import ClassifierConfig
from mfm_jax.training.config import RunConfig
from mfm_jax.training.fid_suite import FidConfig
from mfm_jax.training.inverse import InverseConfig
from mfm_jax.training.steer_config import SteerConfig
from mfm_jax.training.variance import VarianceConfig

KINDS = ("steering", "variance", "inverse", "fid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
  """A published figure, to stand beside ours.

  Attributes:
    method, draws: the row that it is of.
    cost_ratio: how many times fewer passes a sample takes than by Best-of-N with the largest N.
  """

  method: str
  draws: int
  cost_ratio: float

  def __post_init__(self):
    checks.one_of("published.method", self.method, cost.METHODS)
    if not self.cost_ratio > 0:
      raise ValueError(f"published.cost_ratio must be positive; got {self.cost_ratio}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
  """One benchmark.

  Attributes:
    kind: "steering", methods against numbers of draws; "variance", estimators of grad V; "inverse", inverse
      problems; "fid", samples in a few steps and posterior draws of noised pictures.
    run: the map; None where --run or --oracle must say what is compared. --oracle stands for
      steer.teacher=oracle.
    classifier: of the rewards "classes"; None where these name one themselves, or there are none.
    steer: reward, methods and their settings but for the draws, samples and seeds ("steering").
    draws: N of each method that draws ("steering"); those that need a spread of draws begin at 2.
    draws_g: the same of MFM-G and the hybrid, whose draws cost a backward pass each; () for `draws`.
    draws_best: candidates of Best-of-N; () for `draws`.
    particles: M of a search, a row each, with steer.search.draws for N; () for steer.search.particles, with
      `draws`.
    strengths: factors of the reward, lambda, a row each for the methods that depend on it; () for none.
      Rewards of the rows are without it.
    published: figures that rows are compared with.
    claim: what is published of single particles against Best-of-N; "" for nothing.
    dps_steps: K of DPS, a row each, 0 for that of the comparison ("steering"): with more steps it spends as
      much as the methods that draw.
    samplers: "ode", "sde" ("steering"). SMC runs with the SDE alone, a search without either, once.
    variance: states, schemes and rewards ("variance").
    inverse: operators and sampler ("inverse").
    fid: metrics, steps and times ("fid"); latents are decoded by steer.decoder.
  """

  kind: str = "steering"
  run: RunConfig | None = None
  classifier: ClassifierConfig | None = None
  steer: SteerConfig = dataclasses.field(default_factory=SteerConfig)
  draws: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
  draws_g: tuple[int, ...] = ()
  draws_best: tuple[int, ...] = ()
  particles: tuple[int, ...] = ()
  strengths: tuple[float, ...] = ()
  published: tuple[Published, ...] = ()
  claim: str = ""
  dps_steps: tuple[int, ...] = (0,)
  samplers: tuple[str, ...] = ("ode", "sde")
  variance: VarianceConfig = dataclasses.field(default_factory=VarianceConfig)
  inverse: InverseConfig = dataclasses.field(default_factory=InverseConfig)
  fid: FidConfig = dataclasses.field(default_factory=FidConfig)

  def __post_init__(self):
    checks.one_of("kind", self.kind, KINDS)
    checks.at_least("number of samplers", len(self.samplers), 1)
    for sampler in self.samplers:
      checks.one_of("samplers", sampler, steer.SAMPLERS)
    checks.at_least("number of draws", len(self.draws), 1)
    for n in (*self.draws, *self.draws_g, *self.draws_best):
      checks.at_least("draws", n, 1)
    for n in self.particles:
      checks.at_least("particles", n, 1)
    for strength in self.strengths:
      if not 0 < strength < float("inf"):
        raise ValueError(f"strengths must be positive numbers; got {strength}")
    checks.at_least("number of dps_steps", len(self.dps_steps), 1)
    for method in self.steer.methods:
      least = cost.least_draws(method, self.steer.smc.twist)
      checks.at_least(f"largest draws, for {method}", max(self.draws), least)
