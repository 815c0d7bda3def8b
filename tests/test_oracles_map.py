"""The exact map against an adaptive ODE solver, its own limits and the posterior law of its draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixture_case import BOTH, N, contexts, exact_map, mixture, moments, posterior, standard_errors
from scipy import integrate

from mfm_jax import flow_map, oracles
from mfm_jax.interpolants import Linear


@BOTH
def test_posterior_draws_and_the_exact_map_have_the_posterior_law(interpolant):
  n = 10_000
  t, x = contexts(interpolant, n=4, low=0.0, high=0.9)
  t, x = t.astype(jnp.float32), x.astype(jnp.float32)
  draws = oracles.posterior_sample(jax.random.key(1), mixture(), interpolant, t, x, n)
  assert draws.shape == (4, n, 2)
  noise = jax.random.normal(jax.random.key(2), (4 * n, 2))
  draw = functools.partial(flow_map.posterior_map, lambda *z: exact_map(mixture(), interpolant, 32, *z[:5]))
  mapped = jax.jit(draw)(noise, jnp.repeat(t, n), jnp.repeat(x, n, axis=0)).reshape(4, n, 2)
  law = posterior(mixture(), interpolant, t, x)
  for i in range(4):
    exact = moments(jax.tree.map(lambda leaf, i=i: leaf[i], law))
    for sample in (draws, mapped):
      for deviation in standard_errors(np.asarray(sample[i], np.float64), *exact):
        assert np.abs(deviation).max() < 4.5  # 4 standard errors, for 80 comparisons


@pytest.mark.usefixtures("x64")
@BOTH
def test_exact_map_agrees_with_an_adaptive_solver(interpolant):
  t, x_t = contexts(interpolant, high=0.9)
  x_s = np.random.default_rng(3).normal(size=(N, 2))
  s, u = np.tile([0.0, 0.1, 0.3, 0.0], N // 4), np.tile([1.0, 0.9, 0.7, 0.95], N // 4)
  mean = exact_map(mixture(), interpolant, 64, jnp.asarray(s), jnp.asarray(u), jnp.asarray(x_s), t, x_t)
  actual = x_s + (u - s)[:, None] * np.asarray(mean)

  # All contexts at once, each run over its own [s, u] by a common clock in [0, 1]. The velocity of a
  # posterior law is that of a mixture, which the quadrature above has checked.
  law = posterior(mixture(), interpolant, t, x_t)
  at = jax.vmap(lambda law, r, x: oracles.velocity(law, interpolant, r[None], x[None])[0])
  rate = jax.jit(lambda clock, x: (u - s)[:, None] * at(law, s + (u - s) * clock, x))
  solved = integrate.solve_ivp(
    lambda clock, x: np.asarray(rate(clock, x.reshape(N, 2))).ravel(),
    (0.0, 1.0),
    x_s.ravel(),
    method="DOP853",
    rtol=1e-8,
    atol=1e-8,
  )
  # 2e-5: the error of 64 Runge-Kutta steps.
  np.testing.assert_allclose(actual, solved.y[:, -1].reshape(N, 2), atol=2e-5)


@pytest.mark.usefixtures("x64")
def test_exact_map_converges_at_fourth_order():
  t, x_t = contexts(Linear())
  x_s = jnp.asarray(np.random.default_rng(4).normal(size=(N, 2)))
  s, u = jnp.zeros(N), jnp.full(N, 0.9)  # short of the last 1e-4, where the clip of a bends the schedule
  exact = exact_map(mixture(), Linear(), 256, s, u, x_s, t, x_t)
  steps = [16, 64]
  values = [exact_map(mixture(), Linear(), count, s, u, x_s, t, x_t) for count in steps]
  errors = [float(jnp.sqrt(((value - exact) ** 2).mean())) for value in values]
  slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
  assert -4.6 < slope < -3.6


@pytest.mark.usefixtures("x64")
@BOTH
def test_exact_map_resolves_narrow_posteriors(interpolant):
  """The default of 32 steps against 512, with posteriors down to a hundredth of the data's width."""
  x_s = jnp.asarray(np.random.default_rng(7).normal(size=(N, 2)))
  t, x_t = contexts(interpolant, low=0.3, high=0.99)
  zero, one = jnp.zeros(N), jnp.ones(N)
  default, fine = (exact_map(mixture(), interpolant, k, zero, one, x_s, t, x_t) for k in (32, 512))
  np.testing.assert_allclose(default, fine, atol=1e-4)


@BOTH
def test_exact_map_has_no_noise_at_small_gaps_in_float32(interpolant):
  t, x_t = contexts(interpolant)
  t, x_t = t.astype(jnp.float32), x_t.astype(jnp.float32)
  x_s = jax.random.normal(jax.random.key(3), x_t.shape)
  s = jnp.linspace(0.0, 0.9, N)
  diagonal = exact_map(mixture(), interpolant, 32, s, s, x_s, t, x_t)
  law = posterior(mixture(), interpolant, t, x_t)
  at = jax.jit(jax.vmap(lambda law, s, x: oracles.velocity(law, interpolant, s[None], x[None])[0]))
  np.testing.assert_allclose(diagonal, at(law, s, x_s), rtol=1e-4, atol=1e-5)
  for gap in (1e-7, 1e-6, 1e-5):
    mean = exact_map(mixture(), interpolant, 32, s, s + gap, x_s, t, x_t)
    # The velocity itself changes by about 10 gap; written as a difference of times it was wrong by a third.
    np.testing.assert_allclose(mean, diagonal, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("x64")
@BOTH
def test_exact_map_is_smooth_in_its_times(interpolant):
  """d/ds and d/du of the mean velocity, at u = s too, where both are half of the velocity's own rate."""
  t, x_t = contexts(interpolant, high=0.7)
  x_s = jnp.asarray(np.random.default_rng(5).normal(size=x_t.shape))
  s = jnp.linspace(0.05, 0.8, N)
  h = 1e-5

  def call(s, u):
    return exact_map(mixture(), interpolant, 64, s, u, x_s, t, x_t)

  for gap in (0.0, 0.15):
    u = s + gap
    for ds, du in ((1.0, 0.0), (0.0, 1.0)):
      slope = jax.jvp(call, (s, u), (jnp.full(N, ds), jnp.full(N, du)))[1]
      # At u = s the difference steps to s > u too: the formula is smooth across.
      difference = call(s + h * ds, u + h * du) - call(s - h * ds, u - h * du)
      np.testing.assert_allclose(slope, difference / (2 * h), rtol=1e-4, atol=1e-5)
