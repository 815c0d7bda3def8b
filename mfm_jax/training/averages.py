"""Averages of the parameters: exponential ones, and power ones from which others are made after training.

A power average of relative length l weights step tau of t by tau^gamma, gamma chosen so that the standard
deviation of the weights is l t (Karras et al. 2024, "Analyzing and improving the training dynamics of
diffusion models", section 3). Two of them, kept at several steps, span those of nearly any other length.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.types import Array, PyTree

POWER = "power:"  # in front of the relative length, in the name of a power average
LONGEST = 0.28  # relative lengths end at 1 / sqrt(12), that of equal weights


def names(config: Any) -> tuple[str, ...]:
  """The names of a training's averages: decays as text, then relative lengths after POWER."""
  return (*map(str, config.ema), *[f"{POWER}{length}" for length in config.ema_lengths])


def power_length(name: str) -> float | None:
  """The relative length in the name of a power average; None for the name of another.

  Raises:
    ValueError: no number, or a length out of range.
  """
  if not name.startswith(POWER):
    return None
  try:
    length = float(name.removeprefix(POWER))
  except ValueError:
    raise ValueError(f"ema must be {POWER}<length> with a number; got {name!r}") from None
  exponent(length)
  return length


def exponent(length: float) -> float:
  """gamma >= 0 of a relative length: l^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).

  Raises:
    ValueError: a length outside (0, LONGEST].
  """
  if not 0 < length <= LONGEST:
    raise ValueError(f"the relative length of an average must lie in (0, {LONGEST}]; got {length}")
  inverse = length**-2
  return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def update(average: PyTree, params: PyTree, name: str, step: Array) -> PyTree:
  """An average after a step more; `step` is the number of those before.

  Of an exponential one the decay is at most (1 + step) / (10 + step), which lets it forget the initialisation
  at the start; a power one has forgotten it after the first step.
  """
  length = power_length(name)
  if length is not None:
    decay = (step / (1.0 + step)) ** (exponent(length) + 1.0)
  else:
    decay = jnp.minimum(float(name), (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, average, params)


def combination(
  steps: Sequence[int], lengths: Sequence[float], at: int, length: float
) -> tuple[np.ndarray, float]:
  """The weights of kept power averages that make up another one best, in least squares over the steps.

  Args:
    steps, lengths: of each average that was kept.
    at: step of the wanted one, of any up to the last of `steps`.
    length: its relative length.

  Returns:
    Weights that sum to 1, and the relative error: the distance of the profiles over the wanted one's norm.

  Raises:
    ValueError: a length out of range, no averages, or none as late as `at`.
  """
  checks.at_least("number of kept averages", len(steps), 1)
  checks.in_interval("step of the average", at, 1, max(steps))
  # Time in units of `at`: in steps, products of long profiles would be lost beside the ones of the sum.
  times, gammas = np.asarray(steps, np.float64) / at, np.array([exponent(own) for own in lengths])
  gamma = exponent(length)
  gram = _products(times[:, None], gammas[:, None], times[None], gammas[None])
  wanted = _products(times, gammas, 1.0, gamma)
  # The sum is held to 1 by a multiplier: parameters that do not change must come out as they are.
  ones = np.ones((len(times), 1))
  matrix = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])
  weights = np.linalg.lstsq(matrix, np.append(wanted, 1.0), rcond=1e-14)[0][:-1]
  own = _products(1.0, gamma, 1.0, gamma)
  left = max(own - 2 * weights @ wanted + weights @ gram @ weights, 0.0)
  return weights, math.sqrt(left / own)


def _products(t_a, gamma_a, t_b, gamma_b):
  """Integral of the product of two profiles (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t]."""
  first = np.minimum(t_a, t_b)
  total = gamma_a + gamma_b + 1
  ratio = (first / t_a) ** gamma_a * (first / t_b) ** gamma_b * first / (t_a * t_b)
  return (gamma_a + 1) * (gamma_b + 1) * ratio / total
