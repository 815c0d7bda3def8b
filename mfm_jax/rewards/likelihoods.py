"""Gaussian likelihoods as rewards: closed-form tilt, V and grad V for mixtures (MATH 8)."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.types import Array, Cond


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GaussianLikelihood:
  """r(x) = -|A x - y|^2 / (2 sigma^2), the log-likelihood of y = A x + sigma noise.

  Attributes:
    matrix: A, (m, d).
    observed: y, (m,).
    sigma: standard deviation of the observation's noise, positive.

  Raises:
    ValueError: shapes that disagree, sigma not positive, values that are not finite.
  """

  matrix: np.ndarray
  observed: np.ndarray
  sigma: float

  def __post_init__(self):
    # NumPy in float64: rounded once, to the precision of x, in the call.
    object.__setattr__(self, "matrix", np.asarray(self.matrix, np.float64))
    object.__setattr__(self, "observed", np.asarray(self.observed, np.float64))
    checks.shape("matrix", self.matrix, (None, None))
    checks.shape("observed", self.observed, self.matrix.shape[:1])
    for name in ("matrix", "observed"):
      if not np.isfinite(getattr(self, name)).all():
        raise ValueError(f"{name} must be finite; got {getattr(self, name)}")
    if not (np.ndim(self.sigma) == 0 and 0 < self.sigma < np.inf):
      raise ValueError(f"sigma must be a positive number; got {self.sigma}")

  def __call__(self, x: Array, cond: Cond = None) -> Array:
    """r(x), (B, ...) -> (B,), in float32 or, for a float64 x, in float64; x is flattened to (B, d).

    Raises:
      ValueError: x with another number of coordinates than A has columns.
    """
    del cond
    x = jnp.asarray(x)
    x = x.reshape(x.shape[0], -1).astype(jnp.promote_types(x.dtype, jnp.float32))
    checks.shape("x, flattened,", x, (None, self.matrix.shape[1]))
    # Precision: an accelerator's default rounds the product's inputs to bfloat16.
    predicted = jnp.matmul(x, jnp.asarray(self.matrix.T, x.dtype), precision="highest")
    residual = (predicted - jnp.asarray(self.observed[None], x.dtype)) / self.sigma
    return -0.5 * (residual**2).sum(-1)


def quadratic(centre, scale: float) -> GaussianLikelihood:
  """r(x) = -|x - centre|^2 / (2 scale^2), centre (d,).

  A = I is stored in full: meant for d up to a few thousand.
  """
  centre = np.asarray(centre, np.float64)
  checks.shape("centre", centre, (None,))
  return GaussianLikelihood(matrix=np.eye(len(centre)), observed=centre, sigma=scale)


def paper_likelihood() -> GaussianLikelihood:
  """The sharp reward of the paper's mixture: A = [1.2, -0.8], y = -1, sigma = 0.2 (MATH 8)."""
  return GaussianLikelihood(matrix=np.array([[1.2, -0.8]]), observed=np.array([-1.0]), sigma=0.2)


def broad_quadratic() -> GaussianLikelihood:
  """r(x) = -|x - (2, 2)|^2 / 8, on which grad V estimators are compared (MATH 11)."""
  return quadratic(np.array([2.0, 2.0]), 2.0)
