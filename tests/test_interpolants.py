"""Interpolants against finite differences and against a data law of atoms, where p_t is a finite sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import interpolants
from mfm_jax.interpolants import CLIP, INTERPOLANTS

BOTH = pytest.mark.parametrize("interpolant", INTERPOLANTS.values(), ids=INTERPOLANTS.keys())
ATOMS = np.array([[-1.3, 0.4], [0.2, 2.0], [1.1, -0.7], [0.9, 0.8]])
WEIGHTS = np.array([0.1, 0.4, 0.3, 0.2])
# a, b, a', b' of MATH 1 written down by hand in NumPy.
SCHEDULES = {
  "linear": lambda t: (1 - t, t, -np.ones_like(t), np.ones_like(t)),
  "trigonometric": lambda t: (
    np.cos(np.pi * t / 2),
    np.sin(np.pi * t / 2),
    -np.pi / 2 * np.sin(np.pi * t / 2),
    np.pi / 2 * np.cos(np.pi * t / 2),
  ),
}


def reference(name, t, x):
  """Velocity, denoiser, score and log density of I_t = x for data on ATOMS, by conditioning on the atom."""
  a, b, da, db = (value[:, None] for value in SCHEDULES[name](t))
  noise = (x[:, None] - b[..., None] * ATOMS) / a[..., None]  # (B, K, d): x0 given x and the atom
  log_joint = np.log(WEIGHTS) - 0.5 * (noise**2).sum(-1) - ATOMS.shape[1] * np.log(a)
  top = log_joint.max(-1, keepdims=True)
  shares = np.exp(log_joint - top)
  log_density = top[:, 0] + np.log(shares.sum(-1)) - 0.5 * ATOMS.shape[1] * np.log(2 * np.pi)
  shares = (shares / shares.sum(-1, keepdims=True))[..., None]
  velocity = (shares * (da[..., None] * noise + db[..., None] * ATOMS)).sum(1)
  denoised = (shares * ATOMS).sum(1)
  score = (shares * (-noise / a[..., None])).sum(1)
  return velocity, denoised, score, log_density


def points(n=64, low=0.01, high=0.99, seed=0):
  rng = np.random.default_rng(seed)
  t = np.linspace(low, high, n)
  return t, rng.normal(size=(n, 2))


@BOTH
def test_ends_are_exact_in_float32(interpolant):
  ends = jnp.array([0.0, 1.0])
  np.testing.assert_array_equal(interpolant.a(ends), [1.0, 0.0])
  np.testing.assert_array_equal(interpolant.b(ends), [0.0, 1.0])
  x0, x1 = jnp.array([[1.5, -2.0]] * 2), jnp.array([[0.3, 7.0]] * 2)
  np.testing.assert_array_equal(
    interpolants.interpolate(interpolant, ends, x0, x1), jnp.stack([x0[0], x1[1]])
  )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", INTERPOLANTS)
def test_schedules_and_their_rates(name):
  interpolant = interpolants.get(name)
  t = np.linspace(0.0, 1.0, 101)
  a, b, da, db = SCHEDULES[name](t)
  for actual, expected in zip((interpolant.a, interpolant.b, interpolant.da, interpolant.db), (a, b, da, db)):
    np.testing.assert_allclose(actual(jnp.asarray(t)), expected, atol=1e-14)
  np.testing.assert_allclose(interpolant.w(jnp.asarray(t)), a * db - da * b, atol=1e-14)
  h = 1e-5  # central differences: error h^2 a''' / 6 + 1e-16 / h
  inner = jnp.asarray(t[1:-1])
  for schedule, rate in ((interpolant.a, interpolant.da), (interpolant.b, interpolant.db)):
    slope = (schedule(inner + h) - schedule(inner - h)) / (2 * h)
    np.testing.assert_allclose(rate(inner), slope, atol=1e-9)


@pytest.mark.usefixtures("x64")
@BOTH
def test_interpolate_dot_is_the_time_derivative(interpolant):
  t, x0 = points()
  x1 = jnp.asarray(np.random.default_rng(1).normal(size=(len(t), 2)))
  t, x0, h = jnp.asarray(t), jnp.asarray(x0), 1e-5
  ahead, behind = (interpolants.interpolate(interpolant, t + d, x0, x1) for d in (h, -h))
  np.testing.assert_allclose(
    interpolants.interpolate_dot(interpolant, t, x0, x1), (ahead - behind) / (2 * h), atol=1e-9
  )


@pytest.mark.usefixtures("x64")
@BOTH
def test_inverse_ratio_finds_the_time_of_a_signal_to_noise_ratio(interpolant):
  t = jnp.linspace(0.0, 1.0, 201)
  for scale in (1.0, 1e-8, 1e8):
    signal, noise = scale * interpolant.b(t), scale * interpolant.a(t)
    np.testing.assert_allclose(interpolant.inverse_ratio(signal, noise), t, atol=1e-14)


@pytest.mark.parametrize("name", INTERPOLANTS)
def test_inverse_ratio_stays_in_the_unit_interval_in_float32(name):
  interpolant = interpolants.get(name)
  rng = np.random.default_rng(0)
  signal, noise = (jnp.asarray(10.0 ** rng.uniform(-6, 6, 10_000), jnp.float32) for _ in range(2))
  t = interpolant.inverse_ratio(signal, noise)
  assert t.min() >= 0.0
  assert t.max() <= 1.0
  np.testing.assert_array_equal(
    interpolant.inverse_ratio(jnp.array([0.0, 3.0]), jnp.array([2.0, 0.0])), [0.0, 1.0]
  )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", INTERPOLANTS)
def test_conversions_agree_with_a_law_of_atoms(name):
  interpolant = interpolants.get(name)
  t, x = points()
  velocity, denoised, score, _ = reference(name, t, x)
  t, x = jnp.asarray(t), jnp.asarray(x)
  close = {"rtol": 1e-8, "atol": 1e-8}
  from_denoiser = interpolants.velocity_from_denoiser(interpolant, t, x, jnp.asarray(denoised))
  np.testing.assert_allclose(from_denoiser, velocity, **close)
  from_score = interpolants.velocity_from_score(interpolant, t, x, jnp.asarray(score))
  np.testing.assert_allclose(from_score, velocity, **close)
  v = jnp.asarray(velocity)
  np.testing.assert_allclose(interpolants.denoiser_from_velocity(interpolant, t, x, v), denoised, **close)
  np.testing.assert_allclose(
    interpolants.score_from_velocity(interpolant, t, x, v), score, rtol=1e-8, atol=1e-6
  )  # the score reaches 1e4 at t = 0.99 for states far from the atoms


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", INTERPOLANTS)
def test_the_reference_score_is_the_gradient_of_its_density(name):
  t, x = points(16, 0.05, 0.9)
  h = 1e-6
  _, _, score, _ = reference(name, t, x)
  for axis in range(2):
    step = h * np.eye(2)[axis]
    ahead, behind = reference(name, t, x + step)[3], reference(name, t, x - step)[3]
    np.testing.assert_allclose(score[:, axis], (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
@BOTH
def test_conversions_invert_each_other(interpolant):
  t, x = map(jnp.asarray, points(64, 1e-3, 1 - 1e-3))
  v = jnp.asarray(np.random.default_rng(2).normal(size=x.shape))
  denoised = interpolants.denoiser_from_velocity(interpolant, t, x, v)
  score = interpolants.score_from_velocity(interpolant, t, x, v)
  again = interpolants.velocity_from_denoiser(interpolant, t, x, denoised)
  np.testing.assert_allclose(again, v, atol=1e-8)
  np.testing.assert_allclose(interpolants.velocity_from_score(interpolant, t, x, score), v, atol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", INTERPOLANTS)
def test_half_sigma_squared_and_the_sampling_drift(name):
  interpolant = interpolants.get(name)
  t, x = points(64, 0.01, 0.99)
  a, b, da, db = SCHEDULES[name](t)
  half = interpolants.half_sigma_squared(interpolant, jnp.asarray(t))
  np.testing.assert_allclose(half, db / b * a**2 - da * a, rtol=1e-10)
  if name == "linear":
    np.testing.assert_allclose(half, (1 - t) / t, rtol=1e-12)
  velocity, _, score, _ = reference(name, t, x)
  drift = interpolants.sde_drift_from_velocity(
    interpolant, jnp.asarray(t), jnp.asarray(x), jnp.asarray(velocity)
  )
  expected = velocity + np.asarray(half)[:, None] * score
  np.testing.assert_allclose(drift, expected, rtol=1e-8, atol=1e-8)


@BOTH
@pytest.mark.parametrize("shape", [(), (3,), (4, 4, 2)])
def test_everything_is_finite_on_the_closed_interval_in_float32(interpolant, shape):
  edge = np.array([0.0, 1e-45, 1e-20, 6e-8, CLIP / 2, CLIP], np.float32)
  t = jnp.asarray(np.concatenate([edge, np.float32(1.0) - edge, np.linspace(0, 1, 21)], dtype="f4"))
  x, y = jax.random.normal(jax.random.key(0), (2, len(t), *shape))
  outputs = [
    interpolants.interpolate(interpolant, t, x, y),
    interpolants.interpolate_dot(interpolant, t, x, y),
    interpolants.velocity_from_denoiser(interpolant, t, x, y),
    interpolants.denoiser_from_velocity(interpolant, t, x, y),
    interpolants.score_from_velocity(interpolant, t, x, y),
    interpolants.velocity_from_score(interpolant, t, x, y),
    interpolants.sde_drift_from_velocity(interpolant, t, x, y),
  ]
  for output in outputs:
    assert output.shape == x.shape
    assert output.dtype == jnp.float32
    assert jnp.isfinite(output).all()
  assert jnp.isfinite(interpolants.half_sigma_squared(interpolant, t)).all()
  # At its singular end each formula keeps the clipped value.
  half = interpolants.half_sigma_squared(interpolant, t[:1])
  np.testing.assert_allclose(half, interpolant.w(t[:1]) / CLIP, rtol=1e-6)


@BOTH
def test_clip_bounds_the_divisor(interpolant):
  one, x, y = jnp.ones(1), jnp.ones((1, 2)), 3.0 * jnp.ones((1, 2))
  tight, loose = (
    interpolants.velocity_from_denoiser(interpolant, one, x, y, clip=clip) for clip in (1e-2, 1e-1)
  )
  np.testing.assert_allclose(tight, 10.0 * loose, rtol=1e-6)
  # (w D + a' x) / clip with a(1) = 0: the numerator is w (D - x).
  np.testing.assert_allclose(tight, interpolant.w(one)[0] * (y - x) / 1e-2, rtol=1e-5)


@BOTH
def test_gradients_are_finite_at_the_ends(interpolant):
  t = jnp.array([0.0, 1.0])
  x, y = jax.random.normal(jax.random.key(1), (2, 2, 3))
  for convert in (
    interpolants.velocity_from_denoiser,
    interpolants.denoiser_from_velocity,
    interpolants.score_from_velocity,
    interpolants.velocity_from_score,
  ):
    grads = jax.grad(lambda *z, f=convert: f(interpolant, *z).sum(), argnums=(0, 1, 2))(t, x, y)
    assert all(jnp.isfinite(grad).all() for grad in grads)


def test_names():
  assert interpolants.get("trigonometric") == interpolants.Trigonometric()
  with pytest.raises(ValueError, match="interpolant must be one of linear, trigonometric; got 'x'"):
    interpolants.get("x")
