import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import times
from mfm_jax.interpolants import Linear
from mfm_jax.sampling import integrators, marginal

LINEAR = Linear()


def fitted_slope(steps, errors):
  return np.polyfit(np.log(1.0 / np.array(steps)), np.log(errors), 1)[0]


@pytest.mark.parametrize(("method", "order"), [("euler", 1.0), ("heun", 2.0)])
def test_ode_order(method, order):
  """dx/dt = -2 t x^2 has x = 1 / (1 / x0 + t^2): nonlinear, and t matters."""
  with jax.enable_x64(True):
    x = jnp.array([[0.5], [1.0], [3.0]])
    exact = 1.0 / (1.0 / x + 1.0)
    steps, errors = (32, 64, 128, 256), []
    for k in steps:
      end, info = integrators.ode(x, times.grid(k), lambda t, x: -2.0 * t[:, None] * x**2, method=method)
      errors.append(float(jnp.abs(end - exact).max()))
      assert info == {"evaluations": k * (2 if method == "heun" else 1)}
  assert fitted_slope(steps, errors) == pytest.approx(order, abs=0.1)
  assert errors[-1] < 10.0 * 256**-order


@pytest.mark.parametrize("sampler", ["euler", "heun", "sde"])
def test_a_step_hands_its_input_to_the_drift_and_keeps_what_it_finds(sampler):
  """dx/dt = the step's input: the end is the sum, aux comes from the start of each step."""
  inputs, grid = jnp.array([1.0, 10.0, 100.0]), jnp.array([0.0, 0.1, 0.3, 0.5])

  def drift(t, x, entry):
    return jnp.full_like(x, entry), {"t": t, "input": entry}

  options = {"inputs": inputs, "has_aux": True, "keep": True}
  if sampler == "sde":
    sigma = lambda t: jnp.zeros_like(t)  # noqa: E731
    end, info = integrators.sde(jax.random.key(0), jnp.zeros((2, 1)), grid, drift, sigma, **options)
  else:
    end, info = integrators.ode(jnp.zeros((2, 1)), grid, drift, method=sampler, **options)
  np.testing.assert_allclose(end, 0.1 + 2.0 + 20.0, rtol=1e-6)
  np.testing.assert_allclose(info["path"][:, 0, 0], [0.0, 0.1, 2.1, 22.1], rtol=1e-5)
  np.testing.assert_array_equal(info["aux"]["input"], inputs)
  np.testing.assert_allclose(info["aux"]["t"], jnp.broadcast_to(grid[:3, None], (3, 2)))


def impulse_responses(grid, drift, sigma, noise_basis):
  """Coefficients of X_end in the noise: unit impulses give the exact law of a linear scheme."""
  x = jnp.zeros((noise_basis.shape[1], 1))
  return integrators.sde(None, x, grid, drift, sigma, noise=noise_basis)[0][:, 0]


def test_sde_weak_order_of_ornstein_uhlenbeck():
  """dX = -2 X dt + 1.5 dW on [0, 0.9]: errors of the scheme's exact mean and variance."""
  rate, scale, end = 2.0, 1.5, 0.9
  sigma = lambda t: jnp.full_like(t, scale)  # noqa: E731
  drift = lambda t, x: -rate * x  # noqa: E731
  exact_mean = np.exp(-rate * end)
  exact_variance = scale**2 * (1 - np.exp(-2 * rate * end)) / (2 * rate)
  steps, mean_errors, variance_errors = (32, 64, 128, 256), [], []
  with jax.enable_x64(True):
    for k in steps:
      grid = times.grid(k, end=end)
      start = jnp.ones((1, 1))
      mean = integrators.sde(None, start, grid, drift, sigma, noise=jnp.zeros((k, 1, 1)))[0]
      mean_errors.append(abs(float(mean[0, 0]) - exact_mean))
      responses = impulse_responses(grid, drift, sigma, jnp.eye(k)[..., None])
      variance_errors.append(abs(float((responses**2).sum()) - exact_variance))
  assert fitted_slope(steps, mean_errors) == pytest.approx(1.0, abs=0.1)
  assert fitted_slope(steps, variance_errors) == pytest.approx(1.0, abs=0.1)


def test_sde_strong_order_with_common_noise():
  """Rms distance to the exact path of the same Brownian motion: order 1, the noise is additive."""
  rate, scale, end, fine = 2.0, 1.5, 0.9, 1024
  edges = np.linspace(0.0, end, fine + 1)
  # The exact response to a fine cell's increment is the mean over the cell of exp(-rate (end - r)).
  antiderivative = np.exp(-rate * (end - edges)) / rate
  exact = scale * np.diff(antiderivative) / (end / fine) * np.sqrt(end / fine)
  steps, errors = (16, 32, 64, 128), []
  with jax.enable_x64(True):
    for k in steps:
      cells = fine // k
      basis = np.repeat(np.eye(k), cells, axis=1) / np.sqrt(cells)  # coarse noise of a fine impulse
      responses = impulse_responses(
        times.grid(k, end=end),
        lambda t, x: -rate * x,
        lambda t: jnp.full_like(t, scale),
        jnp.asarray(basis)[..., None],
      )
      errors.append(float(np.sqrt(((np.asarray(responses) - exact) ** 2).sum())))
  assert fitted_slope(steps, errors) == pytest.approx(1.0, abs=0.1)


