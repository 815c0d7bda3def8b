"""Rewards made of rewards. A sum or minimum has a gradient where all of its parts have one."""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.types import Array, Cond, Reward


def weighted_sum(rewards: Sequence[Reward], weights: Sequence[float]) -> Reward:
  """sum_j weight_j r_j(x). One reward with a weight is its strength lambda.

  Raises:
    ValueError: no reward, another number of weights, a weight that is not finite.
  """
  rewards, weights = _several(rewards), tuple(map(float, weights))
  checks.shape("weights", weights, (len(rewards),))
  for weight in weights:
    if not abs(weight) < float("inf"):
      raise ValueError(f"weights must be finite; got {weight}")

  def reward(x: Array, cond: Cond = None) -> Array:
    # Without those of weight 0, which may be infinite.
    parts = [weight * part(x, cond) for weight, part in zip(weights, rewards, strict=True) if weight]
    return functools.reduce(operator.add, parts) if parts else jnp.zeros(len(x))

  vars(reward)["differentiable"] = all(map(is_differentiable, rewards))
  return reward


def minimum(rewards: Sequence[Reward]) -> Reward:
  """min_j r_j(x): all must be good. Its gradient is that of the smallest, shared between equal ones.

  Raises:
    ValueError: no reward.
  """
  rewards = _several(rewards)

  def reward(x: Array, cond: Cond = None) -> Array:
    return jnp.min(jnp.stack([part(x, cond) for part in rewards]), axis=0)

  vars(reward)["differentiable"] = all(map(is_differentiable, rewards))
  return reward


def constrained(reward: Reward, constraint: Reward, *, bound: float, strength: float, width: float) -> Reward:
  """r(x) subject to c(x) >= bound, by a smooth penalty: r - strength width log(1 + exp((bound - c) / width)).

  Well within the bound the penalty is 0, beyond it strength (bound - c), and its gradient is everywhere
  -strength sigmoid((bound - c) / width) grad c. At the bound it is strength width log 2.

  Args:
    reward, constraint: r and c.
    bound: of c.
    strength: r's units a unit of c, positive; the constraint holds where r gains less than that.
    width: of the transition in units of c, positive.

  Raises:
    ValueError: a bound that is not finite, strength or width that are not positive and finite.
  """
  check_constraint(bound=bound, strength=strength, width=width)

  def constrained_reward(x: Array, cond: Cond = None) -> Array:
    missing = (bound - constraint(x, cond)) / width
    return reward(x, cond) - strength * width * jax.nn.softplus(missing)

  vars(constrained_reward)["differentiable"] = is_differentiable(reward) and is_differentiable(constraint)
  return constrained_reward


def check_constraint(*, bound: float, strength: float, width: float) -> None:
  """Raises what `constrained` raises of these."""
  if not abs(bound) < float("inf"):
    raise ValueError(f"bound must be finite; got {bound}")
  for name, value in (("strength", strength), ("width", width)):
    if not 0 < value < float("inf"):
      raise ValueError(f"{name} must be a positive number; got {value}")


def is_differentiable(reward: Reward) -> bool:
  """False where a reward says so by its attribute `differentiable`, as those of `callback` do; else True."""
  return getattr(reward, "differentiable", True)


def _several(rewards: Sequence[Reward]) -> tuple[Reward, ...]:
  checks.at_least("number of rewards", len(rewards), 1)
  return tuple(rewards)
