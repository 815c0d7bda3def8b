"""Training laws of the context time t and of the inner times (s, u); time grids of the samplers."""

import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.types import Array, PRNGKey


def context_times(
  key: PRNGKey, shape: tuple[int, ...], *, power: float = 2.0, zero_rate: float = 0.1
) -> Array:
  """t = U^power, and 0 with probability `zero_rate`, where the context is empty (MATH 4).

  Raises:
    ValueError: power <= 0, or zero_rate outside [0, 1].
  """
  _check_power(power)
  checks.in_interval("zero_rate", zero_rate)
  key_time, key_zero = jax.random.split(key)
  t = jax.random.uniform(key_time, shape) ** power
  return jnp.where(jax.random.bernoulli(key_zero, zero_rate, shape), 0.0, t)


def inner_times(key: PRNGKey, shape: tuple[int, ...], *, progress: Array | float = 1.0):
  """s <= u: two sorted uniforms whose distance is scaled about their middle by `progress` in [0, 1].

  `progress` anneals u - s from 0 (where every consistency objective is the diagonal one) to its full
  law (MATH 4).

  Returns:
    s, u, each of `shape`.

  Raises:
    ValueError: a concrete progress outside [0, 1].
  """
  checks.in_interval("progress", progress)
  low, high = jnp.sort(jax.random.uniform(key, (2, *shape)), axis=0)
  middle, half = 0.5 * (low + high), 0.5 * (high - low) * progress
  return middle - half, jnp.minimum(middle + half, 1.0)


def anneal_progress(step: Array | int, start: int, end: int) -> Array:
  """Share of the annealing done at `step`: 0 up to `start`, 1 from `end` on, linear between."""
  return jnp.clip((step - start) / max(end - start, 1), 0.0, 1.0)


def grid(steps: int, *, start: float = 0.0, end: float = 1.0, power: float = 1.0) -> Array:
  """steps + 1 times from `start` to `end`: start + (end - start) (i / steps)^power, float32.

  Raises:
    ValueError: steps < 1, an end outside [0, 1], start >= end, or power <= 0.
  """
  checks.at_least("steps", steps, 1)
  checks.in_interval("start", start)
  checks.in_interval("end", end)
  if not start < end:
    raise ValueError(f"start < end must hold; got start={start}, end={end}")
  _check_power(power)
  fractions = jnp.linspace(0.0, 1.0, steps + 1) ** power
  return (1.0 - fractions) * start + fractions * end  # in this form both ends are exact


def _check_power(power: float) -> None:
  """The exponent of a warp of [0, 1] is positive."""
  if not power > 0:
    raise ValueError(f"power must be positive; got {power}")
