"""Rewards made of rewards. A sum or minimum has a gradient where all of its parts have one."""

from collections.abc import Sequence

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
    return sum(weight * part(x, cond) for weight, part in zip(weights, rewards, strict=True))

  reward.differentiable = all(map(is_differentiable, rewards))
  return reward


def minimum(rewards: Sequence[Reward]) -> Reward:
  """min_j r_j(x): all must be good. Its gradient is that of the smallest, shared between equal ones.

  Raises:
    ValueError: no reward.
  """
  rewards = _several(rewards)

  def reward(x: Array, cond: Cond = None) -> Array:
    return jnp.min(jnp.stack([part(x, cond) for part in rewards]), axis=0)

  reward.differentiable = all(map(is_differentiable, rewards))
  return reward


def is_differentiable(reward: Reward) -> bool:
  """False where a reward says so by its attribute `differentiable`, as those of `callback` do; else True."""
  return getattr(reward, "differentiable", True)


def _several(rewards: Sequence[Reward]) -> tuple[Reward, ...]:
  checks.at_least("number of rewards", len(rewards), 1)
  return tuple(rewards)
