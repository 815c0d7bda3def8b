import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles
from mfm_jax.interpolants import Linear, Trigonometric, interpolate
from mfm_jax.precondition import GaussianSkip, precondition
from mfm_jax.rewards import likelihoods
from mfm_jax.steering import value

PRIOR = oracles.paper_mixture()
QUADRATIC = likelihoods.broad_quadratic()
CONSTANTS = (QUADRATIC.matrix, QUADRATIC.observed, QUADRATIC.sigma)
INTERPOLANTS = [Linear(), Trigonometric()]
NAMES = ["linear", "trigonometric"]


def states(key, prior, interpolant, t):
  key_data, key_noise = jax.random.split(key)
  x1 = oracles.sample(key_data, prior, len(t))
  return interpolate(interpolant, t, jax.random.normal(key_noise, x1.shape), x1)


def rms(x):
  return float(jnp.sqrt((x**2).mean()))


def grad_gf(*args, **options):
  return value.value_and_grad_gf(*args, **options)[1]


def grad_g(*args, **options):
  return value.value_and_grad_g(*args, **options)[1]


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=NAMES)
def test_value_and_gradients_reach_the_closed_form(interpolant):
  t = jnp.repeat(jnp.array([0.1, 0.5, 0.9]), 6)
  x_t = states(jax.random.key(0), PRIOR, interpolant, t)
  velocity = oracles.as_velocity(PRIOR, interpolant, steps=8)
  options = {"draws": 1024, "chunk": 256}

  @jax.jit
  def run(key):
    key_value, key_gradient = jax.random.split(key)
    return (
      oracles.value(PRIOR, interpolant, t, x_t, *CONSTANTS),
      oracles.grad_value(PRIOR, interpolant, t, x_t, *CONSTANTS),
      value.estimate_value(key_value, velocity, t, x_t, QUADRATIC, **options),
      grad_gf(key_gradient, velocity, interpolant, t, x_t, QUADRATIC, **options),
    )

  exact, gradient, estimate, gf = run(jax.random.key(1))
  assert (jnp.abs(estimate.value - exact) < 4 * estimate.standard_error).all()
  assert rms(estimate.standard_error) < 0.05
  assert rms(gf - gradient) < 0.1 * rms(gradient)


def test_g_reaches_the_closed_form():
  """Through the mixture's own map, which bends in x_t; late, where G has the smaller error."""
  t = jnp.repeat(jnp.array([0.5, 0.9]), 8)
  x_t = states(jax.random.key(0), PRIOR, Linear(), t)
  velocity = oracles.as_velocity(PRIOR, Linear(), steps=8)
  exact = jax.jit(lambda: oracles.grad_value(PRIOR, Linear(), t, x_t, *CONSTANTS))()
  found = jax.jit(lambda key: grad_g(key, velocity, t, x_t, QUADRATIC, draws=512, chunk=128))(
    jax.random.key(1)
  )
  assert rms(found - exact) < 0.15 * rms(exact)


def test_gf_error_falls_like_the_root_of_the_number_of_draws():
  """Gaussian data: the exact map is the skip of MATH 9 around a network that returns 0."""
  interpolant = Linear()
  prior = oracles.gaussian(1.5, 2)
  velocity = precondition(
    lambda s, u, x_s, t, x_t, cond: jnp.zeros_like(x_s),
    GaussianSkip(interpolant=interpolant, data_std=1.5),
  )
  t = jnp.tile(jnp.array([0.2, 0.5, 0.8]), 60)
  x_t = states(jax.random.key(0), prior, interpolant, t)
  exact = jax.jit(lambda: oracles.grad_value(prior, interpolant, t, x_t, *CONSTANTS))()
  numbers, errors = (32, 256, 2048), []
  for n in numbers:
    found = jax.jit(
      lambda key, n=n: grad_gf(key, velocity, interpolant, t, x_t, QUADRATIC, draws=n, chunk=min(n, 256))
    )(jax.random.key(1))
    errors.append(rms(found - exact) / rms(exact))
  slope = np.polyfit(np.log(numbers), np.log(errors), 1)[0]
  assert slope == pytest.approx(-0.5, abs=0.1)
  assert errors[-1] < 0.05


