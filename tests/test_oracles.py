"""The mixture oracle against quadrature on a plane, autodiff, an adaptive ODE solver and Monte Carlo."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from mfm_jax import flow_map, interpolants, oracles
from mfm_jax.interpolants import INTERPOLANTS, Linear

BOTH = pytest.mark.parametrize("interpolant", INTERPOLANTS.values(), ids=INTERPOLANTS.keys())
WEIGHTS = np.array([0.5, 0.2, 0.3])
MEANS = np.array([[-1.5, 0.5], [0.3, -1.0], [2.0, 1.0]])
COVS = np.array([[[0.5, 0.3], [0.3, 0.4]], [[0.1, 0.0], [0.0, 0.9]], [[0.3, -0.1], [-0.1, 0.2]]])
# A, y, sigma of the rewards -|A x - y|^2 / (2 sigma^2): the paper's sharp one, a broad bowl, a skewed pair.
REWARDS = {
  "sharp": (np.array([[1.2, -0.8]]), np.array([-1.0]), 0.2),
  "broad": (np.eye(2), np.array([2.0, 2.0]), 2.0),
  "skewed": (np.array([[1.0, 0.5], [-0.3, 2.0]]), np.array([0.5, -1.0]), 0.7),
}
STEP = 0.06  # of the grid; Gaussians of deviation >= STEP are integrated to better than 1e-8


def mixture():
  return oracles.gaussian_mixture(WEIGHTS, MEANS, COVS)


@functools.cache
def plane():
  """Grid points (M, 2) that cover the data law, and its log density there by scipy."""
  axis = np.arange(-7.0, 7.0, STEP)
  points = np.stack([g.ravel() for g in np.meshgrid(axis, axis, indexing="ij")], -1)
  parts = [
    np.log(w) + stats.multivariate_normal(m, c).logpdf(points)
    for w, m, c in zip(WEIGHTS, MEANS, COVS)
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


def contexts(interpolant, n=10, low=0.0, high=0.8, seed=0):
  rng = np.random.default_rng(seed)
  t = jnp.linspace(low, high, n)
  component = rng.choice(3, n, p=WEIGHTS)
  x1 = np.stack([rng.multivariate_normal(MEANS[k], COVS[k]) for k in component])
  noise = rng.normal(size=(n, 2))
  return t, interpolants.interpolate(interpolant, t, jnp.asarray(noise), jnp.asarray(x1))


@pytest.mark.usefixtures("x64")
def test_density_weights_and_covariances():
  points, log_prior = plane()
  np.testing.assert_allclose(np.exp(log_prior).sum() * STEP**2, 1.0, atol=1e-8)
  some = points[::97]
  np.testing.assert_allclose(oracles.log_prob(mixture(), jnp.asarray(some)), log_prior[::97])
  np.testing.assert_allclose(mixture().weights, WEIGHTS)
  np.testing.assert_allclose(mixture().covs, COVS, atol=1e-14)


@pytest.mark.usefixtures("x64")
@BOTH
def test_marginal_quantities_agree_with_quadrature(interpolant):
  """p_t, D_t and v_t = E[a' x0 + b' x1 | x_t] by integrating over x1."""
  t, x = contexts(interpolant)
  points, _ = plane()
  law = oracles.posterior(mixture(), interpolant, t, x)
  close = dict(rtol=1e-8, atol=1e-8)
  for i in range(len(t)):
    here = t[i]
    log_p, shares = posterior_shares(interpolant, here, np.asarray(x[i]))
    a, b, da, db = (float(getattr(interpolant, f)(here)) for f in ("a", "b", "da", "db"))
    rate = da * (np.asarray(x[i]) - b * points) / a + db * points
    one = slice(i, i + 1)
    np.testing.assert_allclose(
      oracles.marginal_log_prob(mixture(), interpolant, t[one], x[one])[0], log_p, **close
    )
    mean = shares @ points
    np.testing.assert_allclose(
      oracles.denoiser(mixture(), interpolant, t[one], x[one])[0], mean, **close
    )
    np.testing.assert_allclose(
      oracles.velocity(mixture(), interpolant, t[one], x[one])[0], shares @ rate, **close
    )
    # The posterior law: its mean, covariance and density.
    np.testing.assert_allclose(law.weights[i] @ law.means[i], mean, **close)
    second = law.covs[i] + jnp.einsum("ki,kj->kij", law.means[i], law.means[i])
    np.testing.assert_allclose(
      jnp.einsum("k,kij->ij", law.weights[i], second), (points.T * shares) @ points, **close
    )
    near = np.argsort(shares)[-50::7]
    at_i = jax.tree.map(lambda leaf, i=i: leaf[i], law)
    np.testing.assert_allclose(
      oracles.log_prob(at_i, jnp.asarray(points[near])),
      np.log(shares[near]) - 2 * np.log(STEP),
      **close,
    )


@pytest.mark.usefixtures("x64")
@BOTH
def test_marginal_density_integrates_to_one(interpolant):
  points, _ = plane()
  for t in (0.0, 0.4, 0.9):
    time = jnp.full((len(points),), t)
    density = jnp.exp(oracles.marginal_log_prob(mixture(), interpolant, time, jnp.asarray(points)))
    np.testing.assert_allclose(density.sum() * STEP**2, 1.0, atol=1e-8)


@pytest.mark.usefixtures("x64")
@BOTH
def test_score_and_continuity_equation(interpolant):
  """score = grad log p_t, and d/dt log p_t + div v + v . score = 0."""
  t, x = contexts(interpolant, n=40, low=0.0, high=0.98)

  def log_p(t, x):
    return oracles.marginal_log_prob(mixture(), interpolant, t[None], x[None])[0]

  def velocity(t, x):
    return oracles.velocity(mixture(), interpolant, t[None], x[None])[0]

  rate, gradient = jax.vmap(jax.grad(log_p, argnums=(0, 1)))(t, x)
  score = oracles.score(mixture(), interpolant, t, x)
  np.testing.assert_allclose(score, gradient, rtol=1e-8, atol=1e-8)
  divergence = jax.vmap(lambda t, x: jnp.trace(jax.jacfwd(velocity, argnums=1)(t, x)))(t, x)
  flux = (jax.vmap(velocity)(t, x) * score).sum(-1)
  np.testing.assert_allclose(rate + divergence + flux, 0.0, atol=1e-8)


@pytest.mark.usefixtures("x64")
@BOTH
def test_conversions_between_the_closed_forms(interpolant):
  t, x = contexts(interpolant, n=40, low=0.02, high=0.98)
  v = oracles.velocity(mixture(), interpolant, t, x)
  close = dict(rtol=1e-8, atol=1e-8)
  np.testing.assert_allclose(
    interpolants.denoiser_from_velocity(interpolant, t, x, v),
    oracles.denoiser(mixture(), interpolant, t, x),
    **close,
  )
  np.testing.assert_allclose(
    interpolants.score_from_velocity(interpolant, t, x, v),
    oracles.score(mixture(), interpolant, t, x),
    **close,
  )


def standard_errors(draws, mean, cov):
  """Deviations of the sample's mean and covariance from `mean`, `cov`, in their standard errors."""
  n = len(draws)
  centred = draws - mean
  products = np.einsum("ni,nj->nij", centred, centred)
  return (
    centred.mean(0) / (centred.std(0) / np.sqrt(n)),
    (products.mean(0) - cov) / (products.std(0) / np.sqrt(n)),
  )


