"""One mixture in the plane, with tilted components and unequal weights, and what tests of it share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import interpolants, oracles
from mfm_jax.interpolants import INTERPOLANTS

BOTH = pytest.mark.parametrize("interpolant", INTERPOLANTS.values(), ids=INTERPOLANTS.keys())
WEIGHTS = np.array([0.5, 0.2, 0.3])
MEANS = np.array([[-1.5, 0.5], [0.3, -1.0], [2.0, 1.0]])
COVS = np.array([[[0.5, 0.3], [0.3, 0.4]], [[0.1, 0.0], [0.0, 0.9]], [[0.3, -0.1], [-0.1, 0.2]]])
N = 12  # contexts in most tests: one shape, so that each function is compiled once
posterior = jax.jit(oracles.posterior, static_argnums=1)


def mixture():
  return oracles.gaussian_mixture(WEIGHTS, MEANS, COVS)


def contexts(interpolant, n=N, low=0.0, high=0.8, seed=0):
  """n times from low to high, and at each a state of the marginal law: (n,), (n, 2)."""
  rng = np.random.default_rng(seed)
  t = jnp.linspace(low, high, n)
  component = rng.choice(3, n, p=WEIGHTS)
  x1 = np.stack([rng.multivariate_normal(MEANS[k], COVS[k]) for k in component])
  noise = rng.normal(size=(n, 2))
  return t, interpolants.interpolate(interpolant, t, jnp.asarray(noise), jnp.asarray(x1))


@functools.partial(jax.jit, static_argnums=(1, 2))
def exact_map(law, interpolant, steps, s, u, x_s, t, x_t):
  """The exact mean velocity, compiled once for each interpolant, number of steps and batch shape."""
  return oracles.as_velocity(law, interpolant, steps)(s, u, x_s, t, x_t, None)


def moments(law):
  """Mean and covariance of an unbatched mixture, NumPy float64."""
  weights, means, covs = (np.asarray(v, np.float64) for v in (law.weights, law.means, law.covs))
  mean = weights @ means
  spread = means - mean
  return mean, np.einsum("k,kij->ij", weights, covs + np.einsum("ki,kj->kij", spread, spread))


def standard_errors(draws, mean, cov):
  """Deviations of the sample's mean and covariance from `mean`, `cov`, in their standard errors."""
  n = len(draws)
  centred = draws - mean
  products = np.einsum("ni,nj->nij", centred, centred)
  return (
    centred.mean(0) / (centred.std(0) / np.sqrt(n)),
    (products.mean(0) - cov) / (products.std(0) / np.sqrt(n)),
  )
