"""Populations of weighted particles: effective sample size, systematic resampling, ancestry (MATH 6.8).

Legend: P populations, M particles in each. Weights are kept as logarithms of any common factor; -inf is
weight 0. NaN and +inf are no weights.
"""

import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.types import Array


def log_mean_exp(log_weights: Array) -> Array:
  """Logarithm of the mean weight, (P, M) -> (P,); -inf where all weights are 0."""
  return jax.nn.logsumexp(log_weights, axis=1) - jnp.log(float(log_weights.shape[1]))


def effective_sample_size(log_weights: Array) -> Array:
  """(sum w)^2 / sum w^2, (P, M) -> (P,): 1 to M, and 0 where all weights are 0."""
  weights = _relative(log_weights)
  squares = (weights**2).sum(1)
  return weights.sum(1) ** 2 / jnp.where(squares > 0, squares, 1.0)


def systematic(uniform: Array, log_weights: Array) -> Array:
  """Ancestors in ascending order: particle j has floor or ceil of M w_j offspring, M w_j in the mean.

  The M points i + u cut the cumulated weights, scaled to end at M (Kitagawa, 1996). Points are counted
  in integers: sums in float32 end off M and need not even ascend, yet there are M ancestors, and none
  is of weight 0.

  Args:
    uniform: u in [0, 1), one a population, (P,).
    log_weights: (P, M).

  Returns:
    int32 (P, M), indices within the population; each its own ancestor where all weights are 0.

  Raises:
    ValueError: shapes that disagree.
  """
  checks.shape("log_weights", log_weights, (None, None))
  checks.shape("uniform", uniform, log_weights.shape[:1])
  particles = log_weights.shape[1]
  index = jnp.arange(particles, dtype=jnp.int32)
  weights = _relative(log_weights)
  positive, total = weights > 0, jnp.cumsum(weights, axis=1)
  share = particles * (total / jnp.maximum(total[:, -1:], 1.0))  # the largest weight is 1
  below = jnp.clip(jnp.ceil(share - uniform[:, None]).astype(jnp.int32), 0, particles)
  last = particles - 1 - jnp.argmax(positive[:, ::-1], axis=1)
  below = jnp.where(index[None] == last[:, None], particles, jnp.where(positive, below, 0))
  below = jax.lax.cummax(below, axis=1)
  ancestors = jax.vmap(lambda below: jnp.searchsorted(below, index, side="right"))(below)
  return jnp.where(positive.any(1)[:, None], ancestors.astype(jnp.int32), index[None])


def lineage(ancestors: Array) -> Array:
  """Where the final particles come from: their ancestors' indices at every time.

  Args:
    ancestors: (T, P, M); entry k maps a particle after the resampling at time k to the one before it.

  Returns:
    (T, P, M): [k, p, m] is the index, before the resampling at time k, of the ancestor of particle m of
    the end; [0] is its index at the first time.
  """

  def back(index, ancestors):
    index = jnp.take_along_axis(ancestors, index, axis=1)
    return index, index

  end = jnp.broadcast_to(jnp.arange(ancestors.shape[2], dtype=ancestors.dtype), ancestors.shape[1:])
  return jax.lax.scan(back, end, ancestors, reverse=True)[1]


def _relative(log_weights: Array) -> Array:
  """Weights relative to the largest of the population; all 0 where all are."""
  peak = log_weights.max(1, keepdims=True)
  return jnp.exp(log_weights - jnp.where(jnp.isfinite(peak), peak, 0.0))