def moments(law):
  weights, means, covs = (np.asarray(v, np.float64) for v in (law.weights, law.means, law.covs))
  mean = weights @ means
  spread = means - mean
  return mean, np.einsum("k,kij->ij", weights, covs + np.einsum("ki,kj->kij", spread, spread))


def test_draws_have_the_law_of_the_mixture():
  draws = np.asarray(oracles.sample(jax.random.key(0), mixture(), 20_000))
  for deviation in standard_errors(draws, *moments(mixture())):
    assert np.abs(deviation).max() < 4
  # The law and not only its moments: the density's quantiles at the draws are uniform along a direction.
  direction = np.array([0.8, 0.6])
  spread = np.sqrt(np.einsum("i,kij,j->k", direction, COVS, direction))
  cdf = lambda z: (WEIGHTS * stats.norm.cdf((z[:, None] - MEANS @ direction) / spread)).sum(-1)
  assert stats.kstest(draws @ direction, cdf).pvalue > 1e-3


@BOTH
def test_posterior_draws_and_the_exact_map_have_the_posterior_law(interpolant):
  n = 10_000
  t, x = contexts(interpolant, n=4, low=0.0, high=0.9)
  t, x = t.astype(jnp.float32), x.astype(jnp.float32)
  draws = oracles.posterior_sample(jax.random.key(1), mixture(), interpolant, t, x, n)
  assert draws.shape == (4, n, 2)
  noise = jax.random.normal(jax.random.key(2), (4 * n, 2))
  velocity = oracles.as_velocity(mixture(), interpolant)
  mapped = jax.jit(lambda *z: flow_map.posterior_map(velocity, *z))(
    noise, jnp.repeat(t, n), jnp.repeat(x, n, axis=0)
  ).reshape(4, n, 2)
  law = oracles.posterior(mixture(), interpolant, t, x)
  for i in range(4):
    exact = moments(jax.tree.map(lambda leaf, i=i: leaf[i], law))
    for sample in (draws, mapped):
      for deviation in standard_errors(np.asarray(sample[i], np.float64), *exact):
        assert np.abs(deviation).max() < 4.5  # 4 standard errors, for 80 comparisons