def test_g_is_the_derivative_of_its_own_estimate():
  """Central differences in float64, with a map that bends in x_t, a sharp reward and two chunks."""
  with jax.enable_x64(True):
    reward = likelihoods.paper_likelihood()
    velocity = precondition(
      lambda s, u, x_s, t, x_t, cond: jnp.tanh(x_s + 2.0 * x_t),
      GaussianSkip(interpolant=Linear(), data_std=1.5),
    )
    t, h = jnp.array([0.1, 0.5, 0.9]), 1e-5
    x_t = jax.random.normal(jax.random.key(0), (3, 2), jnp.float64)
    noise = jax.random.normal(jax.random.key(1), (3, 4, 2), jnp.float64)
    options = {"draws": 4, "chunk": 2, "noise": noise}
    estimate = jax.jit(lambda x: value.estimate_value(None, velocity, t, x, reward, **options).value)
    found = jax.jit(lambda x: grad_g(None, velocity, t, x, reward, **options))(x_t)
    columns = [(estimate(x_t + h * e) - estimate(x_t - h * e)) / (2 * h) for e in jnp.eye(2)[:, None]]
    expected = jnp.stack(columns, axis=1)
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def toy_velocity(s, u, x_s, t, x_t, cond):
  out = jnp.tanh(x_s + 2.0 * x_t) + (s + 2.0 * u + 3.0 * t)[:, None]
  return out if cond is None else out + cond["label"].astype(x_s.dtype)[:, None]


def toy_reward(x, cond):
  label = 0.0 if cond is None else cond["label"].astype(x.dtype)
  return -0.5 * (x**2).sum(1) + label * x[:, 0]


def run_all(seed, **options):
  key = lambda: None if "noise" in options else jax.random.key(seed)  # noqa: E731
  t, x_t = jnp.array([0.1, 0.5, 0.9]), jnp.array([[0.1, 0.5], [-1.0, 0.3], [0.7, 2.0]])
  rest = (t, x_t, toy_reward, {"label": jnp.arange(3)})
  return (
    *value.estimate_value(key(), toy_velocity, *rest, **options),
    grad_gf(key(), toy_velocity, Linear(), *rest, **options),
    grad_g(key(), toy_velocity, *rest, **options),
  )


def test_streaming_over_chunks_equals_one_chunk():
  whole = jax.jit(lambda: run_all(0, draws=10))()
  parts = jax.jit(lambda: run_all(0, draws=10, chunk=3))()
  for a, b in zip(whole, parts, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)


