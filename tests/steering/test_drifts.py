import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles, times
from mfm_jax.interpolants import Linear, Trigonometric
from mfm_jax.metrics import distances
from mfm_jax.rewards import likelihoods
from mfm_jax.sampling import integrators, marginal
from mfm_jax.steering import drifts

PRIOR = oracles.paper_mixture()
REWARD = likelihoods.paper_likelihood()
CONSTANTS = (REWARD.matrix, REWARD.observed, REWARD.sigma)
TILTED = oracles.tilt(PRIOR, *CONSTANTS)[0]
SAMPLES = 4096


def distance_to_the_tilt(interpolant, gradient, sampler, *, power=2.0, seeds=2):
  """Mean S-W2 over seeds of 250-step steered samples, from N(0, I) at t = 1e-3, to exact ones."""
  velocity = oracles.as_marginal(PRIOR, interpolant)
  flow = marginal.probability_flow(velocity)
  diffusion, sigma = marginal.diffusion(velocity, interpolant)
  grid = times.grid(250, start=1e-3, power=power)

  @jax.jit
  def run(key):
    key_start, key_path = jax.random.split(key)
    x = jax.random.normal(key_start, (SAMPLES, 2))
    if sampler == "ode":
      drift = drifts.steered(flow, gradient, drifts.ode_gain(interpolant))
      return integrators.ode(x, grid, drift)[0]
    drift = drifts.steered(diffusion, gradient, drifts.sde_gain(interpolant))
    return integrators.sde(key_path, x, grid, drift, sigma)[0]

  found = []
  for seed in range(seeds):
    key_run, key_exact = jax.random.split(jax.random.key(seed))
    exact = oracles.sample(key_exact, TILTED, SAMPLES)
    found.append(distances.sliced_w2(run(key_run), exact))
  return np.mean(found)


@pytest.mark.parametrize("sampler", ["ode", "sde"])
@pytest.mark.parametrize("interpolant", [Linear(), Trigonometric()], ids=["linear", "trigonometric"])
def test_closed_form_gradient_samples_the_tilt(interpolant, sampler):
  """Power 2: steps proportional to sqrt(t), so that sigma^2 h stays small near the start."""

  def gradient(t, x):
    return oracles.grad_value(PRIOR, interpolant, t, x, *CONSTANTS)

  seeds = 5 if interpolant == Linear() else 2
  assert distance_to_the_tilt(interpolant, gradient, sampler, seeds=seeds) <= 0.15


@pytest.mark.parametrize("sampler", ["ode", "sde"])
def test_uniform_steps_do_as_well(sampler):
  def gradient(t, x):
    return oracles.grad_value(PRIOR, Linear(), t, x, *CONSTANTS)

  assert distance_to_the_tilt(Linear(), gradient, sampler, power=1.0) <= 0.15


@pytest.mark.parametrize("sampler", ["ode", "sde"])
def test_the_distance_sees_that_dps_is_biased(sampler):
  gradient = drifts.dps_gradient(oracles.as_marginal(PRIOR, Linear()), Linear(), REWARD)
  assert distance_to_the_tilt(Linear(), gradient, sampler) >= 1.0


@pytest.mark.parametrize("interpolant", [Linear(), Trigonometric()], ids=["linear", "trigonometric"])
def test_dps_is_the_gradient_of_the_reward_at_the_denoiser(interpolant):
  with jax.enable_x64(True):
    prior, h = oracles.paper_mixture(), 1e-5
    t, x = jnp.array([0.1, 0.5, 0.9]), jax.random.normal(jax.random.key(0), (3, 2), jnp.float64)
    gradient = drifts.dps_gradient(oracles.as_marginal(prior, interpolant), interpolant, REWARD)
    found = jax.jit(gradient)(t, x)
    at = jax.jit(lambda x: REWARD(oracles.denoiser(prior, interpolant, t, x)))
    columns = [(at(x + h * e) - at(x - h * e)) / (2 * h) for e in jnp.eye(2)[:, None]]
  np.testing.assert_allclose(found, jnp.stack(columns, axis=1), rtol=1e-6, atol=1e-6)


def test_dps_passes_the_condition_to_velocity_and_reward():
  def velocity(t, x, cond):
    return jnp.zeros_like(x) + cond["label"].astype(x.dtype)[:, None]

  def reward(x, cond):
    return cond["label"] * (x**2).sum(1)

  gradient = drifts.dps_gradient(velocity, Linear(), reward, {"label": jnp.array([1.0, 2.0])})
  # D = x + (1 - t) label, so the gradient is 2 label D.
  found = gradient(jnp.array([0.5, 0.5]), jnp.ones((2, 1)))
  np.testing.assert_allclose(found[:, 0], [2 * 1.5, 4 * 2.0])


def test_gains_and_wrapper():
  t, x = jnp.array([0.2, 0.5]), jnp.ones((2, 3))
  drift = drifts.steered(lambda t, x: 2 * x, lambda t, x: 3 * x, drifts.ode_gain(Linear()))
  np.testing.assert_allclose(drift(t, x)[:, 0], [2 + 3 * 4.0, 2 + 3 * 1.0], rtol=1e-6)
  np.testing.assert_allclose(drifts.sde_gain(Linear())(t), [8.0, 2.0], rtol=1e-6)
