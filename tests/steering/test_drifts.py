import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles, times
from mfm_jax.interpolants import Linear, Trigonometric
from mfm_jax.metrics import distances
from mfm_jax.rewards import likelihoods
from mfm_jax.steering import drifts, steer, value

PRIOR = oracles.paper_mixture()
REWARD = likelihoods.paper_likelihood()
CONSTANTS = (REWARD.matrix, REWARD.observed, REWARD.sigma)
TILTED = oracles.tilt(PRIOR, *CONSTANTS)[0]
SAMPLES = 4096


def distance_to_the_tilt(interpolant, guide, sampler, *, power=2.0, seeds=2):
  """Mean S-W2 over seeds of 250-step steered samples, from N(0, I) at t = 1e-3, to exact ones."""
  grid = times.grid(250, start=1e-3, power=power)
  # Unlike most tests this one takes longer to run than to compile (see conftest).
  optimised = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}

  @functools.partial(jax.jit, compiler_options=optimised)
  def run(key):
    key_start, key_path = jax.random.split(key)
    x = jax.random.normal(key_start, (SAMPLES, 2))
    return steer.steer(key_path, x, grid, guide, interpolant, sampler=sampler)[0]

  found = []
  for seed in range(seeds):
    key_run, key_exact = jax.random.split(jax.random.key(seed))
    exact = oracles.sample(key_exact, TILTED, SAMPLES)
    found.append(distances.sliced_w2(run(key_run), exact))
  return np.mean(found)


def exact_guide(interpolant):
  def gradient(t, x):
    return oracles.grad_value(PRIOR, interpolant, t, x, *CONSTANTS)

  return drifts.closed_form(oracles.as_marginal(PRIOR, interpolant), gradient)


@pytest.mark.parametrize("sampler", ["ode", "sde"])
@pytest.mark.parametrize(
  "interpolant",
  [
    pytest.param(Linear(), id="linear"),
    pytest.param(Trigonometric(), id="trigonometric", marks=pytest.mark.slow),
  ],
)
def test_closed_form_gradient_samples_the_tilt(interpolant, sampler):
  """Power 2: steps proportional to sqrt(t), so that sigma^2 h stays small near the start."""
  seeds = 5 if interpolant == Linear() else 2
  assert distance_to_the_tilt(interpolant, exact_guide(interpolant), sampler, seeds=seeds) <= 0.15


@pytest.mark.parametrize("sampler", ["ode", "sde"])
def test_uniform_steps_do_as_well(sampler):
  assert distance_to_the_tilt(Linear(), exact_guide(Linear()), sampler, power=1.0) <= 0.15


@pytest.mark.parametrize("sampler", ["ode", "sde"])
def test_the_distance_sees_that_dps_is_biased(sampler):
  guide = drifts.dps(oracles.as_marginal(PRIOR, Linear()), Linear(), REWARD)
  assert distance_to_the_tilt(Linear(), guide, sampler) >= 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "bound"), [(1, 0.2), (5, 0.12)])
def test_exact_posterior_draws_sample_the_tilt(seeds, bound):
  """MFM-GF with N = 32 draws of the closed-form posterior; the floor of one seed is .09 +- .04."""
  sampler = oracles.as_sampler(PRIOR, Linear())
  flow = oracles.as_marginal(PRIOR, Linear())
  guide = drifts.mfm_gf(sampler, Linear(), REWARD, draws=32, chunk=1, jackknife=8, marginal=flow)
  assert distance_to_the_tilt(Linear(), guide, "sde", seeds=seeds) <= bound


@pytest.mark.parametrize("interpolant", [Linear(), Trigonometric()], ids=["linear", "trigonometric"])
def test_dps_is_the_gradient_of_the_reward_at_the_denoiser(interpolant):
  with jax.enable_x64(True):
    prior, h = oracles.paper_mixture(), 1e-5
    t, x = jnp.array([0.1, 0.5, 0.9]), jax.random.normal(jax.random.key(0), (3, 2), jnp.float64)
    guide = drifts.dps(oracles.as_marginal(prior, interpolant), interpolant, REWARD)
    guided = jax.jit(lambda t, x: guide(None, t, x))(t, x)
    found = guided.gradient
    at = jax.jit(lambda x: REWARD(oracles.denoiser(prior, interpolant, t, x)))
    columns = [(at(x + h * e) - at(x - h * e)) / (2 * h) for e in jnp.eye(2)[:, None]]
    np.testing.assert_allclose(guided.velocity, oracles.velocity(prior, interpolant, t, x), rtol=1e-8)
    np.testing.assert_allclose(guided.found["value"], at(x), rtol=1e-8)
  np.testing.assert_allclose(found, jnp.stack(columns, axis=1), rtol=1e-6, atol=1e-6)