def test_gradients_come_with_the_estimate_of_their_own_draws():
  t, x_t = jnp.array([0.1, 0.5]), jnp.array([[0.1, 0.5], [-1.0, 0.3]])
  options = {"draws": 6, "chunk": 4, "noise": jax.random.normal(jax.random.key(0), (2, 6, 2))}
  expected = value.estimate_value(None, toy_velocity, t, x_t, toy_reward, **options)
  for found, _ in (
    value.value_and_grad_gf(None, toy_velocity, Linear(), t, x_t, toy_reward, **options),
    value.value_and_grad_g(None, toy_velocity, t, x_t, toy_reward, **options),
  ):
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_the_reward_sees_decoded_draws():
  """Decoding is part of what MFM-G differentiates; MFM-GF's directions stay in model space."""
  t, x_t = jnp.array([0.1, 0.5]), jnp.array([[0.1, 0.5], [-1.0, 0.3]])
  options = {"draws": 6, "noise": jax.random.normal(jax.random.key(0), (2, 6, 2))}
  decode = lambda x: 3.0 * x - 1.0  # noqa: E731
  inside = lambda x, cond: toy_reward(decode(x), cond)  # noqa: E731
  for estimator, model in ((grad_gf, (toy_velocity, Linear())), (grad_g, (toy_velocity,))):
    found = estimator(None, *model, t, x_t, toy_reward, decode=decode, **options)
    expected = estimator(None, *model, t, x_t, inside, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rewards_that_are_not_finite_are_counted():
  t, x_t = jnp.zeros(2), jnp.zeros((2, 1))
  noise = jnp.arange(10.0).reshape(2, 5, 1)
  still = lambda s, u, x_s, t, x_t, cond: 0.0 * x_s  # noqa: E731
  bad = lambda x, cond: jnp.where(x[:, 0] > 6.0, jnp.nan, jnp.where(x[:, 0] == 1.0, jnp.inf, 0.0))  # noqa: E731
  for chunk in (5, 2):
    estimate = value.estimate_value(None, still, t, x_t, bad, draws=5, chunk=chunk, noise=noise)
    np.testing.assert_array_equal(estimate.invalid, [1, 3])


def test_draws_that_are_not_finite_are_left_out_though_their_reward_is_a_weight_of_0():
  noise = jnp.array([[[0.5], [-0.5], [jnp.inf]], [[0.5], [-0.5], [1.0]]])
  drift, how = lambda s, u, x_s, t, x_t, cond: 0.1 * x_t, {"draws": 3, "noise": noise}
  rest = jnp.full(2, 0.5), jnp.zeros((2, 1)), lambda x, cond: -(x[:, 0] ** 2)
  g = value.value_and_grad_g(None, drift, *rest, bound=Linear(), **how)
  for estimate, gradient in (g, value.value_and_grad_gf(None, drift, Linear(), *rest, **how)):
    np.testing.assert_array_equal(estimate.invalid, [1, 0])
    assert np.isfinite(gradient).all()


def test_estimates_are_their_formulas():
  """NumPy, float64, from recorded noise: MATH 6.3, its delta-method error, and 6.5."""
  t, x_t = np.array([0.1, 0.5, 0.9]), np.array([[0.1, 0.5], [-1.0, 0.3], [0.7, 2.0]])
  noise = np.random.default_rng(0).standard_normal((3, 10, 2))
  run = jax.jit(lambda noise: run_all(0, draws=10, noise=noise))
  value_, error, ess, _, gf, _ = run(jnp.asarray(noise, jnp.float32))
  label = np.arange(3)[:, None]
  x1 = noise + np.tanh(noise + 2 * x_t[:, None]) + (2.0 + 3.0 * t[:, None] + label)[..., None]
  w = np.exp(-0.5 * (x1**2).sum(-1) + label * x1[..., 0])
  np.testing.assert_allclose(value_, np.log(w.mean(1)), rtol=1e-4)
  np.testing.assert_allclose(error, w.std(1, ddof=1) / np.sqrt(10) / w.mean(1), rtol=1e-4)
  np.testing.assert_allclose(ess, w.sum(1) ** 2 / (w**2).sum(1), rtol=1e-4)
  softmax = w / w.sum(1, keepdims=True)
  # Linear: (1 / (1 - t)) / ((1 - t) / t), the ratio of MATH 6.5 and 1.4 as they stand there.
  factor = (1 / (1 - t)) / ((1 - t) / t)
  expected = factor[:, None] * (np.einsum("bn,bnd->bd", softmax, x1) - x1.mean(1))
  np.testing.assert_allclose(gf, expected, rtol=1e-4, atol=1e-5)


def test_standard_error_is_calibrated():
  """2000 repetitions of one state: the scatter of the estimates is the error that each states."""
  repetitions = 2000
  t, x_t = jnp.full(repetitions, 0.5), jnp.tile(jnp.array([[0.2, -0.4]]), (repetitions, 1))
  estimate = jax.jit(
    lambda key: value.estimate_value(key, toy_velocity, t, x_t, lambda x, cond: 0.5 * x[:, 0], draws=64)
  )(jax.random.key(0))
  assert float(estimate.value.std()) == pytest.approx(rms(estimate.standard_error), rel=0.1)


def test_extreme_rewards():
  t, x_t = jnp.array([0.5]), jnp.zeros((1, 1))
  noise = jnp.arange(6.0).reshape(1, 6, 1)
  still = lambda s, u, x_s, t, x_t, cond: 0.0 * x_s  # noqa: E731

  def estimate(reward, chunk=2):
    options = {"draws": 6, "chunk": chunk, "noise": noise}
    return (
      value.estimate_value(None, still, t, x_t, reward, **options),
      grad_gf(None, still, Linear(), t, x_t, reward, **options),
    )

  constant, gradient = estimate(lambda x, cond: jnp.full(x.shape[0], 300.0))
  np.testing.assert_allclose(constant.value, 300.0, rtol=1e-6)  # exp(300) overflows
  np.testing.assert_allclose(constant.ess, 6.0, rtol=1e-6)
  np.testing.assert_allclose(constant.standard_error, 0.0, atol=1e-6)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-5)
  one, gradient = estimate(lambda x, cond: jnp.where(x[:, 0] == 4.0, 0.0, -1e4))
  np.testing.assert_allclose(one.ess, 1.0)
  np.testing.assert_allclose(one.value, -np.log(6.0), rtol=1e-6)
  np.testing.assert_allclose(gradient, 2.0 * (4.0 - 2.5), rtol=1e-6)  # b / a^2 = 2
  barred, _ = estimate(lambda x, cond: jnp.where(x[:, 0] < 4.0, -jnp.inf, 0.0))
  np.testing.assert_allclose(barred.value, np.log(2.0 / 6.0), rtol=1e-6)
  nothing, gradient = estimate(lambda x, cond: jnp.full(x.shape[0], -jnp.inf))
  assert nothing.value == -jnp.inf
  np.testing.assert_array_equal(gradient, 0.0)