@pytest.mark.usefixtures("x64")
@BOTH
def test_exact_map_agrees_with_an_adaptive_solver(interpolant):
  velocity = oracles.as_velocity(mixture(), interpolant, steps=64)
  t, x_t = contexts(interpolant, n=5, low=0.0, high=0.9)
  x_s = np.random.default_rng(3).normal(size=(5, 2))
  s, u = jnp.array([0.0, 0.1, 0.3, 0.0, 0.5]), jnp.array([1.0, 0.9, 0.7, 0.95, 0.99])
  law = oracles.posterior(mixture(), interpolant, t, x_t)
  actual = flow_map.flow_map(velocity, s, u, jnp.asarray(x_s), t, x_t)
  for i in range(5):
    at_i = jax.tree.map(lambda leaf, i=i: leaf[i], law)
    rate = jax.jit(lambda r, x, at_i=at_i: oracles.velocity(at_i, interpolant, r[None], x[None])[0])
    solved = integrate.solve_ivp(
      lambda r, x, rate=rate: np.asarray(rate(r, x)),
      (float(s[i]), float(u[i])),
      x_s[i],
      method="DOP853",
      rtol=1e-9,
      atol=1e-9,
    )
    np.testing.assert_allclose(actual[i], solved.y[:, -1], atol=2e-5)  # of 64 Runge-Kutta steps


@pytest.mark.usefixtures("x64")
def test_exact_map_converges_at_fourth_order():
  t, x_t = contexts(Linear(), n=20)
  x_s = jnp.asarray(np.random.default_rng(4).normal(size=(20, 2)))
  s, u = (
    jnp.zeros(20),
    jnp.full(20, 0.9),
  )  # short of the last 1e-4, where the clip of a bends the schedule
  call = lambda steps: oracles.as_velocity(mixture(), Linear(), steps)(s, u, x_s, t, x_t, None)
  exact = call(256)
  errors = [float(jnp.sqrt(((call(steps) - exact) ** 2).mean())) for steps in (16, 32, 64)]
  slope = np.polyfit(np.log([16, 32, 64]), np.log(errors), 1)[0]
  assert -4.6 < slope < -3.6


@BOTH
def test_exact_map_has_no_noise_at_small_gaps_in_float32(interpolant):
  t, x_t = contexts(interpolant, n=60)
  t, x_t = t.astype(jnp.float32), x_t.astype(jnp.float32)
  x_s = jax.random.normal(jax.random.key(3), x_t.shape)
  s = jnp.linspace(0.0, 0.9, 60)
  velocity = oracles.as_velocity(mixture(), interpolant)
  diagonal = velocity(s, s, x_s, t, x_t, None)
  law = oracles.posterior(mixture(), interpolant, t, x_t)
  at = lambda law, s, x: oracles.velocity(law, interpolant, s[None], x[None])[0]
  np.testing.assert_allclose(diagonal, jax.vmap(at)(law, s, x_s), rtol=1e-4, atol=1e-5)
  for gap in (1e-7, 1e-6, 1e-5):
    mean = velocity(s, s + gap, x_s, t, x_t, None)
    np.testing.assert_allclose(mean, diagonal, rtol=1e-2, atol=1e-2 * (gap / 1e-5) + 1e-4)


