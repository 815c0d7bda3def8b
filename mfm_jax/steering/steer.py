"""The steered sampler: Euler steps of the guided flow, or Euler-Maruyama of the guided SDE (MATH 6.2)."""

from typing import Any

import jax
import jax.numpy as jnp

from mfm_jax import checks, interpolants
from mfm_jax.interpolants import Interpolant
from mfm_jax.sampling import integrators
from mfm_jax.steering.drifts import RENORMALISATIONS, Guide, renormalised
from mfm_jax.types import Array, PRNGKey, expand_like

SAMPLERS = ("ode", "sde")


def steer(
  key: PRNGKey | None,
  x: Array,
  times: Array,
  guide: Guide,
  interpolant: Interpolant,
  *,
  sampler: str = "sde",
  scale: Array | float = 1.0,
  renormalise: str = "none",
  limit: float = 1.0,
  noise: tuple[Array | None, Array | None] | None = None,
  keep: bool = False,
) -> tuple[Array, dict]:
  """Samples of p_1 exp(r), as far as the guide knows grad V, from the state x at times[0].

      ODE:  dx = (v + (sigma^2 / 2) grad V) dt
      SDE:  dX = (v + (sigma^2 / 2) score + sigma^2 grad V) dt + sigma dW
  Both gains diverge like 1/t where grad V vanishes like t: start at t >= 1e-3, where standard normal noise
  is within O(t) of the law of I_t.

  Args:
    key: typed key; None with `noise`.
    x: (B, ...).
    times: (K + 1,), increasing in [0, 1]; near t = 0 the steps of the SDE must be short against t
      (`times.grid` with power 2).
    guide: see `drifts`; one call a step.
    interpolant: the one that the guide's velocity was trained with.
    sampler: "ode" or "sde".
    scale: multiplies the steering term: 1 for an estimate of grad V; the own guidance scale of DPS.
    renormalise, limit: see `drifts.renormalised`, applied before `scale`.
    noise: (e, z) in place of the key's: e (K, B, N, ...), the guide's; z (K, B, ...), the SDE's. Where
      one is None it comes from the key, if it is needed.
    keep: also return every state.

  Returns:
    x at times[-1], (B, ...), and info as `integrators.ode`, "aux" being what the guide found at
    times[:-1], leaves (K, B).

  Raises:
    ValueError: an unknown sampler or renormalisation; times that break a rule of `check_times`; noise of
      another shape; neither key nor noise.
  """
  checks.one_of("sampler", sampler, SAMPLERS)
  checks.one_of("renormalise", renormalise, RENORMALISATIONS)
  integrators.check_times(times)
  key_guide, key_path = (None, None) if key is None else jax.random.split(key)
  recorded, path_noise = (None, None) if noise is None else noise
  if key is None and noise is None:
    raise ValueError("a key must be given where noise is None; got key=None")
  sources = recorded
  if recorded is None and key_guide is not None:
    sources = jax.random.split(key_guide, len(times) - 1)

  def drift(t: Array, x: Array, source: Array | None = None):
    velocity, gradient, found = guide(source, t, x)
    gain = interpolants.half_sigma_squared(interpolant, t)
    base = velocity
    if sampler == "sde":
      gain, base = 2.0 * gain, interpolants.sde_drift_from_velocity(interpolant, t, x, velocity)
    steering = renormalised(expand_like(gain, x) * gradient, base, renormalise, limit)
    return base + scale * steering, found

  options: dict[str, Any] = {"keep": keep, "inputs": sources, "has_aux": True}
  if sampler == "ode":
    return integrators.ode(x, times, drift, **options)

  def sigma(t: Array) -> Array:
    return jnp.sqrt(2.0 * interpolants.half_sigma_squared(interpolant, t))

  return integrators.sde(key_path, x, times, drift, sigma, noise=path_noise, **options)
