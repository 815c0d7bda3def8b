"""The mixture oracle against quadrature on a plane, autodiff and Monte Carlo."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixture_case import (
  BOTH,
  COVS,
  MEANS,
  WEIGHTS,
  N,
  contexts,
  exact_map,
  mixture,
  moments,
  posterior,
  standard_errors,
)
from scipy import stats

from mfm_jax import interpolants, oracles
from mfm_jax.interpolants import Linear

# A, y, sigma of the rewards -|A x - y|^2 / (2 sigma^2): the paper's sharp one, a broad bowl, a skewed pair.
REWARDS = {
  "sharp": (np.array([[1.2, -0.8]]), np.array([-1.0]), 0.2),
  "broad": (np.eye(2), np.array([2.0, 2.0]), 2.0),
  "skewed": (np.array([[1.0, 0.5], [-0.3, 2.0]]), np.array([0.5, -1.0]), 0.7),
}
STEP = 0.06  # of the grid; Gaussians of deviation >= STEP are integrated to better than 1e-8

# Compiled once for each interpolant, batch shape and precision.
velocity, denoiser, score, marginal_log_prob, value, grad_value = (
  jax.jit(f, static_argnums=1)
  for f in (
    oracles.velocity,
    oracles.denoiser,
    oracles.score,
    oracles.marginal_log_prob,
    oracles.value,
    oracles.grad_value,
  )
)
log_prob = jax.jit(oracles.log_prob)


@functools.cache
def plane():
  """Grid points (M, 2) that cover the data law, and its log density there by scipy."""
  axis = np.arange(-7.0, 7.0, STEP)
  points = np.stack([g.ravel() for g in np.meshgrid(axis, axis, indexing="ij")], -1)
  parts = [
    np.log(w) + stats.multivariate_normal(m, c).logpdf(points) for w, m, c in zip(WEIGHTS, MEANS, COVS)
  ]
  return points, np.logaddexp.reduce(parts)


def reward(name, x):
  matrix, observed, sigma = REWARDS[name]
  return -0.5 * ((x @ matrix.T - observed) ** 2).sum(-1) / sigma**2


def posterior_shares(interpolant, t, x, extra=0.0):
  """log of the integral of p_1(x1) N(x; b x1, a^2) exp(extra), and the normalised integrand on the grid."""
  points, log_prior = plane()
  a, b = float(interpolant.a(t)), float(interpolant.b(t))
  log_joint = log_prior - 0.5 * ((x - b * points) ** 2).sum(-1) / a**2 + extra
  log_joint = log_joint - np.log(2 * np.pi * a**2) + 2 * np.log(STEP)
  log_total = np.logaddexp.reduce(log_joint)
  return log_total, np.exp(log_joint - log_total)


@pytest.mark.usefixtures("x64")
def test_density_weights_and_covariances():
  points, log_prior = plane()
  np.testing.assert_allclose(np.exp(log_prior).sum() * STEP**2, 1.0, atol=1e-8)
  some = points[::97]
  np.testing.assert_allclose(log_prob(mixture(), jnp.asarray(some)), log_prior[::97])
  np.testing.assert_allclose(mixture().weights, WEIGHTS)
  np.testing.assert_allclose(mixture().covs, COVS, atol=1e-14)


@pytest.mark.usefixtures("x64")
@BOTH
def test_marginal_quantities_agree_with_quadrature(interpolant):
  """p_t, D_t and v_t = E[a' x0 + b' x1 | x_t] by integrating over x1."""
  t, x = contexts(interpolant)
  points, _ = plane()
  arguments = mixture(), interpolant, t, x
  law = posterior(*arguments)
  log_p, denoised, rate = (f(*arguments) for f in (marginal_log_prob, denoiser, velocity))
  rates = [getattr(interpolant, f)(t) for f in ("a", "b", "da", "db")]
  close = {"rtol": 1e-8, "atol": 1e-8}
  for i, (a, b, da, db) in enumerate(np.stack(rates, axis=1)):
    log_total, shares = posterior_shares(interpolant, t[i], np.asarray(x[i]))
    mean = shares @ points
    np.testing.assert_allclose(log_p[i], log_total, **close)
    np.testing.assert_allclose(denoised[i], mean, **close)
    rate_at = da * (np.asarray(x[i]) - b * points) / a + db * points
    np.testing.assert_allclose(rate[i], shares @ rate_at, **close)
    # The posterior law: its mean, covariance and density.
    at_i = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), law)
    law_mean, law_cov = moments(at_i)
    np.testing.assert_allclose(law_mean, mean, **close)
    for own, reference in zip(oracles.moments(at_i), (law_mean, law_cov)):
      np.testing.assert_allclose(own, reference, **close)
    centred = points - mean
    np.testing.assert_allclose(law_cov, (centred.T * shares) @ centred, **close)
    near = np.argsort(shares)[-50::7]
    np.testing.assert_allclose(
      log_prob(at_i, jnp.asarray(points[near])), np.log(shares[near]) - 2 * np.log(STEP), **close
    )


@pytest.mark.usefixtures("x64")
@BOTH
def test_marginal_density_integrates_to_one(interpolant):
  points, _ = plane()
  for t in (0.0, 0.4, 0.9):
    time = jnp.full((len(points),), t)
    density = jnp.exp(marginal_log_prob(mixture(), interpolant, time, jnp.asarray(points)))
    np.testing.assert_allclose(density.sum() * STEP**2, 1.0, atol=1e-8)


@pytest.mark.usefixtures("x64")
@BOTH
def test_score_and_continuity_equation(interpolant):
  """score = grad log p_t, and d/dt log p_t + div v + v . score = 0."""
  t, x = contexts(interpolant, high=0.98)

  law = mixture()
  one = jnp.ones_like(t)
  rate = jax.jvp(lambda t: marginal_log_prob(law, interpolant, t, x), (t,), (one,))[1]
  gradient = jax.grad(lambda x: marginal_log_prob(law, interpolant, t, x).sum())(x)
  np.testing.assert_allclose(score(law, interpolant, t, x), gradient, rtol=1e-8, atol=1e-8)

  def flow(x):
    return velocity(law, interpolant, t, x)

  divergence = sum(
    jax.jvp(flow, (x,), (jnp.zeros_like(x).at[:, axis].set(1.0),))[1][:, axis] for axis in (0, 1)
  )
  flux = (flow(x) * gradient).sum(-1)
  np.testing.assert_allclose(rate + divergence + flux, 0.0, atol=1e-8)


@pytest.mark.usefixtures("x64")
@BOTH
def test_conversions_between_the_closed_forms(interpolant):
  t, x = contexts(interpolant, low=0.02, high=0.98)
  v = velocity(mixture(), interpolant, t, x)
  close = {"rtol": 1e-8, "atol": 1e-8}
  np.testing.assert_allclose(
    interpolants.denoiser_from_velocity(interpolant, t, x, v),
    denoiser(mixture(), interpolant, t, x),
    **close,
  )
  np.testing.assert_allclose(
    interpolants.score_from_velocity(interpolant, t, x, v),
    score(mixture(), interpolant, t, x),
    **close,
  )


@pytest.mark.usefixtures("x64")
@BOTH
def test_clip_at_the_end_leaves_the_rate_of_change(interpolant):
  """d/dt of v_t at t = 1, where a(t) is clipped, continues the one before: objectives differentiate there."""
  _, x = contexts(interpolant, high=0.99)
  law = mixture()

  def slope(t):
    return jax.jvp(lambda t: velocity(law, interpolant, t, x), (jnp.full(N, t),), (jnp.ones(N),))[1]

  before, end = slope(1 - 1e-3), slope(1.0)
  np.testing.assert_allclose(end, before, atol=0.02 * float(jnp.abs(before).max()))


def test_draws_have_the_law_of_the_mixture():
  draws = np.asarray(oracles.sample(jax.random.key(0), mixture(), 20_000))
  for deviation in standard_errors(draws, *moments(mixture())):
    assert np.abs(deviation).max() < 4
  # The law and not only its moments: the density's quantiles at the draws are uniform along a direction.
  direction = np.array([0.8, 0.6])
  spread = np.sqrt(np.einsum("i,kij,j->k", direction, COVS, direction))

  def cdf(z):
    return (WEIGHTS * stats.norm.cdf((z[:, None] - MEANS @ direction) / spread)).sum(-1)

  assert stats.kstest(draws @ direction, cdf).pvalue > 1e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", REWARDS)
def test_tilt_agrees_with_quadrature(name):
  points, log_prior = plane()
  matrix, observed, sigma = REWARDS[name]
  tilted, log_z = oracles.tilt(mixture(), matrix, observed, sigma)
  log_joint = log_prior + reward(name, points)
  log_total = np.logaddexp.reduce(log_joint) + 2 * np.log(STEP)
  np.testing.assert_allclose(log_z, log_total, atol=1e-8)
  near = np.argsort(log_joint)[-2000::37]
  np.testing.assert_allclose(
    log_prob(tilted, jnp.asarray(points[near])), log_joint[near] - log_total, atol=1e-8
  )
  np.testing.assert_allclose(tilted.weights.sum(), 1.0, atol=1e-12)


@pytest.mark.usefixtures("x64")
@BOTH
@pytest.mark.parametrize("name", REWARDS)
def test_value_and_its_gradient(name, interpolant):
  t, x = contexts(interpolant)
  points, _ = plane()
  arguments = mixture(), interpolant
  actual = value(*arguments, t, x, *REWARDS[name])
  expected = [
    posterior_shares(interpolant, t[i], np.asarray(x[i]), reward(name, points))[0]
    - posterior_shares(interpolant, t[i], np.asarray(x[i]))[0]
    for i in range(len(t))
  ]
  np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-8)
  gradient = grad_value(*arguments, t, x, *REWARDS[name])
  h = 1e-5
  for axis in range(2):
    step = h * jnp.eye(2)[axis : axis + 1]
    ahead, behind = (value(*arguments, t, x + d * step, *REWARDS[name]) for d in (1.0, -1.0))
    np.testing.assert_allclose(gradient[:, axis], (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-6)
  # Its ends: V_0 is the constant log Z, V_1 is the reward.
  log_z = oracles.tilt(mixture(), *REWARDS[name])[1]
  np.testing.assert_allclose(actual[0], log_z, atol=1e-10)
  end = value(*arguments, jnp.ones(N), x, *REWARDS[name])
  # 1e-4: a(1) is clipped there, which leaves the posterior that wide.
  scale = 1 + np.abs(reward(name, np.asarray(x)))
  np.testing.assert_allclose(end / scale, reward(name, np.asarray(x)) / scale, atol=1e-5)


@pytest.mark.usefixtures("x64")
@BOTH
@pytest.mark.parametrize("name", REWARDS)
def test_steering_towards_the_tilt_is_the_velocity_of_the_tilt(name, interpolant):
  """(sigma^2/2) grad V = (b' - a' b/a)(D* - D), so that v + (sigma^2/2) grad V = v* (MATH 6.2, 6.5)."""
  tilted, _ = oracles.tilt(mixture(), *REWARDS[name])
  t, x = contexts(interpolant, low=0.02, high=0.97)
  half = interpolants.half_sigma_squared(interpolant, t)[:, None]
  gradient = grad_value(mixture(), interpolant, t, x, *REWARDS[name])
  factor = interpolant.db(t) - interpolant.da(t) * interpolant.b(t) / interpolant.a(t)
  shift = denoiser(tilted, interpolant, t, x) - denoiser(mixture(), interpolant, t, x)
  close = {"rtol": 1e-7, "atol": 1e-7}  # differences of numbers up to 1e2
  np.testing.assert_allclose(shift, half * gradient / factor[:, None], **close)
  np.testing.assert_allclose(
    velocity(tilted, interpolant, t, x),
    velocity(mixture(), interpolant, t, x) + half * gradient,
    **close,
  )


@BOTH
def test_everything_is_finite_on_the_closed_interval_in_float32(interpolant):
  """For a component without variance too."""
  flat = oracles.gaussian_mixture(WEIGHTS, MEANS, COVS * np.array([1.0, 0.0, 1.0])[:, None, None])
  low, high = [0.0, 1e-45, 1e-20, 1e-10, 1e-5, 0.1], [0.5, 0.9, 1 - 1e-4, 1 - 1e-5, 1 - 6e-8, 1.0]
  t = jnp.array(low + high, jnp.float32)
  x, x_s = jax.random.normal(jax.random.key(4), (2, N, 2))
  zero, one = jnp.zeros(N), jnp.ones(N)
  for law in (mixture(), flat):
    here = law, interpolant, t, x
    laws = posterior(*here)
    outputs = [
      *(f(*here) for f in (marginal_log_prob, score, denoiser, velocity)),
      *(f(*here, *REWARDS["sharp"]) for f in (value, grad_value)),
      exact_map(law, interpolant, 32, zero, one, x_s, t, x),
      exact_map(law, interpolant, 32, one, one, x_s, t, x),
      oracles.sample(jax.random.key(5), jax.tree.map(lambda leaf: leaf[-1], laws), 3),
      *jax.tree.leaves(laws),
    ]
    assert all(jnp.isfinite(output).all() for output in outputs)
    assert all(output.dtype == jnp.float32 for output in outputs)


def test_float32_agrees_with_float64():
  t, x = contexts(Linear(), high=0.99)
  t, x = np.asarray(t, np.float32), np.asarray(x, np.float32)

  def quantities():
    arguments = mixture(), Linear(), jnp.asarray(t, float), jnp.asarray(x, float)
    return [
      velocity(*arguments),
      denoiser(*arguments),
      grad_value(*arguments, *REWARDS["broad"]),
    ]

  single = quantities()
  with jax.enable_x64(True):
    double = [np.asarray(value) for value in quantities()]
  for low, high in zip(single, double):
    scale = 1 + np.abs(high).max()
    np.testing.assert_array_less(np.abs(low - high) / scale, 2e-5)


def test_jit_and_vmap():
  t, x = contexts(Linear())
  t, x = t.astype(jnp.float32), x.astype(jnp.float32)
  law = mixture()
  broad = REWARDS["broad"]
  close = {"rtol": 1e-5, "atol": 1e-5}
  # A mixture is a pytree: in `velocity` and `value` it is an argument of the jitted function.
  plain = jax.jit(oracles.as_marginal(law, Linear()))(t, x)
  np.testing.assert_allclose(velocity(law, Linear(), t, x), plain, **close)
  calls = [
    lambda t, x: velocity(law, Linear(), t, x),
    lambda t, x: value(law, Linear(), t, x, *broad),
    lambda t, x: exact_map(law, Linear(), 32, t, jnp.ones_like(t), x, t, x),
  ]
  for call in calls:
    batch = call(t, x)
    mapped = jax.vmap(call)(t.reshape(2, -1), x.reshape(2, -1, 2))
    np.testing.assert_allclose(mapped.reshape(batch.shape), batch, **close)


@pytest.mark.usefixtures("x64")
def test_named_mixtures():
  law = oracles.paper_mixture()
  np.testing.assert_allclose(law.means, [[-3, -3], [0, 0], [3, 3]])
  np.testing.assert_allclose(law.covs, np.tile(0.5 * np.eye(2), (3, 1, 1)), atol=1e-15)
  np.testing.assert_allclose(law.weights, np.full(3, 1 / 3))
  x = np.random.default_rng(6).normal(size=(20, 5))
  expected = stats.multivariate_normal(np.zeros(5), 0.49 * np.eye(5)).logpdf(x)
  np.testing.assert_allclose(oracles.log_prob(oracles.gaussian(0.7, 5), jnp.asarray(x)), expected)
  # Weights are normalised.
  scaled = oracles.gaussian_mixture(7.0 * WEIGHTS, MEANS, COVS)
  np.testing.assert_allclose(scaled.weights, WEIGHTS)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: oracles.gaussian_mixture(WEIGHTS[:2], MEANS, COVS),
      r"weights, means, covs must have shapes .*; got \(2,\), \(3, 2\), \(3, 2, 2\)",
    ),
    (
      lambda: oracles.gaussian_mixture([0.5, 0.0, 0.5], MEANS, COVS),
      "weights must be positive; got 0.0",
    ),
    (
      lambda: oracles.gaussian_mixture(WEIGHTS, MEANS, COVS + np.array([[0, 1], [0, 0]])),
      "covs must be symmetric",
    ),
    (
      lambda: oracles.gaussian_mixture(WEIGHTS, MEANS, COVS - np.eye(2)),
      "covs must be positive semi-definite; got the eigenvalue -0.9",
    ),
    (
      lambda: oracles.tilt(mixture(), np.eye(3), np.zeros(3), 1.0),
      r"matrix must have shape \(any, 2\); got \(3, 3\)",
    ),
    (
      lambda: oracles.tilt(mixture(), np.eye(2), np.zeros(3), 1.0),
      r"observed must have shape \(2,\); got \(3,\)",
    ),
    (
      lambda: oracles.tilt(mixture(), np.eye(2), np.zeros(2), 0.0),
      "sigma must be positive; got 0.0",
    ),
    (
      lambda: oracles.as_velocity(mixture(), Linear(), steps=0),
      "steps must be at least 1; got 0",
    ),
  ],
)
def test_errors_state_rule_name_and_value(call, message):
  with pytest.raises(ValueError, match=message):
    call()