@pytest.mark.usefixtures("x64")
@BOTH
def test_exact_map_is_smooth_in_its_times(interpolant):
  """d/ds and d/du of the mean velocity, at u = s too, where both are half of the velocity's own rate."""
  velocity = oracles.as_velocity(mixture(), interpolant, steps=64)
  t, x_t = contexts(interpolant, n=8, high=0.7)
  x_s = jnp.asarray(np.random.default_rng(5).normal(size=x_t.shape))
  s = jnp.linspace(0.05, 0.8, 8)
  one, h = jnp.ones_like(s), 1e-5
  for gap in (0.0, 0.15):
    call = lambda s, u: velocity(s, u, x_s, t, x_t, None)
    for ds, du in ((1.0, 0.0), (0.0, 1.0)):
      slope = jax.jvp(call, (s, s + gap), (ds * one, du * one))[1]
      # At u = s the difference steps to s > u too: the formula is smooth across.
      ahead, behind = (call(s + d * ds, s + gap + d * du) for d in (h, -h))
      np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=1e-4, atol=1e-5)


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
    oracles.log_prob(tilted, jnp.asarray(points[near])), log_joint[near] - log_total, atol=1e-8
  )
  np.testing.assert_allclose(tilted.weights.sum(), 1.0, atol=1e-12)