def test_dps_passes_the_condition_to_velocity_and_reward():
  def velocity(t, x, cond):
    return jnp.zeros_like(x) + cond["label"].astype(x.dtype)[:, None]

  def reward(x, cond):
    return cond["label"] * (x**2).sum(1)

  guide = drifts.dps(velocity, Linear(), reward, {"label": jnp.array([1.0, 2.0])}, decode=lambda x: 3 * x)
  # D = x + (1 - t) label, so the gradient of label (3 D)^2 is 18 label D.
  found = guide(None, jnp.array([0.5, 0.5]), jnp.ones((2, 1))).gradient
  np.testing.assert_allclose(found[:, 0], [18 * 1.5, 36 * 2.0])


def toy_velocity(s, u, x_s, t, x_t, cond):
  return jnp.tanh(x_s + 2.0 * x_t) + (s + 2.0 * u + 3.0 * t)[:, None]


@pytest.mark.parametrize(
  ("name", "estimator", "model"),
  [
    ("mfm_gf", value.value_and_grad_gf, (toy_velocity, Linear())),
    ("mfm_g", value.value_and_grad_g, (toy_velocity,)),
  ],
)
def test_guides_by_draws_are_their_estimators(name, estimator, model):
  t, x = jnp.array([0.1, 0.5, 0.9]), jax.random.normal(jax.random.key(0), (3, 2))
  guide = getattr(drifts, name)(*model, REWARD, draws=4)
  noise = jax.random.normal(jax.random.key(1), (3, 4, 2))
  for source, key, given in ((noise, None, noise), (jax.random.key(2), jax.random.key(2), None)):
    guided = guide(source, t, x)
    estimate, gradient = estimator(key, *model, t, x, REWARD, draws=4, noise=given)
    np.testing.assert_array_equal(guided.gradient, gradient)
    assert guided.found.keys() == estimate._asdict().keys()
    zero = jnp.zeros_like(t), jnp.zeros_like(x)
    np.testing.assert_array_equal(guided.velocity, model[0](t, t, x, *zero, None))


@pytest.mark.parametrize("how", drifts.RENORMALISATIONS)
def test_renormalised(how):
  base = jnp.array([[3.0, 4.0], [0.6, 0.8], [1.0, 0.0], [1.0, 0.0]])
  steering = jnp.array([[0.0, 1.0], [20.0, 0.0], [0.0, 0.0], [0.0, 1.5]])
  found = drifts.renormalised(steering, base, how, limit=2.0)
  expected = {
    "none": steering,
    "rescale": [[0.0, 10.0], [2.0, 0.0], [0.0, 0.0], [0.0, 2.0]],
    "clip": [[0.0, 1.0], [2.0, 0.0], [0.0, 0.0], [0.0, 1.5]],
  }[how]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["iwae", "sne", "dps"])
def test_renormalisation_is_the_published_one(name, golden):
  arrays = golden(f"D_steering_{name}")
  compared = 0
  for reward in ("quad", "tanh"):
    for sampler in ("ode", "sde"):
      base = arrays[f"{sampler}__uncond_drift"]
      raw = arrays[f"{reward}__{sampler}__none__steering_drift_scaled"]
      for how in ("none", "rescale", "clip"):
        expected = arrays[f"{reward}__{sampler}__{how}__steering_drift_scaled"]
        total = arrays[f"{reward}__{sampler}__{how}__drift"]
        for k in range(len(arrays["t"])):
          limit = float(arrays["renorm_scale"])
          found = drifts.renormalised(jnp.asarray(raw[k]), jnp.asarray(base[k]), how, limit)
          np.testing.assert_allclose(found, expected[k], atol=1e-6 * abs(expected[k]).max())
          scale = float(arrays["guidance_scale"])
          np.testing.assert_allclose(base[k] + scale * found, total[k], atol=1e-6 * abs(total[k]).max())
          compared += 1
  assert compared == 12 * len(arrays["t"])


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: drifts.renormalised(jnp.ones((1, 2)), jnp.ones((1, 2)), "norm"), "renormalise must be one of"),
    (lambda: drifts.renormalised(jnp.ones((1, 2)), jnp.ones((1, 2)), "clip", 0.0), "limit must be positive"),
    (lambda: drifts.mfm_gf(None, Linear(), REWARD, draws=1), "draws must be at least 2; got 1"),
    (lambda: drifts.mfm_g(None, REWARD, draws=0), "draws must be at least 1; got 0"),
    (lambda: drifts.mfm_g(None, REWARD, draws=1, chunk=0), "chunk must be at least 1; got 0"),
    (
      lambda: drifts.dps(oracles.as_marginal(PRIOR, Linear()), Linear(), lambda x, cond: x)(
        None, jnp.zeros(3), jnp.zeros((3, 2))
      ),
      r"reward\(x\) must have shape \(3,\); got \(3, 2\)",
    ),
  ],
)
def test_bad_arguments(call, message):
  with pytest.raises(ValueError, match=message):
    call()
