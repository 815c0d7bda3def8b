"""From squared errors to per-example losses (MATH 4.9)."""

import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.types import Array

WEIGHTINGS = ("l2", "adaptive", "log")


def squared_error(prediction: Array, target: Array) -> Array:
  """Sum over each sample of the squared difference, in float32 at least: (B, ...) -> (B,)."""
  dtype = jnp.promote_types(prediction.dtype, jnp.float32)
  difference = prediction.astype(dtype) - target.astype(dtype)
  return jnp.sum(difference**2, axis=tuple(range(1, difference.ndim)))


def weighted(
  delta: Array,
  *,
  kind: str,
  size: int,
  power: float = 1.0,
  offset: float = 0.01,
  log_variance: Array | None = None,
) -> Array:
  """The loss of squared errors `delta` (B,) (MATH 4.9).

  Args:
    delta: squared error summed over each sample.
    kind: "l2", delta itself; "adaptive", sg(1 / (delta + offset)^power) delta; "log",
      log(1 + mean-delta e^-W) + W / 2 with the mean over the `size` coordinates.
    size: number of coordinates of a sample.
    power, offset: p and c of the adaptive form.
    log_variance: learned W (B,); None is W = 0. l2 and adaptive become delta e^-W + W.

  Returns:
    (B,).

  Raises:
    ValueError: a log_variance that is not (B,), which would broadcast to all pairs of examples.
  """
  w = jnp.zeros_like(delta) if log_variance is None else log_variance
  checks.shape("log_variance", w, delta.shape)
  if kind == "log":
    return jnp.log1p(delta / size * jnp.exp(-w)) + 0.5 * w
  if kind == "adaptive":
    # The weight is frozen: it rescales the gradient of each example, nothing else.
    delta = jax.lax.stop_gradient((delta + offset) ** -power) * delta
  return delta * jnp.exp(-w) + w
