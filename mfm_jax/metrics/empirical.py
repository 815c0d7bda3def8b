"""The exact posterior when the data distribution is a finite set of examples.

A noisy state x_t = a(t) n + b(t) x1 with x1 drawn from x^1 .. x^n has, by Bayes' rule,

    p(x1 = x^i | x_t)  proportional to  prior_i exp( -|x_t - b(t) x^i|^2 / (2 a(t)^2) ).

A network that generalises smooths this law, so compare what survives the smoothing: the class
posterior rather than the weights, and at small and middle t; towards t = 1 the law is the nearest
training example's. NumPy in float64, weights in the log domain.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.interpolants import CLIP, Interpolant

BLOCK = 1 << 22  # entries of the table of weights that are worked on at a time


def posterior_weights(interpolant: Interpolant, t, x_t, data, *, prior=None) -> np.ndarray:
  """p(x1 = x^i | x_t) for each context and example.

  a(t) is clipped from below by `interpolants.CLIP`: at t = 1 the weight is the nearest example's
  (shared by equal ones) as far as squared distances differ by more than about 1e-7. At t = 0 the
  weights are the prior's.

  Args:
    interpolant: the run's.
    t: a number or (C,), in [0, 1].
    x_t: (C, ...), contexts in model space.
    data: (n, ...), the examples.
    prior: (n,) or (C, n), non-negative, of any sum; uniform by default. `label_prior` makes one
      that is restricted to a label.

  Returns:
    float64 (C, n), rows that sum to 1.

  Raises:
    ValueError: shapes that disagree, no examples, values that are not finite, t outside [0, 1], a
      negative prior or one without a positive entry.
  """
  data, x_t = np.asarray(data, np.float64), np.asarray(x_t, np.float64)
  checks.at_least("the number of examples", len(data), 1)
  checks.shape("x_t", x_t, (None, *data.shape[1:]))
  for name, array in (("data", data), ("x_t", x_t)):
    if not np.isfinite(array).all():
      raise ValueError(f"{name} must be finite; got {array[~np.isfinite(array)][0]}")
  contexts, n = len(x_t), len(data)
  checks.in_interval("t", t)
  if np.ndim(t):
    checks.shape("t", t, (contexts,))
  log_prior = _log_prior(prior, contexts, n)
  a, b = _schedules(interpolant, np.broadcast_to(np.asarray(t, np.float64), (contexts,)))

  data = data.reshape(n, -1)
  x_t = x_t.reshape(contexts, data.shape[1])
  half_square = 0.5 * (data**2).sum(1)
  weights = np.empty((contexts, n))
  rows = max(1, BLOCK // n)
  for start in range(0, contexts, rows):
    block = slice(start, start + rows)
    scale = b[block, None]
    # -|x_t - b x|^2 / 2 without |x_t|^2 / 2, which all examples share: one matrix product.
    log_weight = scale * (x_t[block] @ data.T) - scale**2 * half_square
    log_weight /= a[block, None] ** 2
    log_weight += log_prior[block] if len(log_prior) > 1 else log_prior
    log_weight -= log_weight.max(1, keepdims=True)
    np.exp(log_weight, out=log_weight)
    weights[block] = log_weight / log_weight.sum(1, keepdims=True)
  return weights


def label_prior(labels, wanted) -> np.ndarray:
  """The prior that is uniform over the examples of each context's label.

  Args:
    labels: int (n,), of the examples.
    wanted: int (C,), of the contexts.

  Returns:
    float64 (C, n) for `posterior_weights`.

  Raises:
    ValueError: other shapes, a wanted label that no example has.
  """
  labels, wanted = np.asarray(labels), np.asarray(wanted)
  checks.shape("labels", labels, (None,))
  checks.shape("wanted", wanted, (None,))
  missing = ~np.isin(wanted, labels)
  if missing.any():
    raise ValueError(f"wanted must be a label of some example; got {wanted[missing][0]}")
  return (wanted[:, None] == labels).astype(np.float64)


def class_posterior(weights, labels, num_classes: int) -> np.ndarray:
  """p(class | x_t), float64 (C, num_classes), from weights (C, n) and labels int (n,).

  Raises:
    ValueError: shapes that disagree, a label that is not an integer in [0, num_classes).
  """
  weights, labels = np.asarray(weights, np.float64), np.asarray(labels)
  checks.shape("labels", labels, (None,))
  checks.shape("weights", weights, (None, len(labels)))
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(f"labels must be integers; got {labels.dtype}")
  checks.in_interval("labels", labels, 0, num_classes - 1)
  return weights @ np.eye(num_classes)[labels]


def _log_prior(prior, contexts: int, n: int) -> np.ndarray:
  """(1, n) or (C, n); -inf where the prior is 0."""
  if prior is None:
    return np.zeros((1, n))
  prior = np.asarray(prior, np.float64)
  checks.shape("prior", prior, (n,) if prior.ndim == 1 else (contexts, n))
  checks.in_interval("prior", prior, 0.0, np.finfo(np.float64).max)
  prior = np.atleast_2d(prior)
  if not prior.any(1).all():
    raise ValueError(
      f"prior must have a positive entry for each context; got none in row {np.flatnonzero(~prior.any(1))[0]}"
    )
  with np.errstate(divide="ignore"):
    return np.log(prior)


def _schedules(interpolant: Interpolant, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """a(t), clipped, and b(t) in float64: near t = 1 an error of b is divided by a(t)^2."""
  with jax.enable_x64(True):
    times = jnp.asarray(t, jnp.float64)
    a, b = np.asarray(interpolant.a(times)), np.asarray(interpolant.b(times))
  return np.maximum(a, CLIP), b
