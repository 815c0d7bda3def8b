"""What a steered sample costs, counted as the paper counts it (MATH 6) and by what was called."""

import dataclasses

from mfm_jax import checks

METHODS = ("base", "best_of_n", "dps", "mfm_gf", "mfm_g", "hybrid", "smc", "search")
DRAWING = ("best_of_n", "mfm_gf", "mfm_g", "hybrid", "smc", "search")
GUIDES = ("dps", "mfm_gf", "mfm_g", "hybrid")  # what estimates a gradient, on its own or within SMC
DIFFERENTIATING = ("dps", "mfm_g", "hybrid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """Calls for one sample. A backward pass through a network counts once, whatever it takes."""

  forwards: int  # evaluations of the network
  backwards: int = 0  # backward passes through it
  reward_calls: int = 0
  reward_backwards: int = 0

  @property
  def decodes(self) -> int:
    """Every reward needs its sample decoded."""
    return self.reward_calls

  @property
  def nfe(self) -> int:
    """The paper's count: 1 for each forward of network or reward, and 1 more for each backward."""
    return self.forwards + self.backwards + self.reward_calls + self.reward_backwards


def cost(
  method: str,
  *,
  steps: int,
  draws: int = 0,
  particles: int = 1,
  guided: int | None = None,
  twist: str = "mfm_gf",
  evaluations: int = 1,
) -> Cost:
  """The cost of one sample in K steps with N draws a step (candidates, for Best-of-N).

  base K; DPS 4K; MFM-GF K + 2NK; MFM-G and the hybrid K + 4NK; Best-of-N N(K + 1); search with M particles
  2MNK; SMC, for each particle, what its twist costs and the reward of the end.

  Args:
    method: of `METHODS`.
    steps: K.
    draws: N.
    particles: M of a search.
    guided: steps with guidance, where that is on for an interval of t; None for all.
    twist: of `GUIDES`, for SMC.
    evaluations: of the network for one draw: 1 for a flow map, more for an inner ODE.

  Raises:
    ValueError: an unknown method or twist, a count < 1, guided outside [0, K].
  """
  checks.one_of("method", method, METHODS)
  checks.at_least("steps", steps, 1)
  checks.at_least("evaluations", evaluations, 1)
  checks.one_of("twist", twist, GUIDES)
  checks.at_least("draws", draws, min(least_draws(method, twist), 1))
  if guided is not None:
    checks.in_interval("guided", guided, 0, steps)
  if method == "smc":
    own = cost(twist, steps=steps, draws=draws, guided=guided, evaluations=evaluations)
    return dataclasses.replace(own, reward_calls=own.reward_calls + 1)
  if method == "search":
    checks.at_least("particles", particles, 1)
    every = particles * draws * steps
    return Cost(forwards=every * evaluations, reward_calls=every)
  if method == "best_of_n":
    return Cost(forwards=draws * steps, reward_calls=draws)
  inside = steps if guided is None else guided
  every = draws * inside
  forwards = steps + every * evaluations
  return {
    "base": Cost(forwards=steps),
    "dps": Cost(forwards=steps, backwards=inside, reward_calls=inside, reward_backwards=inside),
    "mfm_gf": Cost(forwards=forwards, reward_calls=every),
  }.get(
    method,
    Cost(forwards=forwards, backwards=every * evaluations, reward_calls=every, reward_backwards=every),
  )


def least_draws(method: str, twist: str = "mfm_gf") -> int:
  """The smallest number of draws: 2 where a gradient is their spread, 0 for methods without draws."""
  if method == "smc":
    return least_draws(twist)
  return {"mfm_gf": 2, "hybrid": 2, "mfm_g": 1, "best_of_n": 1, "search": 1}.get(method, 0)


def draws_for(method: str, nfe: int, *, steps: int, **how) -> int:
  """The largest number of draws with which `method` costs no more than `nfe`, but at least 1.

  Args:
    method, steps, how: as `cost`.

  Raises:
    ValueError: a method that does not draw, or whose draws cost nothing.
  """
  checks.one_of("method", method, DRAWING)
  one, two = (cost(method, steps=steps, draws=n, **how).nfe for n in (1, 2))
  if one == two:
    raise ValueError(
      f"draws of {method} must cost something; got none in {steps} steps with {how}: an interval without a "
      "step, or a twist that does not draw"
    )
  return max(1 + (nfe - one) // (two - one), 1)
