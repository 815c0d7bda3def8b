import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles, times
from mfm_jax.interpolants import Linear, Trigonometric, interpolate
from mfm_jax.metrics import distances
from mfm_jax.sampling import posterior, refinement

PRIOR = oracles.paper_mixture()


def states(key, interpolant, t):
  key_data, key_noise = jax.random.split(key)
  x1 = oracles.sample(key_data, PRIOR, len(t))
  return interpolate(interpolant, t, jax.random.normal(key_noise, x1.shape), x1)


def posterior_std(interpolant, t, x_t):
  laws = oracles.posterior(PRIOR, interpolant, t, x_t)
  mean = jnp.einsum("bk,bkd->bd", laws.weights, laws.means)
  second = jnp.einsum("bk,bkd->bd", laws.weights, laws.variances + laws.means**2)  # axes are I
  return jnp.sqrt((second - mean**2).mean(1))


@pytest.mark.parametrize(
  ("interpolant", "sampler"),
  [
    (Linear(), "map"),
    (Linear(), "map_4_steps"),
    (Linear(), "glass"),
    (Trigonometric(), "map"),
    (Trigonometric(), "glass"),
  ],
)
def test_draws_follow_the_exact_posterior(interpolant, sampler):
  contexts, draws = 24, 1024
  t = jnp.repeat(jnp.array([0.0, 0.2, 0.5, 0.8]), contexts // 4)
  x_t = states(jax.random.key(1), interpolant, t)

  @jax.jit
  def run(key):
    if sampler == "glass":
      marginal = oracles.as_marginal(PRIOR, interpolant)
      return posterior.draw_glass(key, marginal, interpolant, t, x_t, draws=draws, times=times.grid(64))
    steps = 4 if sampler == "map_4_steps" else 1
    velocity = oracles.as_velocity(PRIOR, interpolant, steps=32 // steps)
    return posterior.draw(key, velocity, t, x_t, draws=draws, steps=steps)

  found = run(jax.random.key(2))
  assert found.shape == (contexts, draws, 2)
  std = posterior_std(interpolant, t, x_t)
  exact, again = (
    oracles.posterior_sample(jax.random.key(seed), PRIOR, interpolant, t, x_t, draws) for seed in (3, 4)
  )
  floor = distances.relative_posterior_sw2(again, exact, std)
  assert floor == pytest.approx(0.08, abs=0.02)
  assert distances.relative_posterior_sw2(found, exact, std) < 1.25 * floor
  # The metric sees contexts that are mixed up.
  assert distances.relative_posterior_sw2(jnp.roll(found, 1, axis=0), exact, std) > 0.5


@pytest.mark.parametrize(
  ("interpolant", "start", "steps"),
  [(Linear(), 0.0, 1), (Linear(), 0.0, 4), (Trigonometric(), 0.3, 3)],
)
def test_refinement_keeps_the_exact_law(interpolant, start, steps):
  n = 4096
  x = states(jax.random.key(5), interpolant, jnp.full(n, start))
  velocity = oracles.as_velocity(PRIOR, interpolant, steps=16)
  grid = times.grid(steps, start=start)
  found, info = jax.jit(lambda key: refinement.refine(key, x, grid, velocity, interpolant))(jax.random.key(6))
  assert info["evaluations"] == steps
  exact = oracles.sample(jax.random.key(7), PRIOR, n)
  assert distances.sliced_w2(found, exact) < 0.25  # floor about 0.1, by the components' shares
  assert abs(distances.energy_distance(found, exact)) < 0.01


def toy_velocity(s, u, x_s, t, x_t, cond):
  """Smooth, and every argument matters."""
  out = jnp.tanh(x_s + 2.0 * x_t) + (s + 2.0 * u + 3.0 * t)[:, None]
  return out if cond is None else out + cond["label"].astype(x_s.dtype)[:, None]


@pytest.mark.parametrize("chunk", [3, 20])
def test_chunks_change_nothing(chunk):
  t, x_t = jnp.array([0.1, 0.5, 0.9]), jax.random.normal(jax.random.key(0), (3, 2))
  cond = {"label": jnp.arange(3)}
  whole = posterior.draw(jax.random.key(1), toy_velocity, t, x_t, cond, draws=7, steps=2)
  parts = posterior.draw(jax.random.key(1), toy_velocity, t, x_t, cond, draws=7, steps=2, chunk=chunk)
  np.testing.assert_allclose(parts, whole, rtol=1e-6)
  marginal = lambda t, x, cond: jnp.sin(x) + cond["label"].astype(x.dtype)[:, None]  # noqa: E731
  run = lambda chunk: posterior.draw_glass(  # noqa: E731
    jax.random.key(1), marginal, Linear(), t, x_t, cond, draws=7, times=times.grid(4), chunk=chunk
  )
  np.testing.assert_allclose(run(chunk), run(None), rtol=1e-5, atol=1e-6)


def test_draw_pairs_each_context_with_its_own_time_condition_and_noise():
  t, x_t = jnp.array([0.1, 0.5, 0.9]), jax.random.normal(jax.random.key(0), (3, 2))
  label = jnp.arange(3)
  noise = jax.random.normal(jax.random.key(2), (3, 5, 2))
  found = posterior.draw(None, toy_velocity, t, x_t, {"label": label}, draws=5, noise=noise, chunk=2)
  # One flow map from s = 0 to u = 1, written out.
  rest = (2.0 + 3.0 * t + label)[:, None, None]
  np.testing.assert_allclose(found, noise + jnp.tanh(noise + 2 * x_t[:, None]) + rest, rtol=1e-6)


def test_keys_draw_standard_normals_without_repetition():
  t, x_t = jnp.zeros(2), jnp.zeros((2, 500))
  noise = posterior.draw(jax.random.key(0), lambda s, u, x, t, x_t, cond: 0.0 * x, t, x_t, draws=20, chunk=6)
  flat = np.asarray(noise).reshape(40, 500)
  assert abs(flat.mean()) < 4 / np.sqrt(flat.size)
  assert abs(flat.std() - 1) < 4 / np.sqrt(2 * flat.size)
  correlation = np.corrcoef(flat) - np.eye(40)
  assert np.abs(correlation).max() < 5 / np.sqrt(500)


def test_refinement_follows_its_recursion_on_recorded_noise():
  interpolant, x = Trigonometric(), jnp.array([[0.3, -0.2]])
  grid = jnp.array([0.0, 0.4, 1.0])
  e, n = jax.random.normal(jax.random.key(0), (2, 2, 1, 2))
  cond = {"label": jnp.array([1])}
  found, info = refinement.refine(None, x, grid, toy_velocity, interpolant, cond, noise=(e, n))
  expected = x
  for k in range(2):
    x1 = e[k] + np.tanh(e[k] + 2 * expected) + 2.0 + 3.0 * grid[k] + 1.0
    angle = 0.5 * np.pi * grid[k + 1]
    expected = np.cos(angle) * n[k] + np.sin(angle) * x1
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert info["evaluations"] == 2
  # The noise of the last step has no effect; every other array has.
  unused = refinement.refine(None, x, grid, toy_velocity, interpolant, cond, noise=(e, n.at[1].set(9.0)))[0]
  np.testing.assert_array_equal(unused, found)
  used = refinement.refine(None, x, grid, toy_velocity, interpolant, cond, noise=(e, n.at[0].set(-9.0)))[0]
  assert not np.allclose(used, found)


def test_one_step_refinement_from_zero_is_one_posterior_draw():
  x = jnp.zeros((3, 2))
  e = jax.random.normal(jax.random.key(0), (1, 3, 2))
  found, _ = refinement.refine(None, x, times.grid(1), toy_velocity, Linear(), noise=(e, jnp.zeros_like(e)))
  drawn = posterior.draw(None, toy_velocity, jnp.zeros(3), x, draws=1, noise=e.reshape(3, 1, 2))
  np.testing.assert_allclose(found, drawn[:, 0], rtol=1e-6)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"draws": 0}, "draws must be at least 1; got 0"),
    ({"chunk": 0}, "chunk must be at least 1; got 0"),
    ({"steps": 0}, "steps must be at least 1; got 0"),
    ({"t": jnp.zeros(3)}, r"t must have shape \(2,\); got \(3,\)"),
    ({"t": jnp.full(2, 1.5)}, r"t must lie in \[0.0, 1.0\]; got 1.5"),
    ({"noise": jnp.zeros((2, 3, 1))}, r"noise must have shape \(2, 4, 1\); got \(2, 3, 1\)"),
    ({"key": None}, "key must be given"),
  ],
)
def test_bad_arguments_of_draw(change, message):
  arguments = {"key": jax.random.key(0), "t": jnp.zeros(2), "x_t": jnp.zeros((2, 1)), "draws": 4}
  arguments |= {"velocity": toy_velocity} | change
  with pytest.raises(ValueError, match=message):
    posterior.draw(**arguments)


def test_bad_time_grids():
  key, x = jax.random.key(0), jnp.zeros((2, 1))
  with pytest.raises(ValueError, match=r"times must end at 1.0; got 0.5"):
    refinement.refine(key, x, jnp.array([0.0, 0.5]), toy_velocity, Linear())
  marginal = oracles.as_marginal(oracles.gaussian(1.0, 1), Linear())
  for grid, rule in (([0.1, 1.0], "start at 0.0"), ([0.0, 0.9], "end at 1.0")):
    with pytest.raises(ValueError, match=f"times must {rule}"):
      posterior.draw_glass(key, marginal, Linear(), jnp.zeros(2), x, draws=2, times=jnp.array(grid))
