"""How far a fine-tuned flow is from its base: the divergence of their diffusions on path space."""

import jax.numpy as jnp

from mfm_jax import interpolants
from mfm_jax.interpolants import Interpolant
from mfm_jax.sampling import integrators, marginal
from mfm_jax.types import Array, Cond, MarginalVelocity, PRNGKey


def path_kl(
  key: PRNGKey,
  x: Array,
  times: Array,
  finetuned: MarginalVelocity,
  base: MarginalVelocity,
  interpolant: Interpolant,
  cond: Cond = None,
) -> tuple[Array, Array]:
  """Samples of the fine-tuned SDE, and an estimate of its path measure's KL divergence to that of the base.

  The two drifts (MATH 1, 2 v - (b'/b) x) differ by 2 (v_ft - v_base), sigma is the same. So by Girsanov
      KL = E_ft int |2 (v_ft - v_base)|^2 / (2 sigma^2) dt = E_ft int |v_ft - v_base|^2 / (sigma^2/2) dt,
  which bounds KL(samples | base samples), and equals it at the fixed point of MATH 7. It is a left sum.

  Args:
    key: typed key.
    x: (B, ...), the state at times[0].
    times: (K + 1,), as of `integrators.sde`.
    finetuned, base: v_ft, v_base.
    interpolant: of both.
    cond: conditioning, leaves (B,).

  Returns:
    x at times[-1] and the integral along each path, (B,).

  Raises:
    ValueError: times that break a rule of `integrators.check_times`.
  """
  sigma = marginal.diffusion(finetuned, interpolant, cond)[1]

  def drift(t: Array, x: Array) -> tuple[Array, Array]:
    v_ft, v_base = finetuned(t, x, cond), base(t, x, cond)
    square = ((v_ft - v_base) ** 2).reshape(len(x), -1).sum(1)
    rate = square / interpolants.half_sigma_squared(interpolant, t)
    return interpolants.sde_drift_from_velocity(interpolant, t, x, v_ft), rate

  x, info = integrators.sde(key, x, times, drift, sigma, has_aux=True)
  return x, (jnp.diff(times)[:, None] * info["aux"]).sum(0)