@pytest.mark.usefixtures("x64")
@BOTH
@pytest.mark.parametrize("name", REWARDS)
def test_value_and_its_gradient(name, interpolant):
  t, x = contexts(interpolant, n=8)
  points, _ = plane()
  arguments = mixture(), interpolant
  actual = oracles.value(*arguments, t, x, *REWARDS[name])
  expected = [
    posterior_shares(interpolant, t[i], np.asarray(x[i]), reward(name, points))[0]
    - posterior_shares(interpolant, t[i], np.asarray(x[i]))[0]
    for i in range(len(t))
  ]
  np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-8)
  gradient = oracles.grad_value(*arguments, t, x, *REWARDS[name])
  h = 1e-5
  for axis in range(2):
    step = h * jnp.eye(2)[axis : axis + 1]
    ahead, behind = (
      oracles.value(*arguments, t, x + d * step, *REWARDS[name]) for d in (1.0, -1.0)
    )
    np.testing.assert_allclose(gradient[:, axis], (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-6)
  # Its ends: V_0 is the constant log Z, V_1 is the reward.
  log_z = oracles.tilt(mixture(), *REWARDS[name])[1]
  np.testing.assert_allclose(actual[0], log_z, atol=1e-10)
  end = oracles.value(*arguments, jnp.ones(8), x, *REWARDS[name])
  # 1e-4: a(1) is clipped there, which leaves the posterior that wide.
  scale = 1 + np.abs(reward(name, np.asarray(x)))
  np.testing.assert_allclose(end / scale, reward(name, np.asarray(x)) / scale, atol=1e-5)


@pytest.mark.usefixtures("x64")
@BOTH
@pytest.mark.parametrize("name", REWARDS)
def test_steering_towards_the_tilt_is_the_velocity_of_the_tilt(name, interpolant):
  """(sigma^2/2) grad V = (b' - a' b/a)(D* - D), so that v + (sigma^2/2) grad V = v* (MATH 6.2, 6.5)."""
  tilted, _ = oracles.tilt(mixture(), *REWARDS[name])
  t, x = contexts(interpolant, n=30, low=0.02, high=0.97)
  half = interpolants.half_sigma_squared(interpolant, t)[:, None]
  gradient = oracles.grad_value(mixture(), interpolant, t, x, *REWARDS[name])
  factor = interpolant.db(t) - interpolant.da(t) * interpolant.b(t) / interpolant.a(t)
  shift = oracles.denoiser(tilted, interpolant, t, x) - oracles.denoiser(
    mixture(), interpolant, t, x
  )
  close = dict(rtol=1e-7, atol=1e-7)  # differences of numbers up to 1e2
  np.testing.assert_allclose(shift, half * gradient / factor[:, None], **close)
  np.testing.assert_allclose(
    oracles.velocity(tilted, interpolant, t, x),
    oracles.velocity(mixture(), interpolant, t, x) + half * gradient,
    **close,
  )


@BOTH
def test_everything_is_finite_on_the_closed_interval_in_float32(interpolant):
  """For a component without variance too."""
  flat = oracles.gaussian_mixture(WEIGHTS, MEANS, COVS * np.array([1.0, 0.0, 1.0])[:, None, None])
  t = jnp.array([0.0, 1e-20, 1e-5, 0.5, 1 - 1e-5, 1 - 6e-8, 1.0], jnp.float32)
  n = len(t)
  x, x_s = jax.random.normal(jax.random.key(4), (2, n, 2))
  sharp = REWARDS["sharp"]
  zero, one = jnp.zeros(n), jnp.ones(n)
  for law in (mixture(), flat):
    outputs = [
      oracles.marginal_log_prob(law, interpolant, t, x),
      oracles.score(law, interpolant, t, x),
      oracles.denoiser(law, interpolant, t, x),
      oracles.velocity(law, interpolant, t, x),
      oracles.value(law, interpolant, t, x, *sharp),
      oracles.grad_value(law, interpolant, t, x, *sharp),
      oracles.posterior_sample(jax.random.key(5), law, interpolant, t, x, 3),
      oracles.as_velocity(law, interpolant)(zero, one, x_s, t, x, None),
      oracles.as_velocity(law, interpolant)(one, one, x_s, t, x, None),
      *jax.tree.leaves(oracles.posterior(law, interpolant, t, x)),
    ]
    assert all(jnp.isfinite(output).all() for output in outputs)
    assert all(output.dtype == jnp.float32 for output in outputs)


def test_float32_agrees_with_float64():
  t, x = contexts(Linear(), n=30, high=0.99)
  t, x = np.asarray(t, np.float32), np.asarray(x, np.float32)

  def quantities():
    arguments = mixture(), Linear(), jnp.asarray(t, float), jnp.asarray(x, float)
    return [
      oracles.velocity(*arguments),
      oracles.denoiser(*arguments),
      oracles.grad_value(*arguments, *REWARDS["broad"]),
    ]

  single = quantities()
  with jax.enable_x64(True):
    double = [np.asarray(value) for value in quantities()]
  for low, high in zip(single, double):
    scale = 1 + np.abs(high).max()
    np.testing.assert_array_less(np.abs(low - high) / scale, 2e-5)


def test_jit_and_vmap():
  t, x = contexts(Linear(), n=6)
  t, x = t.astype(jnp.float32), x.astype(jnp.float32)
  law = mixture()
  velocity = oracles.as_velocity(law, Linear(), 8)
  marginal = oracles.as_marginal(law, Linear())
  calls = [
    lambda t, x: oracles.velocity(law, Linear(), t, x),
    lambda t, x: oracles.value(law, Linear(), t, x, *REWARDS["broad"]),
    lambda t, x: velocity(t, jnp.ones_like(t), x, t, x, None),
    lambda t, x: marginal(t, x),
  ]
  for call in calls:
    plain = call(t, x)
    np.testing.assert_allclose(jax.jit(call)(t, x), plain, rtol=1e-5, atol=1e-5)
    mapped = jax.vmap(call)(t.reshape(2, 3), x.reshape(2, 3, 2))
    np.testing.assert_allclose(mapped.reshape(plain.shape), plain, rtol=1e-5, atol=1e-5)
  # A mixture is a pytree: it may be an argument of a jitted function.
  through = jax.jit(lambda law, t, x: oracles.velocity(law, Linear(), t, x))(law, t, x)
  np.testing.assert_allclose(through, calls[0](t, x), rtol=1e-5, atol=1e-5)


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
