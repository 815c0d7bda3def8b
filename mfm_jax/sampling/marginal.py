"""Drifts that carry noise to data: the probability flow and the sampling SDE (MATH 1)."""

import jax.numpy as jnp

from mfm_jax import interpolants
from mfm_jax.interpolants import Interpolant
from mfm_jax.sampling.integrators import Drift, Scale
from mfm_jax.types import Array, Cond, MarginalVelocity


def probability_flow(marginal: MarginalVelocity, cond: Cond = None) -> Drift:
  """The drift v_t(x) of the deterministic flow, with `cond` bound. Valid on all of [0, 1]."""
  return lambda t, x: marginal(t, x, cond)


def diffusion(marginal: MarginalVelocity, interpolant: Interpolant, cond: Cond = None) -> tuple[Drift, Scale]:
  """Drift 2 v - (b'/b) x and sigma of the SDE with the same marginals, for `integrators.sde`.

  Both are singular at t = 0 and clipped there (`interpolants.CLIP`): start at t >= 1e-3.
  """

  def drift(t: Array, x: Array) -> Array:
    return interpolants.sde_drift_from_velocity(interpolant, t, x, marginal(t, x, cond))

  def sigma(t: Array) -> Array:
    return jnp.sqrt(2.0 * interpolants.half_sigma_squared(interpolant, t))

  return drift, sigma
