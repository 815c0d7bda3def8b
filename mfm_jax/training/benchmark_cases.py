"""Which rows a comparison of steering methods has, and the settings of each."""

import dataclasses
from typing import Any

from mfm_jax.steering import cost
from mfm_jax.training.benchmark_config import BenchmarkConfig
from mfm_jax.training.steer_config import SteerConfig

UNSCALED = ("base", "best_of_n", "search")  # whose samples do not depend on a factor of the reward


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """One call of a method, which gives a row for each number of draws.

  Attributes:
    sampler: "ode" or "sde"; "" for a search.
    method: of `cost.METHODS`.
    draws: N; of Best-of-N all numbers at once; (0,) for a method that does not draw.
    steps: K, where it is not that of the comparison; else 0.
    particles: M of a search, where several are compared; else 0.
    strength: factor of the reward, lambda; 0 where none is compared, or it does not matter.
  """

  sampler: str
  method: str
  draws: tuple[int, ...]
  steps: int = 0
  particles: int = 0
  strength: float = 0.0

  @property
  def asked(self) -> dict[str, Any]:
    """What its rows have beside those of `comparison.run_method`."""
    return {"sampler": self.sampler, "steps_asked": self.steps, "strength": self.strength or None}

  @property
  def key(self) -> dict[str, Any]:
    """What tells its last row from all others."""
    key = {**self.asked, "method": self.method, "draws": self.draws[-1]}
    return {**key, "particles": self.particles} if self.particles else key


def cases(config: BenchmarkConfig) -> list[Case]:
  """All of them, in the order of measuring."""
  out = []
  for sampler in config.samplers:
    for method in config.steer.methods:
      own = "sde" if method == "smc" else "" if method == "search" else sampler
      strengths = (0.0,) if method in UNSCALED else config.strengths or (0.0,)
      searched = method == "search" and config.particles
      steps = config.dps_steps if method == "dps" else (0,)
      for particles in config.particles if searched else (0,):
        out += [
          Case(sampler=own, method=method, draws=draws, steps=k, particles=particles, strength=strength)
          for strength in strengths
          for draws in _draws(config, method)
          for k in steps
        ]
  return list(dict.fromkeys(out))


def _draws(config: BenchmarkConfig, method: str) -> list[tuple[int, ...]]:
  """The numbers of draws of each call of a method."""
  least = cost.least_draws(method, config.steer.smc.twist)
  if not least:
    return [(0,)]
  if method == "search" and config.particles:
    return [(config.steer.settings(method).draws,)]
  own = {"mfm_g": config.draws_g, "hybrid": config.draws_g, "best_of_n": config.draws_best}
  every = sorted({n for n in own.get(method, ()) or config.draws if n >= least})
  return [tuple(every)] if method == "best_of_n" else [(n,) for n in every]


def settings(config: SteerConfig, case: Case) -> SteerConfig:
  """The comparison of one case; its reward is without the factor."""
  method, draws = case.method, case.draws[-1]
  changes: dict[str, Any] = {"sampler": case.sampler or config.sampler, "methods": (method,)}
  if draws or case.steps:
    own = getattr(config, method)
    if method == "smc":
      own = dataclasses.replace(own, guide=dataclasses.replace(own.guide, draws=draws))
    else:
      own = dataclasses.replace(own, draws=draws, steps=case.steps or own.steps)
    changes[method] = own
  if case.particles:
    changes[method] = dataclasses.replace(changes[method], particles=case.particles)
  return dataclasses.replace(config, **changes)


def largest_best_of_n(config: BenchmarkConfig) -> int:
  """NFE of Best-of-N with the largest N, with which the others' cost is compared; 0 without Best-of-N."""
  if "best_of_n" not in config.steer.methods:
    return 0
  return config.steer.cost("best_of_n", _draws(config, "best_of_n")[0][-1]).nfe
