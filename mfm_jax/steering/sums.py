"""Running sums over posterior draws, weighted by exp r: what all estimates of V and grad V are made from.

Draws come in groups of equal size. A ratio of means over draws, such as a softmax-weighted mean, has a bias
of order 1/N; the same ratio with each group left out tells that bias and the ratio's covariance (the
delete-a-group jackknife; Quenouille, 1956; Efron and Stein, 1981) at no further evaluation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mfm_jax.types import Array, expand_like


class Sums(NamedTuple):
  """Running sums of w = exp(r - peak) over the draws of a group that count; each (B,), later (groups, B)."""

  peak: Array
  first: Array
  second: Array
  counted: Array  # draws whose reward is sound; the others are left out of every sum
  invalid: Array  # int32, the others


def zeros(x_t: Array) -> Sums:
  """The sums over no draws of B states."""
  batch, dtype = x_t.shape[0], reward_dtype(x_t)
  zero = jnp.zeros(batch, dtype)
  return Sums(jnp.full(batch, -jnp.inf, dtype), zero, zero, zero, jnp.zeros(batch, jnp.int32))


def reward_dtype(x: Array):
  """Rewards and their sums are float32 at least."""
  return jnp.promote_types(x.dtype, jnp.float32)


def sound(rewards: ArrayLike) -> Array:
  """Where a reward can be used: not NaN, not +inf. -inf says impossible, a weight of 0 like any other."""
  return ~(jnp.isnan(rewards) | jnp.isposinf(rewards))


def update(sums: Sums, rewards: Array) -> tuple[Sums, Array, Array]:
  """The sums with rewards (B, n) added; their weights, 0 where not sound; the factor of earlier sums."""
  valid = sound(rewards)
  rewards = jnp.where(valid, rewards, -jnp.inf)
  # No gradient: the peak keeps exp in range and cancels from the value (MATH 6.3).
  peak = jax.lax.stop_gradient(jnp.maximum(sums.peak, rewards.max(1)))
  finite = jnp.where(jnp.isfinite(peak), peak, 0.0)  # none so far: weights 0, not exp(nan)
  rescale = jnp.exp(sums.peak - finite)
  weights = jnp.exp(rewards - finite[:, None])
  new = Sums(
    peak,
    rescale * sums.first + weights.sum(1),
    rescale**2 * sums.second + (weights**2).sum(1),
    sums.counted + valid.sum(1),
    sums.invalid + (~valid).sum(1, dtype=jnp.int32),
  )
  return new, weights, rescale


def totals(sums: Sums) -> Sums:
  """The sums of all groups, (B,)."""
  peak = jax.lax.stop_gradient(sums.peak.max(0))
  rescale = jnp.exp(sums.peak - jnp.where(jnp.isfinite(peak), peak, 0.0)[None])
  first, second = (rescale * sums.first).sum(0), (rescale**2 * sums.second).sum(0)
  return Sums(peak, first, second, sums.counted.sum(0), sums.invalid.sum(0))


def weighted_means(weighted: Array, sums: Sums) -> tuple[Array, Array]:
  """sum w x / sum w from groups' sums (G, B, ...): of all, (B, ...), and with each left out, (G, B, ...)."""
  return _means(weighted, sums.first, sums.peak + jnp.log(sums.first))


def plain_means(plain: Array, sums: Sums) -> tuple[Array, Array]:
  """sum x / count, likewise."""
  return _means(plain, sums.counted, jnp.log(sums.counted))


def corrected(whole: Array, left_out: Array) -> Array:
  """The jackknife: an estimate without its bias of order 1/N; of a single group, the estimate itself."""
  groups = len(left_out)
  return whole if groups == 1 else groups * whole - (groups - 1.0) * left_out.mean(0)


def covariance(left_a: Array, left_b: Array) -> Array:
  """The jackknife's covariance of two estimates (G, B, ...), summed over the coordinates: (B,)."""
  groups, batch = left_a.shape[:2]
  a, b = ((left - left.mean(0, keepdims=True)).reshape(groups, batch, -1) for left in (left_a, left_b))
  return (1.0 - 1.0 / groups) * (a * b).sum((0, 2))


def _means(total: Array, weight: Array, log_weight: Array) -> tuple[Array, Array]:
  """Means of groups, averaged in proportion to their weights."""
  means = total / expand_like(jnp.where(weight > 0, weight, 1.0), total)
  whole = _shares(log_weight)
  left_out = whole[None]
  if len(total) > 1:
    out = jnp.eye(len(total), dtype=bool)[..., None]
    left_out = _shares(jnp.where(out, -jnp.inf, log_weight[None]), axis=1)
    # Where all weight lies in the group that is left out, there is nothing to learn from the others.
    left_out = jnp.where(left_out.sum(1, keepdims=True) > 0, left_out, whole[None])

  def average(shares):
    return jnp.einsum("...gb,gbi->...bi", shares, means.reshape(*means.shape[:2], -1), precision="highest")

  shape = means.shape[1:]
  return average(whole).reshape(shape), average(left_out).reshape(len(left_out), *shape)


def _shares(log_weight: Array, axis: int = 0) -> Array:
  """Softmax over the groups; 0 where no group has weight."""
  peak = log_weight.max(axis, keepdims=True)
  weight = jnp.exp(log_weight - jnp.where(jnp.isfinite(peak), peak, 0.0))
  total = weight.sum(axis, keepdims=True)
  return weight / jnp.where(total > 0, total, 1.0)