def test_a_single_draw_states_no_error():
  estimate = value.estimate_value(
    jax.random.key(0), toy_velocity, jnp.zeros(2), jnp.zeros((2, 1)), toy_reward, draws=1
  )
  assert (estimate.standard_error == jnp.inf).all()
  np.testing.assert_allclose(estimate.ess, 1.0)


@pytest.mark.parametrize("t", [0.0, 1.0])
@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=NAMES)
def test_finite_at_both_ends_of_time(interpolant, t):
  skip = GaussianSkip(interpolant=interpolant, data_std=1.5)
  velocity = precondition(lambda s, u, x_s, t, x_t, cond: jnp.tanh(x_s + x_t), skip)
  x_t, t = jnp.array([[1.0, -1.0], [0.1, 0.2]]), jnp.full(2, t)

  @jax.jit
  def run(t):
    keys = jax.random.split(jax.random.key(0))
    gf = grad_gf(keys[0], velocity, interpolant, t, x_t, QUADRATIC, draws=4)
    return gf, grad_g(keys[1], velocity, t, x_t, QUADRATIC, draws=4)

  gf, g = run(t)
  assert jnp.isfinite(gf).all()
  assert jnp.isfinite(g).all()
  if t[0] == 0:
    np.testing.assert_array_equal(gf, 0.0)


@pytest.mark.parametrize("method", ["value", "gf", "g"])
def test_memory_does_not_grow_with_the_number_of_draws(method):
  width = 512
  t, x_t = jnp.full(16, 0.5), jnp.zeros((16, width))

  def velocity(s, u, x_s, t, x_t, cond):
    return jnp.tanh(jnp.tanh(jnp.tanh(x_s + x_t) + x_t) + x_s)

  def temporary(draws):
    options = {"draws": draws, "chunk": 8}
    reward = lambda x, cond: -(x**2).sum(1)  # noqa: E731
    run = {
      "value": lambda k, x: value.estimate_value(k, velocity, t, x, reward, **options),
      "gf": lambda k, x: grad_gf(k, velocity, Linear(), t, x, reward, **options),
      "g": lambda k, x: grad_g(k, velocity, t, x, reward, **options),
    }[method]
    compiled = jax.jit(run).lower(jax.random.key(0), x_t).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  few, many = temporary(16), temporary(512)
  one_chunk = 16 * 8 * width * 4
  assert many - few < one_chunk  # 496 draws more would be 62 chunks


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"draws": 0}, "draws must be at least"),
    ({"draws": 4, "chunk": 0}, "chunk must be at least 1; got 0"),
    ({"draws": 4, "noise": jnp.zeros((3, 5, 2))}, r"noise must have shape \(3, 4, 2\)"),
  ],
)
def test_bad_arguments(options, message):
  with pytest.raises(ValueError, match=message):
    run_all(0, **options)


def test_bad_draws_and_rewards():
  t, x_t = jnp.zeros(2), jnp.zeros((2, 1))
  with pytest.raises(ValueError, match="draws must be at least 2; got 1"):
    grad_gf(jax.random.key(0), toy_velocity, Linear(), t, x_t, toy_reward, draws=1)
  with pytest.raises(ValueError, match=r"reward\(x\) must have shape \(8,\); got \(8, 1\)"):
    value.estimate_value(jax.random.key(0), toy_velocity, t, x_t, lambda x, cond: x, draws=4)


# ---- the jackknife ----


def jackknifed_by_hand(weights, x, groups):
  """Delete-a-group jackknife of sum w x / sum w, in NumPy: (N,), (N, d)."""
  parts = np.split(np.arange(len(weights)), groups)
  whole = weights @ x / weights.sum()
  left_out = [
    np.delete(weights, part) @ np.delete(x, part, axis=0) / np.delete(weights, part).sum() for part in parts
  ]
  return groups * whole - (groups - 1) * np.mean(left_out, axis=0)


