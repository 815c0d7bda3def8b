"""What a steered sample costs, counted as the paper counts it (MATH 6) and by what was called."""

import dataclasses

from mfm_jax import checks

METHODS = ("base", "best_of_n", "dps", "mfm_gf", "mfm_g")
DRAWING = ("best_of_n", "mfm_gf", "mfm_g")


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


def cost(method: str, *, steps: int, draws: int = 0) -> Cost:
  """The cost of one sample in K steps with N draws a step (candidates, for Best-of-N).

  base K; DPS 4K; MFM-GF K + 2NK; MFM-G K + 4NK; Best-of-N N(K + 1).

  Raises:
    ValueError: an unknown method, steps < 1, draws < 1 where the method draws.
  """
  checks.one_of("method", method, METHODS)
  checks.at_least("steps", steps, 1)
  if method in DRAWING:
    checks.at_least("draws", draws, 1)
  every = draws * steps
  return {
    "base": Cost(forwards=steps),
    "best_of_n": Cost(forwards=every, reward_calls=draws),
    "dps": Cost(forwards=steps, backwards=steps, reward_calls=steps, reward_backwards=steps),
    "mfm_gf": Cost(forwards=steps + every, reward_calls=every),
    "mfm_g": Cost(forwards=steps + every, backwards=every, reward_calls=every, reward_backwards=every),
  }[method]


def draws_for(method: str, nfe: int, *, steps: int) -> int:
  """The largest number of draws with which `method` costs no more than `nfe`, but at least 1.

  Raises:
    ValueError: a method that does not draw.
  """
  checks.one_of("method", method, DRAWING)
  one, two = (cost(method, steps=steps, draws=n).nfe for n in (1, 2))
  return max(1 + (nfe - one) // (two - one), 1)
