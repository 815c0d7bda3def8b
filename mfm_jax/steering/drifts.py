"""Steered drifts: a base drift plus gain(t) grad V(t, x) (MATH 6.2).

`grad_value` is any function (t_B, x) -> array like x, so the estimators of `value`, a closed form
and DPS are exchangeable. Both gains diverge like 1/t where grad V vanishes like t: integrate from
t >= 1e-3.
"""

from collections.abc import Callable

import jax

from mfm_jax import interpolants
from mfm_jax.interpolants import Interpolant
from mfm_jax.sampling.integrators import Drift
from mfm_jax.types import Array, Cond, MarginalVelocity, Reward, expand_like

GradValue = Callable[[Array, Array], Array]
Gain = Callable[[Array], Array]


def steered(drift: Drift, grad_value: GradValue, gain: Gain) -> Drift:
  """drift(t, x) + gain(t) grad_value(t, x)."""
  return lambda t, x: drift(t, x) + expand_like(gain(t), x) * grad_value(t, x)


def ode_gain(interpolant: Interpolant) -> Gain:
  """sigma^2 / 2, for the probability flow (MATH 6.2)."""
  return lambda t: interpolants.half_sigma_squared(interpolant, t)


def sde_gain(interpolant: Interpolant) -> Gain:
  """sigma^2, for the sampling SDE (MATH 6.2)."""
  return lambda t: 2.0 * interpolants.half_sigma_squared(interpolant, t)


def dps_gradient(
  marginal: MarginalVelocity, interpolant: Interpolant, reward: Reward, cond: Cond = None
) -> GradValue:
  """grad_x r(D_t(x)) (MATH 6.6): the reward at the posterior mean, which is not the value.

  Biased wherever the posterior has spread, at every number of steps. Costs one evaluation and one
  backward pass.
  """

  def gradient(t: Array, x: Array) -> Array:
    def total(x):
      velocity = marginal(t, x, cond)
      return reward(interpolants.denoiser_from_velocity(interpolant, t, x, velocity), cond).sum()

    return jax.grad(total)(x)

  return gradient
