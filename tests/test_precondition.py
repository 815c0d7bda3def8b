"""The Gaussian skip against the inner ODE of Gaussian data, solved by the mixture oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import interpolants, oracles, precondition
from mfm_jax.interpolants import INTERPOLANTS
from mfm_jax.precondition import GaussianSkip

BOTH = pytest.mark.parametrize("interpolant", INTERPOLANTS.values(), ids=INTERPOLANTS.keys())


@functools.partial(jax.jit, static_argnums=1)
def exact_map(law, interpolant, *arguments):
  """The inner ODE; 200 Runge-Kutta steps leave an error below 1e-8."""
  return oracles.as_velocity(law, interpolant, steps=200)(*arguments, None)


def jitted(net, interpolant, data_std):
  """The wrapped network, compiled anew: K_SQUARED_MIN is read when it is traced."""
  skip = GaussianSkip(interpolant=interpolant, data_std=data_std)
  return jax.jit(precondition.precondition(net, skip))


def zero_net(s, u, x_s, t, x_t, cond):
  return jnp.zeros_like(x_s)


def cases(n=60, dtype=np.float64, s_max=0.95, t_max=0.95, seed=0):
  """s <= u (the first third equal, the last with u = s_max), t, and states of order 1."""
  rng = np.random.default_rng(seed)
  s, u = np.sort(rng.uniform(0, s_max, (2, n)), axis=0)
  u[: n // 3] = s[: n // 3]
  u[-n // 3 :] = s_max
  s[-5:] = 0.0
  t = rng.uniform(0, t_max, n)
  t[::7] = 0.0
  x_s, x_t = rng.normal(size=(2, n, 3))
  return [jnp.asarray(value, dtype) for value in (s, u, x_s, t, x_t)]


@pytest.mark.usefixtures("x64")
@BOTH
@pytest.mark.parametrize("data_std", [0.4, 1.0, 2.5])
def test_skip_is_the_exact_map_of_gaussian_data(interpolant, data_std, monkeypatch):
  # Without the offset of k^2 the two agree to the error of the oracle's Runge-Kutta steps.
  monkeypatch.setattr(precondition, "K_SQUARED_MIN", 0.0)
  arguments = cases()
  actual = jitted(zero_net, interpolant, data_std)(*arguments, None)
  expected = exact_map(oracles.gaussian(data_std, 3), interpolant, *arguments)
  np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("x64")
@BOTH
def test_offset_of_the_variance_is_of_its_own_size(interpolant, monkeypatch):
  arguments = cases(s_max=1.0, t_max=0.9)
  with_offset = jitted(zero_net, interpolant, 0.5)(*arguments, None)
  monkeypatch.setattr(precondition, "K_SQUARED_MIN", 0.0)
  without = jitted(zero_net, interpolant, 0.5)(*arguments, None)
  assert jnp.abs(with_offset - without).max() > 0.0
  # d v / d k^2 is bounded by 1 / D_s <= 1 / k^2 there, and k^2 >= 0.008 for t <= 0.9.
  np.testing.assert_allclose(with_offset, without, atol=1e-6 / 0.008 * 4)


@pytest.mark.usefixtures("x64")
@BOTH
def test_network_is_scaled_and_sees_whitened_states(interpolant):
  data_std, n = 0.7, 40_000
  skip = GaussianSkip(interpolant=interpolant, data_std=data_std)
  seen = {}

  def net(s, u, x_s, t, x_t, cond):
    seen.update(s=s, u=u, x_s=x_s, t=t, x_t=x_t, cond=cond)
    return jnp.full_like(x_s, 2.0)

  # x_s and x_t are drawn from their true joint law at a few times.
  keys = jax.random.split(jax.random.key(0), 3)
  x1 = data_std * jax.random.normal(keys[0], (n, 1))
  t = jnp.repeat(jnp.array([0.0, 0.3, 0.8, 0.95]), n // 4)
  s = jnp.tile(jnp.array([0.0, 0.4, 0.9, 1.0]), n // 4)
  x_t = interpolants.interpolate(interpolant, t, jax.random.normal(keys[1], (n, 1)), x1)
  x_s = interpolants.interpolate(interpolant, s, jax.random.normal(keys[2], (n, 1)), x1)
  u = jnp.ones_like(s)
  cond = {"label": jnp.zeros(n, jnp.int32)}
  difference = precondition.precondition(net, skip)(s, u, x_s, t, x_t, cond) - precondition.precondition(
    zero_net, skip
  )(s, u, x_s, t, x_t, cond)
  assert seen["cond"] is cond
  for name, value in (("s", s), ("u", u), ("t", t)):
    np.testing.assert_array_equal(seen[name], value)
  groups = np.asarray(seen["x_s"]).reshape(4, -1, 4).transpose(0, 2, 1).reshape(16, -1)
  size = groups.shape[1]
  # Unit variance at every (s, t): the standard error of a variance is sqrt(2 / size).
  np.testing.assert_allclose(groups.var(1), 1.0, atol=4 * np.sqrt(2 / size) + 1e-3)
  np.testing.assert_allclose(groups.mean(1), 0.0, atol=4 / np.sqrt(size))
  # The context vanishes with t and is E[x1 | x_t] in units of the data's deviation.
  slope = np.sum(np.asarray(x1 * x_t).reshape(4, -1), 1) / np.sum(np.asarray(x_t**2).reshape(4, -1), 1)
  gain = np.asarray(seen["x_t"] / x_t).reshape(4, -1)
  np.testing.assert_allclose(gain[0], 0.0, atol=1e-15)
  np.testing.assert_allclose(gain.mean(1) * data_std, slope, atol=4 / np.sqrt(n // 4))
  # k / sqrt D_s: the deviation of x1 over that of x_s given x_t, here from the residuals.
  residual = np.asarray(x1).reshape(4, -1) - gain * data_std * np.asarray(x_t).reshape(4, -1)
  scale = np.asarray(difference).reshape(4, -1, 4)[:, 0] / 2.0
  k = residual.std(1)
  a, b = np.asarray(interpolant.a(s[:4])), np.asarray(interpolant.b(s[:4]))
  d_s = np.sqrt(a**2 + b**2 * k[:, None] ** 2)
  np.testing.assert_allclose(scale, k[:, None] / d_s, rtol=4 * np.sqrt(2 / size))


@pytest.mark.usefixtures("x64")
@BOTH
def test_time_derivatives_agree_with_finite_differences(interpolant):
  def net(s, u, x_s, t, x_t, cond):
    return jnp.sin(x_s + x_t + s[:, None] * u[:, None])

  velocity = jitted(net, interpolant, 0.6)
  s, u, x_s, t, x_t = cases()
  s, u, h = s + 0.01, u + 0.01, 1e-5
  one, zero = jnp.ones_like(s), jnp.zeros_like(s)
  for ds, du in ((one, zero), (zero, one), (one, one)):

    def at(d, ds=ds, du=du):
      return velocity(s + d * ds, u + d * du, x_s, t, x_t, None)

    slope = jax.jvp(at, (0.0,), (1.0,))[1]
    np.testing.assert_allclose(slope, (at(h) - at(-h)) / (2 * h), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("x64")
@BOTH
def test_diagonal_is_the_limit_of_small_gaps(interpolant):
  velocity = jitted(zero_net, interpolant, 0.6)
  s, _, x_s, t, x_t = cases()
  gap = 1e-9
  near = velocity(s, s + gap, x_s, t, x_t, None)
  np.testing.assert_allclose(velocity(s, s, x_s, t, x_t, None), near, atol=1e-7)


@BOTH
def test_values_and_derivatives_are_finite_at_every_corner(interpolant):
  corners = [(s, u, t) for s in (0.0, 1.0) for u in (0.0, 1.0) for t in (0.0, 1.0) if s <= u]
  s, u, t = (jnp.asarray(c, jnp.float32) for c in zip(*corners))
  x_s, x_t = jax.random.normal(jax.random.key(0), (2, len(corners), 3))
  velocity = jitted(lambda s, u, x_s, t, x_t, cond: jnp.tanh(x_s + x_t), interpolant, 0.5)

  def at(*z):
    return velocity(*z, None)

  assert jnp.isfinite(at(s, u, x_s, t, x_t)).all()
  gradients = jax.grad(lambda *z: at(*z).sum(), argnums=(0, 1, 2, 3, 4))(s, u, x_s, t, x_t)
  assert all(jnp.isfinite(g).all() for g in gradients)

  def tangent(s, u):
    return jax.jvp(lambda s, u: at(s, u, x_s, t, x_t), (s, u), (jnp.ones_like(s),) * 2)[1]

  assert jnp.isfinite(tangent(s, u)).all()
  second = jax.jit(jax.grad(lambda s, u: tangent(s, u).sum(), argnums=(0, 1)))(s, u)
  assert all(jnp.isfinite(g).all() for g in second)


@BOTH
def test_float32_does_not_cancel_near_the_corner(interpolant):
  """Near s = t = 1, D_s is 1e-6 and a rounded 2 - u - s or sin(pi) would show."""
  near = np.array([0.9, 1 - 1e-3, 1 - 1e-5, 1 - 1.2e-7, 1.0], np.float32)
  s, u, t = (g.ravel() for g in np.meshgrid(near, near, near, indexing="ij"))
  s, u, t = (value[s <= u] for value in (s, u, t))
  x_s, x_t = np.ones((len(s), 1), np.float32), np.zeros((len(s), 1), np.float32)
  velocity = jitted(zero_net, interpolant, 1.0)
  single = velocity(*map(jnp.asarray, (s, u, x_s, t, x_t)), None)
  with jax.enable_x64(True):
    wide = [jnp.asarray(value, jnp.float64) for value in (s, u, x_s, t, x_t)]
    double = np.asarray(velocity(*wide, None))
  np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-5)


@BOTH
def test_loss_weight_balances_the_gain_of_the_network(interpolant):
  skip = GaussianSkip(interpolant=interpolant, data_std=0.5)
  s, t = (jnp.asarray(g.ravel()) for g in np.meshgrid(*[np.linspace(0, 1, 21)] * 2))

  def ones(s, u, x_s, t, x_t, cond):
    return jnp.ones_like(x_s)

  zeros = jnp.zeros((len(s), 1))
  gain = precondition.precondition(ones, skip)(s, s, zeros, t, zeros, None)[:, 0]
  weight = skip.loss_weight(s, t)
  np.testing.assert_allclose(weight * (gain**2 + 0.01), 1.0, rtol=1e-5)
  assert jnp.isfinite(weight).all()


def test_errors_state_rule_name_and_value():
  with pytest.raises(ValueError, match=r"data_std must be positive; got 0.0"):
    GaussianSkip(interpolant=interpolants.Linear(), data_std=0.0)
  with pytest.raises(ValueError, match=r"data_std must be positive; got nan"):
    GaussianSkip(interpolant=interpolants.Linear(), data_std=float("nan"))
  with pytest.raises(ValueError, match=r"interpolant must be Linear or Trigonometric .*got 'linear'"):
    GaussianSkip(interpolant="linear", data_std=1.0)
