"""GLASS against recorded coefficients and against conditioning Gaussian components on both states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixture_case import BOTH, COVS, MEANS, WEIGHTS, mixture

from mfm_jax import glass, interpolants, oracles
from mfm_jax.interpolants import INTERPOLANTS
from mfm_jax.types import expand_like

PUBLISHED_CLAMP = 1e-6  # the published code clamps d from below by this; there it is not the exact velocity
GOLDEN_NAMES = {
  "time": "t_star",
  "x_t_in_star": "coeff_xt_in_xstar",
  "x_s_in_star": "coeff_Is_in_xstar",
  "x_s": "B_Is",
  "x_t": "A_xt",
  "velocity": "coeff_vstar",
}

coefficients = jax.jit(glass.coefficients, static_argnums=0)


def conditional_velocity(xp, interpolant, time, x, context=None):
  """E[dI_time/dt | I_time = x and, if given, a second observation (t, x_t)] at one point.

  Component by component the observations and the velocity are jointly Gaussian: plain linear conditioning,
  with no interpolant algebra.
  """
  observed = [(time, x)] + ([context] if context is not None else [])
  gains = [(interpolant.a(r), interpolant.b(r)) for r, _ in observed]
  rates = interpolant.da(time), interpolant.db(time)
  states = xp.concatenate([state for _, state in observed])
  size = x.shape[0]
  eye = xp.eye(size)
  log_joint, velocities = [], []
  for weight, mean, cov in zip(WEIGHTS, MEANS, COVS):
    blocks = [
      [gi[1] * gj[1] * cov + (gi[0] ** 2 * eye if i == j else 0.0) for j, gj in enumerate(gains)]
      for i, gi in enumerate(gains)
    ]
    total = xp.concatenate([xp.concatenate(row, 1) for row in blocks])
    # Only the first observation shares its noise with the velocity.
    cross = xp.concatenate(
      [rates[1] * b * cov + (rates[0] * a * eye if i == 0 else 0.0) for i, (a, b) in enumerate(gains)],
      1,
    )
    residual = states - xp.concatenate([b * mean for _, b in gains])
    solved = xp.linalg.solve(total, residual)
    velocities.append(rates[1] * mean + cross @ solved)
    log_det = xp.linalg.slogdet(total)[1]
    log_joint.append(xp.log(weight) - 0.5 * (residual @ solved) - 0.5 * log_det)
  log_joint = xp.stack(log_joint)
  shares = xp.exp(log_joint - log_joint.max())
  return (shares / shares.sum()) @ xp.stack(velocities)


def teacher(interpolant):
  """The exact marginal velocity of the mixture, nothing clipped."""

  def at(t, x):
    return conditional_velocity(jnp, interpolant, t, x)

  return lambda t, x, cond: jax.vmap(at)(t, x)


class NumpySchedules:
  """a, b, a', b' of an interpolant by hand, in float64."""

  def __init__(self, name):
    h = np.pi / 2
    linear = (lambda t: 1 - t), (lambda t: t), (lambda t: -1.0), (lambda t: 1.0)
    trigonometric = (
      lambda t: np.sin(h * (1 - t)),
      lambda t: np.sin(h * t),
      lambda t: -h * np.sin(h * t),
      lambda t: h * np.sin(h * (1 - t)),
    )
    self.a, self.b, self.da, self.db = linear if name == "linear" else trigonometric


def square(values):
  """All pairs (s, t) of `values`, flattened."""
  s, t = np.meshgrid(values, values, indexing="ij")
  return s.ravel(), t.ravel()


def states(n, seed=0):
  return np.random.default_rng(seed).normal(size=(2, n, 2))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("edge", [False, True], ids=["grid", "edge"])
def test_coefficients_agree_with_the_published_table(golden, edge):
  table = golden("B_glass_coefficients")
  s, t = table["s_edge" if edge else "s"], table["t_edge" if edge else "t"]
  s, t = np.meshgrid(s, t, indexing="ij")
  exact = t**2 * (1 - s) ** 2 + (1 - t) ** 2 * s**2 >= PUBLISHED_CLAMP
  # What is left out: the corners (0, 0) and (1, 1), where the published clamp of d is active.
  assert exact.mean() > (0.3 if edge else 0.99)
  ours = coefficients(interpolants.Linear(), jnp.asarray(s.ravel()), jnp.asarray(t.ravel()))
  for name, actual in ours._asdict().items():
    expected = table[("edge_" if edge else "") + GOLDEN_NAMES[name]]
    error = np.abs(np.asarray(actual).reshape(s.shape) - expected)[exact]
    assert error.max() <= 1e-12 * np.abs(expected[exact]).max(), name


def test_teacher_input_and_velocity_agree_with_the_published_run(golden):
  run = golden("B_glass_velocity")
  s, t = run["s"].astype(np.float64), run["t_cond"].astype(np.float64)
  exact = t**2 * (1 - s) ** 2 + (1 - t) ** 2 * s**2 >= PUBLISHED_CLAMP
  assert exact.sum() >= 0.75 * len(s)
  seen = {}

  def recorder(t_star, x_star, cond):
    seen.update(t_star=t_star, x_star=x_star, cond=cond)
    return jnp.zeros_like(x_star)

  arguments = [jnp.asarray(run[name]) for name in ("s", "Is", "t_cond", "xt_cond")]
  out = glass.inner_velocity(recorder, interpolants.Linear(), *arguments, {"label": 1})
  assert seen["cond"] == {"label": 1}

  def per_sample(actual, expected, rows):
    axes = tuple(range(1, expected.ndim))
    error = np.abs(np.asarray(actual) - expected).max(axes)
    bound = np.where((s < 0.01) & (t < 0.01), 3e-4, 2e-5) * np.abs(expected).max(axes)
    assert (error <= bound)[rows].all()

  per_sample(seen["t_star"], run["t_star"], exact)
  per_sample(seen["x_star"], run["x_star"], exact)
  # The teacher was a network whose outputs were not recorded; at t = 1 its coefficient vanishes, so there the
  # velocity is comparable as it stands.
  at_one = exact & (t == 1.0)
  assert at_one.sum() >= 4
  for name in ("out_dmf", "out_sit", "out_nolabel"):
    per_sample(out, run[name], at_one)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", INTERPOLANTS)
def test_inner_velocity_is_the_exact_one_on_the_square(name):
  interpolant = interpolants.get(name)
  values = np.concatenate([[0.0, 1e-7, 1e-3], np.linspace(0.05, 0.95, 13), [1 - 1e-3, 1.0]])
  s, t = square(values)
  keep = ~((s == 1.0) & (t == 1.0))  # both exact: the velocity is infinite there
  s, t = s[keep], t[keep]
  x_s, x_t = states(len(s))
  exact = np.stack(
    [
      conditional_velocity(np, NumpySchedules(name), *here, context)
      for *here, context in zip(s, x_s, zip(t, x_t))
    ]
  )
  ours = jax.jit(glass.as_velocity(teacher(interpolant), interpolant))(
    *map(jnp.asarray, (s, s, x_s, t, x_t)), None
  )
  scale = 1 + np.abs(exact).max(1, keepdims=True)
  # 2e-8: beside s = t = 1 the conditioning of the reference loses (1e-3)^-2 of float64.
  np.testing.assert_array_less(np.abs(ours - exact) / scale, 2e-8)


@pytest.mark.usefixtures("x64")
@BOTH
def test_inner_velocity_is_the_diagonal_of_the_exact_map(interpolant):
  law = mixture()
  s, t = map(jnp.asarray, square(np.linspace(0.0, 0.99, 12)))
  x_s, x_t = map(jnp.asarray, states(len(s), seed=1))
  exact = oracles.as_velocity(law, interpolant, steps=1)
  ours = glass.as_velocity(oracles.as_marginal(law, interpolant), interpolant)
  ours, exact = (jax.jit(f)(s, s, x_s, t, x_t, None) for f in (ours, exact))
  np.testing.assert_allclose(ours, exact, rtol=1e-8, atol=1e-8)


@BOTH
def test_limits(interpolant):
  calls = []

  def marginal(t, x, cond):
    calls.append((t, x))
    return 3.0 + x * t[:, None]

  def inner(s, t):
    s, t = jnp.array([s]), jnp.array([t])
    return glass.inner_velocity(marginal, interpolant, s, x_s, t, x_t)

  x_s, x_t = (jnp.asarray(x, jnp.float32) for x in states(1, seed=2))
  close = {"rtol": 2e-6, "atol": 2e-6}
  for s in (0.0, 0.3, 1.0):  # t = 0: the context says nothing
    np.testing.assert_allclose(inner(s, 0.0), marginal(jnp.array([s]), x_s, None), **close)
    np.testing.assert_allclose(calls[-2][0], s, **close)
  for t in (0.2, 0.9):
    # s = 0 < t: only the context counts; D from v_t by MATH 1.2, v from D by MATH 1.1
    time = jnp.array([t])
    denoised = interpolants.denoiser_from_velocity(interpolant, time, x_t, marginal(time, x_t, None))
    zero = jnp.zeros(1)
    expected = interpolants.velocity_from_denoiser(interpolant, zero, x_s, denoised)
    np.testing.assert_allclose(inner(0.0, t), expected, **close)
    # s = 1 > t: only the inner state counts
    np.testing.assert_allclose(inner(1.0, t), marginal(jnp.ones(1), x_s, None), **close)
  for s in (0.0, 0.5, 0.99):  # t = 1: x1 is known, the teacher has no say
    expected = interpolants.velocity_from_denoiser(interpolant, jnp.array([s]), x_s, x_t)
    np.testing.assert_allclose(inner(s, 1.0), expected, rtol=1e-5)
    np.testing.assert_array_equal(coefficients(interpolant, jnp.array([s]), jnp.ones(1)).velocity, 0.0)
  # Both 1: s is taken at S_MAX.
  np.testing.assert_array_equal(inner(1.0, 1.0), inner(glass.S_MAX, 1.0))


NEAR = np.array([0.0, 1e-20, 1e-10, 1e-5, 3e-5, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-5, 1 - 6e-8, 1.0], np.float32)


@BOTH
def test_float32_does_not_cancel_near_the_limits(interpolant):
  """MATH 3: the bracket as written loses 1e-2 at s = 1e-5."""
  s, t = square(NEAR)
  single = coefficients(interpolant, jnp.asarray(s), jnp.asarray(t))
  with jax.enable_x64(True):
    # What S_MAX is in float32 is not what it is in float64.
    s = np.where(t == 1.0, np.minimum(s, np.float32(glass.S_MAX)), s)
    double = coefficients(interpolant, *(jnp.asarray(x, jnp.float64) for x in (s, t)))
    double = [np.asarray(value) for value in double]
  for name, low, high in zip(single._fields, single, double):
    assert low.dtype == jnp.float32
    error = np.abs(np.asarray(low, np.float64) - high)
    assert (error <= 2e-6 * np.maximum(1.0, np.abs(high))).all(), name


@BOTH
def test_teacher_is_called_at_finite_times_in_the_unit_interval(interpolant):
  s, t = map(jnp.asarray, square(np.concatenate([NEAR, np.linspace(0, 1, 41)]).astype(np.float32)))
  c = coefficients(interpolant, s, t)
  assert all(jnp.isfinite(value).all() for value in c)
  assert c.time.min() >= 0.0
  assert c.time.max() <= 1.0
  # Together the observations are worth at least each of them alone.
  assert (c.time >= jnp.maximum(jnp.where(t == 1, jnp.minimum(s, glass.S_MAX), s), t) - 1e-6).all()


@BOTH
def test_the_teacher_input_has_the_marginal_law(interpolant):
  """x* is an observation at t*: given x1 its mean is b(t*) x1 and its variance a(t*)^2, never the point 0."""
  s, t = map(jnp.asarray, square(NEAR))
  c = coefficients(interpolant, s, t)
  a, b = interpolant.a, interpolant.b
  clipped = jnp.where(t == 1, jnp.minimum(s, glass.S_MAX), s)
  mean = c.x_t_in_star * b(t) + c.x_s_in_star * b(clipped)
  variance = (c.x_t_in_star * a(t)) ** 2 + (c.x_s_in_star * a(clipped)) ** 2
  np.testing.assert_allclose(mean, b(c.time), atol=1e-6)
  np.testing.assert_allclose(variance, a(c.time) ** 2, atol=1e-6)


@BOTH
def test_gradients_are_finite_on_the_closed_square(interpolant):
  s, t = map(jnp.asarray, square(NEAR[[0, 3, 5, 6, 7, 8, 10]]))
  x_s, x_t = (jnp.asarray(x, jnp.float32) for x in states(len(s), seed=3))
  law = mixture()
  velocity = glass.as_velocity(oracles.as_marginal(law, interpolant), interpolant)

  def total(s, x_s, t, x_t):
    return velocity(s, s, x_s, t, x_t, None).sum()

  for grad in jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(s, x_s, t, x_t):
    assert jnp.isfinite(grad).all()


@pytest.mark.usefixtures("x64")
@BOTH
def test_derivatives_agree_with_finite_differences(interpolant):
  # s = 0 and t = 0 included, where the difference is one-sided.
  s, t = map(jnp.asarray, square(np.array([0.0, 0.2, 0.5, 0.9])))
  x_s, x_t = map(jnp.asarray, states(len(s), seed=4))
  marginal = oracles.as_marginal(mixture(), interpolant)
  h = 1e-4

  @jax.jit
  def at(s, t, x_t):
    return glass.inner_velocity(marginal, interpolant, s, x_s, t, x_t)

  def forward(f):  # second-order one-sided difference, error O(h^2)
    return (-3 * f(0.0) + 4 * f(h) - f(2 * h)) / (2 * h)

  one = jnp.ones_like(s)
  slope_s = jax.jvp(lambda s: at(s, t, x_t), (s,), (one,))[1]
  slope_t = jax.jvp(lambda t: at(s, t, x_t), (t,), (one,))[1]
  slope_x = jax.jvp(lambda x: at(s, t, x), (x_t,), (x_s,))[1]
  close = {"rtol": 1e-4, "atol": 1e-4}
  np.testing.assert_allclose(slope_s, forward(lambda d: at(s + d, t, x_t)), **close)
  apart = s > 0  # at (0, 0) the velocity jumps with t: documented convention
  expected = forward(lambda d: at(s, t + d, x_t))
  np.testing.assert_allclose(slope_t[apart], expected[apart], **close)
  np.testing.assert_allclose(slope_x, forward(lambda d: at(s, t, x_t + d * x_s)), **close)


def test_unknown_interpolant_is_an_error():
  with pytest.raises(ValueError, match="interpolant must be Linear or Trigonometric; got 'linear'"):
    glass.coefficients("linear", jnp.zeros(1), jnp.zeros(1))


def test_images():
  shape = (3, 4, 4, 2)
  x_s, x_t = jax.random.normal(jax.random.key(0), (2, *shape))
  s, t = jnp.array([0.0, 0.4, 1.0]), jnp.array([0.3, 0.0, 0.6])

  def marginal(t, x, cond):
    return x + expand_like(t, x)

  def call(*args):
    return glass.inner_velocity(marginal, interpolants.Linear(), *args)

  images = jax.jit(call)(s, x_s, t, x_t)
  assert images.shape == shape
  # Every pixel is treated alike: the same call on vectors.
  flat = jax.jit(call)(s, x_s.reshape(3, -1), t, x_t.reshape(3, -1))
  np.testing.assert_allclose(images.reshape(3, -1), flat, atol=1e-6)