def test_sampling_sde_variance_to_data_is_first_order():
  """Data N(0, c^2): from t = 0.1 to 1 the variance becomes c^2, with the last step noise-free."""
  c = 1.5

  def velocity(t, x, cond):
    t = t[:, None]
    return (t * c**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * c**2) * x

  drift, sigma = marginal.diffusion(velocity, LINEAR)
  start_variance = 0.9**2 + 0.1**2 * c**2
  steps, errors = (64, 128, 256, 512), []
  with jax.enable_x64(True):
    for k in steps:
      grid = times.grid(k, start=0.1)
      x = jnp.concatenate([jnp.full((1, 1), start_variance**0.5), jnp.zeros((k, 1))])
      basis = jnp.concatenate([jnp.zeros((k, 1)), jnp.eye(k)], axis=1)[..., None]
      responses = integrators.sde(None, x, grid, drift, sigma, noise=basis)[0]
      errors.append(abs(float((responses**2).sum()) - c**2))
  assert fitted_slope(steps, errors) == pytest.approx(1.0, abs=0.1)
  assert errors[-1] < 0.02


def test_sde_replays_recorded_noise():
  key, x, k = jax.random.key(0), jnp.ones((3, 2)), 5
  noise = jnp.stack([jax.random.normal(step, x.shape) for step in jax.random.split(key, k)])
  grid = times.grid(k, start=0.1)
  args = (x, grid, lambda t, x: -x, lambda t: 1.0 + t)
  from_key, info = integrators.sde(jax.random.key(0), *args, keep=True)
  replayed, _ = integrators.sde(None, *args, noise=noise)
  other, _ = integrators.sde(jax.random.key(1), *args)
  # Not bit for bit: the two programs fuse differently.
  np.testing.assert_allclose(from_key, replayed, rtol=1e-5, atol=1e-6)
  assert not np.allclose(from_key, other)
  assert info["evaluations"] == k
  assert info["path"].shape == (k + 1, 3, 2)
  np.testing.assert_array_equal(info["path"][0], x)
  np.testing.assert_array_equal(info["path"][-1], from_key)


@pytest.mark.parametrize(("end", "noisy"), [(1.0, False), (0.9, True)])
def test_sde_adds_no_noise_in_a_step_that_ends_at_data(end, noisy):
  x, k = jnp.zeros((2, 3)), 4
  grid = times.grid(k, start=0.1, end=end)
  noise = jnp.zeros((k, 2, 3)).at[-1].set(1.0)
  moved, _ = integrators.sde(None, x, grid, lambda t, x: 0.0 * x, lambda t: jnp.ones_like(t), noise=noise)
  expected = np.sqrt(0.8 / 4) if noisy else 0.0
  np.testing.assert_allclose(moved, expected, rtol=1e-5)


def test_path_evaluations_and_shapes():
  x = jnp.ones((2, 4, 4, 1))
  end, info = integrators.ode(x, times.grid(3), lambda t, x: x, method="heun", keep=True)
  assert end.shape == x.shape
  assert info["path"].shape == (4, *x.shape)
  np.testing.assert_array_equal(info["path"][-1], end)


def test_integrators_trace_the_drift_once_whatever_the_number_of_steps():
  def calls(steps):
    count = []

    def drift(t, x):
      count.append(1)
      return -x

    jax.jit(lambda x, grid: integrators.ode(x, grid, drift)[0])(jnp.ones((2, 1)), times.grid(steps))
    return len(count)

  assert calls(2) == calls(200)


def test_jitted_equals_eager_with_traced_times_and_low_precision_state():
  x, grid = jnp.ones((2, 1), jnp.bfloat16), times.grid(64)
  run = lambda x, grid: integrators.ode(x, grid, lambda t, x: -x)[0]  # noqa: E731
  end = jax.jit(run)(x, grid)
  assert end.dtype == jnp.bfloat16
  np.testing.assert_array_equal(end, run(x, grid))


def test_probability_flow_binds_the_condition():
  drift = marginal.probability_flow(lambda t, x, cond: x * cond["label"][:, None], {"label": jnp.arange(2)})
  np.testing.assert_array_equal(drift(jnp.zeros(2), jnp.ones((2, 3)))[:, 0], [0.0, 1.0])


@pytest.mark.parametrize(
  ("grid", "message"),
  [
    ([0.0, 0.5, 0.5], "times must increase; got 0.5 before 0.5"),
    ([0.5, 0.2], "times must increase"),
    ([0.0, 1.5], r"times must lie in \[0.0, 1.0\]; got 1.5"),
    ([-0.1, 1.0], "times must lie in"),
    ([0.0], "at least 2 times"),
    ([[0.0, 1.0]], "at least 2 times"),
  ],
)
def test_bad_times(grid, message):
  x = jnp.ones((1, 1))
  with pytest.raises(ValueError, match=message):
    integrators.ode(x, jnp.array(grid), lambda t, x: x)
  with pytest.raises(ValueError, match=message):
    integrators.sde(jax.random.key(0), x, jnp.array(grid), lambda t, x: x, lambda t: t)


def test_other_bad_arguments():
  x, grid = jnp.ones((1, 1)), times.grid(2)
  with pytest.raises(ValueError, match="method must be one of euler, heun; got 'rk4'"):
    integrators.ode(x, grid, lambda t, x: x, method="rk4")
  with pytest.raises(ValueError, match=r"noise must have shape \(2, 1, 1\); got \(3, 1, 1\)"):
    integrators.sde(None, x, grid, lambda t, x: x, lambda t: t, noise=jnp.ones((3, 1, 1)))
  with pytest.raises(ValueError, match="key must be given"):
    integrators.sde(None, x, grid, lambda t, x: x, lambda t: t)
