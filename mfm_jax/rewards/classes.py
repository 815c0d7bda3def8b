"""Class mixtures as rewards: steer samples without labels to given proportions of classes."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.types import Array, Cond, Reward


def class_mixture(log_probs: Callable[[Array], Array], weights: Sequence[float]) -> Reward:
  """r(x) = log sum_c weight_c p(c | x): a data law with equally frequent classes is tilted to `weights`.

  With p_1(c) the frequencies of the data, the tilt has class frequencies proportional to p_1(c) weight_c as
  far as the classifier is sure.

  Args:
    log_probs: classifier on data space, (B, ...) -> (B, C), log p(c | x).
    weights: (C,), non-negative, of any positive sum; they are normalised.

  Raises:
    ValueError: weights that are negative, not finite or all 0; at the first call, another number of classes.
  """
  weights = np.asarray(weights, np.float64)
  checks.shape("weights", weights, (None,))
  checks.in_interval("weights", weights, 0.0, np.finfo(np.float64).max)
  if not weights.sum() > 0:
    raise ValueError(f"weights must have a positive sum; got {weights.tolist()}")
  # Classes of weight 0 are left out, so that neither value nor gradient meets log 0.
  chosen = np.flatnonzero(weights)
  log_weights = np.log(weights[chosen] / weights.sum())

  def reward(x: Array, cond: Cond = None) -> Array:
    del cond
    table = log_probs(x)
    checks.shape("log_probs(x)", table, (x.shape[0], len(weights)))
    table = table.astype(jnp.promote_types(table.dtype, jnp.float32))[:, chosen]
    return jax.nn.logsumexp(table + jnp.asarray(log_weights[None], table.dtype), axis=1)

  return reward
