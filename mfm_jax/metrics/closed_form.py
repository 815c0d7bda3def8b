"""A map on a Gaussian mixture against the closed forms: its posterior draws, V and grad V (MATH 8)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import interpolants, oracles
from mfm_jax.interpolants import Interpolant
from mfm_jax.metrics.distances import relative_posterior_sw2
from mfm_jax.oracles import GaussianMixture
from mfm_jax.rewards.likelihoods import GaussianLikelihood
from mfm_jax.sampling import posterior
from mfm_jax.steering import value
from mfm_jax.types import Array, PRNGKey, Velocity

POSTERIOR_TIMES = (0.0, 0.1, 0.2, 0.5, 0.8, 0.95)
VALUE_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
BATCH = 1 << 15  # network evaluations at a time


def posterior_rows(
  key: PRNGKey,
  velocity: Velocity,
  mixture: GaussianMixture,
  interpolant: Interpolant,
  *,
  times: Sequence[float] = POSTERIOR_TIMES,
  contexts: int = 64,
  draws: int = 1024,
  steps: int = 1,
) -> list[dict[str, float]]:
  """Relative sliced W2 of posterior draws at each t, beside the floor of two exact samples.

  Returns:
    Rows {"t", "sw2", "floor"}: S-W2 over the exact posterior's standard deviation (root of the mean
    coordinate variance), mean over `contexts` states x_t ~ p_t.
  """

  @jax.jit
  def sample(key, t):
    key_data, key_draw, key_exact, key_floor = jax.random.split(key, 4)
    t_B, x_t = _contexts(key_data, mixture, interpolant, t, contexts)
    drawn = posterior.draw(key_draw, velocity, t_B, x_t, draws=draws, steps=steps)
    exact = [
      oracles.posterior_sample(key, mixture, interpolant, t_B, x_t, draws) for key in (key_exact, key_floor)
    ]
    _, covs = jax.vmap(oracles.moments)(oracles.posterior(mixture, interpolant, t_B, x_t))
    std = jnp.sqrt(jnp.trace(covs, axis1=1, axis2=2) / x_t.shape[-1])
    return drawn, *exact, std

  rows = []
  for i, t in enumerate(times):
    drawn, exact, again, std = map(np.asarray, sample(jax.random.fold_in(key, i), t))
    rows.append(
      {
        "t": t,
        "sw2": float(relative_posterior_sw2(drawn, exact, std)),
        "floor": float(relative_posterior_sw2(again, exact, std)),
      }
    )
  return rows


def value_rows(
  key: PRNGKey,
  velocity: Velocity,
  mixture: GaussianMixture,
  interpolant: Interpolant,
  reward: GaussianLikelihood,
  *,
  times: Sequence[float] = VALUE_TIMES,
  states: int = 256,
  draws: int = 16384,
) -> list[dict[str, float]]:
  """Errors of V and of grad V (MFM-GF) by N = `draws` posterior draws at each t.

  Returns:
    Rows {"t", "value_error", "value_floor", "value_relative", "grad_relative", "grad_floor"}: rms
    error of V, the same of exact posterior draws (what is left is Monte Carlo), rms error over rms
    value, and for grad V rms error over rms value, again beside exact draws.
  """
  tilt = reward.matrix, reward.observed, reward.sigma
  chunk = max(BATCH // states, 1)

  def estimates(keys, velocity, t_B, x_t):
    estimate = value.estimate_value(keys[0], velocity, t_B, x_t, reward, draws=draws, chunk=chunk)
    gf = value.value_and_grad_gf(keys[1], velocity, interpolant, t_B, x_t, reward, draws=draws, chunk=chunk)
    return estimate.value, gf[1]

  @jax.jit
  def errors(key, t):
    key_data, key_v, key_grad = jax.random.split(key, 3)
    t_B, x_t = _contexts(key_data, mixture, interpolant, t, states)
    exact_value = oracles.value(mixture, interpolant, t_B, x_t, *tilt)
    exact_grad = oracles.grad_value(mixture, interpolant, t_B, x_t, *tilt)
    out: dict[str, tuple[Array, Array]] = {}
    sampler = oracles.as_sampler(mixture, interpolant)
    for name, source in (("", velocity), ("floor", sampler)):
      keys = [jax.random.fold_in(key, len(out)) for key in (key_v, key_grad)]
      v, grad = estimates(keys, source, t_B, x_t)
      out[name] = _rms(v - exact_value), _rms(grad - exact_grad)
    return out, _rms(exact_value), _rms(exact_grad)

  rows = []
  for i, t in enumerate(times):
    out, size, grad_size = jax.device_get(errors(jax.random.fold_in(key, i), t))
    rows.append(
      {
        "t": t,
        "value_error": float(out[""][0]),
        "value_floor": float(out["floor"][0]),
        "value_relative": float(out[""][0] / size),
        "grad_relative": float(out[""][1] / grad_size),
        "grad_floor": float(out["floor"][1] / grad_size),
      }
    )
  return rows


def _contexts(key, mixture, interpolant, t, n):
  key_noise, key_data = jax.random.split(key)
  x1 = oracles.sample(key_data, mixture, n)
  t_B = jnp.full((n,), t)
  return t_B, interpolants.interpolate(interpolant, t_B, jax.random.normal(key_noise, x1.shape), x1)


def _rms(x):
  """Root mean square over the states of the Euclidean norm."""
  return jnp.sqrt(jnp.mean(jnp.sum(x.reshape(x.shape[0], -1) ** 2, axis=-1)))