@pytest.mark.parametrize("groups", [2, 3, 6])
@pytest.mark.parametrize("chunk", [1, 2, 4, None])
def test_the_jackknife_is_its_formula(groups, chunk):
  """Of both gradients, whatever the chunk, and the value stays that of all draws."""
  rng = np.random.default_rng(0)
  t, x_t, noise = np.array([0.3, 0.6]), rng.normal(size=(2, 2)), rng.normal(size=(2, 6, 2))
  arguments = jnp.asarray(t, jnp.float32), jnp.asarray(x_t, jnp.float32), toy_reward
  options = {"draws": 6, "chunk": chunk, "jackknife": groups, "noise": jnp.asarray(noise, jnp.float32)}
  gf_estimate, gf = value.value_and_grad_gf(None, toy_velocity, Linear(), *arguments, **options)
  g_estimate, g = value.value_and_grad_g(None, toy_velocity, *arguments, **options)
  inner = np.tanh(noise + 2 * x_t[:, None])
  x1 = noise + inner + (2.0 + 3.0 * t[:, None])[..., None]
  w = np.exp(-0.5 * (x1**2).sum(-1))
  # grad_{x_t} of -|x1|^2 / 2 through tanh(e + 2 x_t).
  slopes = -x1 * 2 * (1 - inner**2)
  for i in range(2):
    tilted = jackknifed_by_hand(w[i], x1[i], groups)
    np.testing.assert_allclose(gf[i], t[i] / (1 - t[i]) ** 2 * (tilted - x1[i].mean(0)), rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(g[i], jackknifed_by_hand(w[i], slopes[i], groups), rtol=2e-4, atol=1e-4)
  for estimate in (gf_estimate, g_estimate):
    np.testing.assert_allclose(estimate.value, np.log(w.mean(1)), rtol=1e-4)


@pytest.mark.parametrize("estimator", ["gf", "g"])
def test_the_jackknife_takes_most_of_the_bias_away(estimator):
  """20000 estimates of one gradient by 16 draws, against its closed form: Gaussian data, quadratic reward."""
  n, prior, interpolant = 20_000, oracles.gaussian(1.5, 1), Linear()
  reward = likelihoods.quadratic(np.array([2.0]), 1.0)
  velocity = precondition(
    lambda s, u, x_s, t, x_t, cond: jnp.zeros_like(x_s), GaussianSkip(interpolant=interpolant, data_std=1.5)
  )
  t, x_t = jnp.full(n, 0.4), jnp.full((n, 1), 0.2)
  model = (velocity, interpolant) if estimator == "gf" else (velocity,)
  run = {"gf": grad_gf, "g": grad_g}[estimator]
  exact = oracles.grad_value(prior, interpolant, t[:1], x_t[:1], reward.matrix, reward.observed, reward.sigma)

  def bias(groups):
    found = jax.jit(lambda key: run(key, *model, t, x_t, reward, draws=16, chunk=1, jackknife=groups))(
      jax.random.key(0)
    )
    return abs(float(found.mean() - exact[0, 0])), float(found.std()) / n**0.5

  plain, error = bias(1)
  corrected, _ = bias(16)
  assert plain > 10 * error
  assert corrected < 0.25 * plain


def test_the_jackknife_with_one_draw_that_outweighs_all():
  """float32: the others' weights vanish beside it; the correction stays finite and a mean of the draws."""
  t, x_t = jnp.array([0.5]), jnp.zeros((1, 1))
  noise = jnp.arange(4.0).reshape(1, 4, 1)
  still = lambda s, u, x_s, t, x_t, cond: 0.0 * x_s  # noqa: E731
  options = {"draws": 4, "jackknife": 4, "noise": noise}
  far = grad_gf(None, still, Linear(), t, x_t, lambda x, cond: 1e4 * x[:, 0], **options)
  # The whole mean is 3, left out it is 2 once and 3 thrice: 4 * 3 - 3 * 2.75 = 3.75; minus the plain mean.
  np.testing.assert_allclose(far, 2.0 * (3.75 - 1.5), rtol=1e-5)
  only = grad_gf(
    None, still, Linear(), t, x_t, lambda x, cond: jnp.where(x[:, 0] == 3.0, 0.0, -jnp.inf), **options
  )
  np.testing.assert_allclose(only, 2.0 * (3.0 - 1.5), rtol=1e-5)
  none = grad_gf(None, still, Linear(), t, x_t, lambda x, cond: jnp.full(len(x), -jnp.inf), **options)
  np.testing.assert_array_equal(none, 0.0)


@pytest.mark.parametrize(
  ("groups", "message"),
  [(0, "jackknife must be at least 1; got 0"), (3, "jackknife must divide draws; got jackknife=3, draws=4")],
)
def test_bad_numbers_of_groups(groups, message):
  t, x_t = jnp.zeros(2), jnp.zeros((2, 1))
  with pytest.raises(ValueError, match=message):
    grad_g(jax.random.key(0), toy_velocity, t, x_t, toy_reward, draws=4, jackknife=groups)
