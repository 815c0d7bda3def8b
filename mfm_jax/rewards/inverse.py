"""Inverse problems as rewards: the posterior of x given y = A x + sigma noise is the tilt p_1 exp r."""

import dataclasses
from collections.abc import Callable

import jax

from mfm_jax import checks
from mfm_jax.rewards.operators import Operator, check_positive
from mfm_jax.types import Array, Cond, PRNGKey

OBSERVED = "observed"  # the key of cond that holds y


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InverseProblem:
  """r(x) = -|A x - y|^2 / (2 sigma^2) with its own y for each example, cond["observed"], (B, ...).

  Steering hands one cond to the velocity and to the reward, and repeats it for the posterior draws of each
  example. A network refuses keys that it has no input for: give the steerer `without(velocity, OBSERVED)`.

  Attributes:
    operator: A, on data space.
    sigma: standard deviation of the observation's noise, positive.

  Raises:
    ValueError: sigma not positive.
  """

  operator: Operator
  sigma: float

  def __post_init__(self):
    check_positive("sigma", self.sigma)

  def observe(self, key: PRNGKey, x: Array) -> Array:
    """y = A x + sigma noise for x (B, ...)."""
    clean = self.operator(x)
    return clean + self.sigma * jax.random.normal(key, clean.shape, clean.dtype)

  def residual(self, x: Array, y: Array) -> Array:
    """(A x - y) / sigma, shape of y; standard normal values where x is the truth.

    Raises:
      ValueError: a y that is not of the shape of A x, an x that A does not fit.
    """
    checks.shape("observed", y, (x.shape[0], *self.operator.output_shape(x.shape[1:])))
    predicted = self.operator(x)
    return (predicted - y.astype(predicted.dtype)) / self.sigma

  def __call__(self, x: Array, cond: Cond) -> Array:
    """r(x), (B, ...) -> (B,), float32, or float64 for a float64 x.

    Raises:
      ValueError: a cond without y, and as `residual`.
    """
    if cond is None or OBSERVED not in cond:
      raise ValueError(f"cond must hold {OBSERVED!r}, the observation; got {sorted(cond or {})}")
    return -0.5 * (self.residual(x, cond[OBSERVED]) ** 2).reshape(x.shape[0], -1).sum(1)


def without(velocity: Callable, *names: str) -> Callable:
  """A velocity, with context or marginal, that does not see these keys of its cond, its last argument."""

  def wrapped(*args) -> Array:
    *others, cond = args
    seen = {name: leaf for name, leaf in (cond or {}).items() if name not in names}
    return velocity(*others, seen or None)

  return wrapped
