"""SMC: its weights against densities and by hand, its normaliser and samples against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles, times
from mfm_jax.interpolants import Linear, Trigonometric, half_sigma_squared, sde_drift_from_velocity
from mfm_jax.metrics import distances
from mfm_jax.rewards import likelihoods
from mfm_jax.steering import drifts, resampling, smc, steer

PRIOR = oracles.paper_mixture()
REWARD = likelihoods.broad_quadratic()
INF, NAN = np.inf, np.nan
OPTIMISED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}  # see conftest


def oracle_guide(reward=REWARD):
  constants = (reward.matrix, reward.observed, reward.sigma)
  return drifts.closed_form(
    oracles.as_marginal(PRIOR, Linear()),
    lambda t, x: oracles.grad_value(PRIOR, Linear(), t, x, *constants),
    value_of=lambda t, x: oracles.value(PRIOR, Linear(), t, x, *constants),
  )


ORACLE = oracle_guide()


def draws_guide(reward=REWARD, prior=PRIOR, draws=3):
  marginal = oracles.as_marginal(prior, Linear())
  return drifts.mfm_gf(oracles.as_sampler(prior, Linear()), Linear(), reward, draws=draws, marginal=marginal)


def still(value_of, gradient=jnp.zeros_like):
  """A guide whose base drift is zero: without noise the particles stay where they are."""
  return drifts.closed_form(
    lambda t, x, cond: x / (2.0 * t[:, None]), lambda t, x: gradient(x), value_of=value_of
  )


def recorded(steps, batch, populations=1, seed=0):
  """(None, z, u) for states (batch, 2)."""
  rng = np.random.default_rng(seed)
  z, u = rng.normal(size=(steps, batch, 2)), rng.random((steps + 1, populations))
  return None, jnp.asarray(z, jnp.float32), jnp.asarray(u, jnp.float32)


STATES = jax.random.normal(jax.random.key(0), (8, 2))
GRID = times.grid(5, start=0.05, power=2.0)


@jax.jit
def drift_and_gradient(t, x):
  """Of the base SDE and of V, in closed form."""
  t = jnp.full(x.shape[:1], t)
  velocity, gradient, _ = ORACLE(None, t, x)
  return sde_drift_from_velocity(Linear(), t, x, velocity), gradient


# ---- the weights ----


@pytest.mark.parametrize("potential", smc.POTENTIALS)
def test_weights_are_ratios_of_path_densities_times_exp_r(potential):
  """Without resampling, whatever the potential; densities from states alone, not from the noise."""
  options = {"particles": 4, "threshold": 0.0, "scale": 0.7, "renormalise": "clip", "limit": 0.2}
  options |= {"resample_end": False, "potential": potential, "keep": True}
  noise = recorded(5, 8, 2)
  run = jax.jit(lambda: smc.smc(None, STATES, GRID, ORACLE, Linear(), REWARD, noise=noise, **options))
  x, info = run()
  expected = np.asarray(REWARD(x), np.float64)
  for k in range(5):
    t, h, before, after = GRID[k], GRID[k + 1] - GRID[k], info["path"][k], info["path"][k + 1]
    base, gradient = drift_and_gradient(t, before)
    if k == 4:  # ends at data: the drift alone
      np.testing.assert_allclose(after, before + h * base, atol=1e-5)
      break
    variance = 2 * half_sigma_squared(Linear(), t)
    steering = 0.7 * drifts.renormalised(variance * gradient, base, "clip", 0.2)
    squares = [((after - before - h * drift) ** 2).sum(1) for drift in (base, base + steering)]
    expected += (squares[1] - squares[0]) / (2 * variance * h)
  found = info["log_weights"]
  np.testing.assert_allclose(found, expected.reshape(2, 4), atol=2e-4)
  np.testing.assert_allclose(info["log_z"], np.log(np.exp(found).mean(1)), rtol=1e-5)
  assert not info["resampled"].any()


def test_without_resampling_the_states_are_those_of_the_steered_sampler():
  """On times that end before 1: the last step to data is steered there, not here."""
  grid, noise = times.grid(4, start=0.1, end=0.9), recorded(4, 8)
  options = {"scale": 0.5, "renormalise": "rescale", "limit": 0.3}

  @jax.jit
  def run():
    arguments = (None, STATES, grid, ORACLE, Linear())
    alone = {"particles": 8, "threshold": 0.0, "resample_end": False}
    return (
      steer.steer(*arguments, noise=noise[:2], **options)[0],
      smc.smc(*arguments, REWARD, noise=noise, **alone, **options)[0],
    )

  expected, found = run()
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("potential", smc.POTENTIALS)
def test_potentials_by_hand(potential):
  """Particles that stay where they are: the weight at each time, seen through its effective sample size."""
  x = np.array([[-1.0], [0.5], [2.0], [1.0]], np.float32)
  factor = np.array([0.3, -0.5, 0.9])  # of the value at each of the times
  grid = jnp.array([0.2, 0.4, 0.7, 1.0])
  guide = still(lambda t, x: x[:, 0] * jnp.interp(t, grid[:3], jnp.asarray(factor, jnp.float32)))
  values = factor[:, None] * x[:, 0]
  running = {
    "difference": values,
    "max": np.maximum.accumulate(values).cumsum(0),
    "sum": values.cumsum(0).cumsum(0),
  }[potential]
  rewards = x[:, 0] * 2.0 * np.array([1, 0, 1, 2])
  logs = np.concatenate([running, rewards[None]])
  found, info = smc.smc(
    None, jnp.asarray(x), grid, guide, Linear(), lambda x, cond: x[:, 0] * cond["label"],
    {"label": jnp.array([1, 0, 1, 2])}, decode=lambda x: 2.0 * x, particles=4, threshold=0.0,
    potential=potential, resample_end=False, noise=(None, jnp.zeros((3, 4, 1)), jnp.zeros((4, 1))),
  )  # fmt: skip
  np.testing.assert_allclose(found, x, rtol=1e-5)
  weights = np.exp(logs)
  np.testing.assert_allclose(info["ess"][:, 0], weights.sum(1) ** 2 / (weights**2).sum(1), rtol=1e-4)
  np.testing.assert_allclose(info["log_weights"][0], rewards, atol=1e-5)


def test_the_value_is_drawn_once_and_survives_resampling():
  """One call of the guide a state; each weight after resampling is V^(x') - V^ of the ancestor, as found."""
  calls, draws = [], draws_guide()

  def guide(source, t, x):
    jax.debug.callback(lambda t: calls.append(float(t[0])), t, ordered=True)
    return draws(source, t, x)

  options = {"particles": 4, "threshold": 1.0, "scale": 0.0, "keep": True}
  run = jax.jit(lambda key: smc.smc(key, STATES, GRID, guide, Linear(), REWARD, **options))
  x, info = run(jax.random.key(1))
  jax.effects_barrier()
  np.testing.assert_allclose(calls, GRID[:-1], rtol=1e-6)
  values = jnp.concatenate([info["aux"]["value"], REWARD(info["path"][-1])[None]]).reshape(6, 2, 4)
  before = jnp.take_along_axis(values[:-1], info["ancestors"][:-1], axis=2)
  logs = np.concatenate([values[:1], values[1:] - before])
  weights = np.exp(logs)
  np.testing.assert_allclose(info["ess"], weights.sum(2) ** 2 / (weights**2).sum(2), rtol=1e-4)
  np.testing.assert_allclose(info["log_z"], np.log(weights.mean(2)).sum(0), atol=1e-4)
  np.testing.assert_allclose(info["log_weights"], logs[-1], atol=1e-5)
  assert info["resampled"].all()
  assert (info["ancestors"] != jnp.arange(4)[None, None]).any()
  rows = resampling.lineage(info["ancestors"])[-1] + 4 * jnp.arange(2)[:, None]
  np.testing.assert_array_equal(x, info["path"][-1][rows.ravel()])


def test_particles_move_from_their_ancestors_by_the_gradient_found_there():
  noise, options = recorded(5, 8, 2), {"particles": 4, "threshold": 1.0, "keep": True}
  _, info = jax.jit(lambda: smc.smc(None, STATES, GRID, ORACLE, Linear(), REWARD, noise=noise, **options))()
  moved = False
  for k in range(4):
    t, h = GRID[k], GRID[k + 1] - GRID[k]
    rows = (info["ancestors"][k] + 4 * jnp.arange(2)[:, None]).ravel()
    before, variance = info["path"][k][rows], 2 * half_sigma_squared(Linear(), t)
    base, gradient = drift_and_gradient(t, before)
    after = before + h * (base + variance * gradient) + jnp.sqrt(variance * h) * noise[1][k]
    np.testing.assert_allclose(info["path"][k + 1], after, rtol=1e-4, atol=1e-5)
    moved |= (rows != jnp.arange(8)).any()
  assert moved


# ---- what it estimates ----


def discretised_gaussian(interpolant, grid, mean, std):
  """Mean and variance at grid[-1] of the base SDE's steps, N(mean, std^2) data, from N(0, 1) at grid[0]."""
  m, variance = 0.0, 1.0
  grid = np.asarray(grid, np.float64)
  for k, (t, h) in enumerate(zip(grid[:-1], np.diff(grid))):
    a, b, da, db, w = (
      float(getattr(interpolant, name)(jnp.float32(t))) for name in ("a", "b", "da", "db", "w")
    )
    slope = 2 * (db * b * std**2 + da * a) / (a**2 + b**2 * std**2)  # of 2 v
    rate = slope - db / b
    m = m + h * (rate * m + 2 * db * mean - slope * b * mean)
    variance = (1 + h * rate) ** 2 * variance + (k < len(grid) - 2) * 2 * h * a * w / b
  return m, variance


@pytest.mark.parametrize("potential", smc.POTENTIALS)
@pytest.mark.parametrize("kind", ["draws", "dps"])
def test_normaliser_and_samples_are_unbiased(kind, potential):
  """Z and Z E[x] of the discretised SDE, over small populations with few, coarse steps; base and steered."""
  mean, std, centre, width, populations, particles = 1.0, 0.6, 1.6, 0.8, 2000, 6
  prior = oracles.gaussian_mixture(np.ones(1), [[mean]], [[[std**2]]])
  reward = likelihoods.quadratic(np.array([centre]), width)
  interpolant = Linear() if kind == "draws" else Trigonometric()
  guide = draws_guide(reward, prior)
  if kind == "dps":
    guide = drifts.dps(oracles.as_marginal(prior, interpolant), interpolant, reward)
  grid = times.grid(4, start=0.1)

  @jax.jit
  def run(key, scale):
    key_start, key = jax.random.split(key)
    x = jax.random.normal(key_start, (populations * particles, 1))
    options = {"particles": particles, "threshold": 0.9, "potential": potential, "scale": scale}
    return smc.smc(key, x, grid, guide, interpolant, reward, **options)

  m, variance = discretised_gaussian(interpolant, grid, mean, std)
  total = variance + width**2
  z = width / np.sqrt(total) * np.exp(-((m - centre) ** 2) / (2 * total))
  posterior_mean = (m * width**2 + centre * variance) / total
  for scale in (0.0, 1.0):
    x, info = run(jax.random.key(2), scale)
    found = np.exp(np.asarray(info["log_z"], np.float64))
    for estimate, exact in (
      (found, z),
      (found * np.asarray(x).reshape(populations, particles).mean(1), z * posterior_mean),
    ):
      assert abs(estimate.mean() - exact) < 4 * estimate.std() / np.sqrt(populations)
    assert info["resampled"][1:-1].any()
    assert not info["resampled"][:-1].all()
    assert not info["invalid"].any()


def bar(name, draws, seeds):
  """S-W2 of 5 seeds and log Z^ - log Z of all, each with a standard error; 4096 particles, 100 steps."""
  reward = {"sharp": likelihoods.paper_likelihood, "broad": likelihoods.broad_quadratic}[name]()
  tilted, log_z = oracles.tilt(PRIOR, reward.matrix, reward.observed, reward.sigma)
  guide = oracle_guide(reward) if draws is None else draws_guide(reward, draws=draws)
  grid = times.grid(100, start=1e-3, power=2.0)

  @functools.partial(jax.jit, compiler_options=OPTIMISED)
  def run(key):
    key_start, key = jax.random.split(key)
    x = jax.random.normal(key_start, (4096, 2))
    return smc.smc(key, x, grid, guide, Linear(), reward, particles=4096)

  found, errors = [], []
  for seed in range(seeds):
    key_run, key_exact = jax.random.split(jax.random.key(seed))
    x, info = run(key_run)
    errors.append(float(info["log_z"][0] - log_z))
    if seed < 5:
      found.append(distances.sliced_w2(x, oracles.sample(key_exact, tilted, 4096)))
  return [(np.mean(v), np.std(v, ddof=1) / np.sqrt(len(v))) for v in (found, errors)]


@pytest.mark.parametrize(
  ("name", "draws", "seeds"),
  [
    ("sharp", None, 5),
    pytest.param("sharp", None, 20, marks=pytest.mark.slow),
    pytest.param("broad", None, 20, marks=pytest.mark.slow),
    pytest.param("broad", 4, 20, marks=pytest.mark.slow),
  ],
)
def test_closed_forms_and_exact_draws_reach_the_tilt_and_its_normaliser(name, draws, seeds):
  """What is left of log Z is the discretisation's: + .004 at 100 steps, + .001 at 400."""
  (distance, _), (error, standard) = bar(name, draws, seeds)
  assert distance <= 0.15
  assert abs(error) <= 3 * standard + 0.005


# ---- particles and populations without weight ----


def run_still(value_of, reward, x, gradient=jnp.zeros_like, **options):
  """Two steps of two populations of 3, always resampled, particles known by their number x."""
  steps, batch = 2, len(x)
  noise = (None, jnp.zeros((steps, batch, 1)), jnp.full((steps + 1, batch // 3), 0.5))
  options = {"threshold": 1.0, "particles": 3, "noise": noise} | options
  guide, grid = still(value_of, gradient), jnp.array([0.2, 0.5, 1.0])
  x = jnp.asarray(x, jnp.float32)[:, None]
  x, info = jax.jit(lambda: smc.smc(None, x, grid, guide, Linear(), reward, **options))()
  return np.asarray(x)[:, 0], info


@pytest.mark.parametrize(
  ("potential", "threshold"), [("difference", 0.0), ("difference", 1.0), ("max", 0.0), ("sum", 1.0)]
)
def test_a_value_that_is_no_number_loses_its_particle_and_is_counted(potential, threshold):
  """In populations 0 to 2 the first particle's first value is NaN, inf, -inf, in 3 to 5 its reward."""
  bad = jnp.tile(jnp.array([NAN, INF, -INF]), 2)

  def value_of(t, x):
    return jnp.where((jnp.arange(18) % 3 == 0) & (jnp.arange(18) < 9) & (t < 0.3), jnp.repeat(bad, 3), 0.0)

  def reward(x, cond):
    return jnp.where((jnp.abs(x[:, 0] % 3) < 0.1) & (x[:, 0] > 8.5), jnp.repeat(bad, 3), 0.0)

  x, info = run_still(value_of, reward, range(18), potential=potential, threshold=threshold)
  np.testing.assert_allclose(info["log_z"], np.full(6, np.log(2 / 3)), rtol=1e-5)
  assert (np.round(x) % 3 != 0).all()
  expected = np.zeros((3, 18), int)
  expected[0, [0, 3]] = expected[2, [9, 12]] = 1
  np.testing.assert_array_equal(info["invalid"], expected)
  if threshold == 0:  # kept, at weight 0
    np.testing.assert_array_equal(info["log_weights"][:, 0], -INF)
  else:
    np.testing.assert_array_equal(info["ancestors"][0], [[1, 2, 2]] * 3 + [[0, 1, 2]] * 3)


def test_a_population_without_weight_is_left_alone():
  """At the first time, at the end, and one that has weight throughout: finite states, log_z -inf."""
  value_of = lambda t, x: jnp.where(x[:, 0] < 2.5, -INF, 0.0)  # noqa: E731
  reward = lambda x, cond: jnp.where(x[:, 0] < 5.5, -INF, -1.0)  # noqa: E731
  x, info = run_still(value_of, reward, range(9))
  np.testing.assert_array_equal(info["log_z"], [-INF, -INF, -1.0])
  np.testing.assert_allclose(x, range(9), rtol=1e-5)
  np.testing.assert_array_equal(info["resampled"], [[False, True, True]] * 2 + [[False, False, True]])
  np.testing.assert_array_equal(info["ess"][:, :2], [[0, 3], [0, 3], [0, 0]])
  assert not info["invalid"].any()


def test_a_gradient_that_is_no_number_loses_its_particle():
  gradient = lambda x: jnp.where(jnp.abs(x - 1) < 0.1, NAN, 0.0 * x)  # noqa: E731
  x, info = run_still(lambda t, x: jnp.zeros_like(t), lambda x, cond: 0.0 * x[:, 0], range(6), gradient)
  np.testing.assert_array_equal(info["invalid"], np.eye(6)[[5, 1, 5]] * [[0], [1], [0]])
  np.testing.assert_allclose(info["log_z"], [np.log(2 / 3), 0.0], atol=1e-6)
  np.testing.assert_allclose(x[3:], [3, 4, 5], rtol=1e-5)
  assert np.isin(np.round(x[:3]), [0, 2]).all()


# ---- arguments ----


def test_randomness_comes_from_the_key_or_from_the_record():
  guide = draws_guide()
  run = functools.partial(smc.smc, x=STATES, times=GRID, guide=guide, interpolant=Linear(), reward=REWARD)
  e = jax.random.normal(jax.random.key(1), (5, 8, 3, 2))
  _, z, u = recorded(5, 8, 2)
  compiled = jax.jit(lambda key, noise: run(key, particles=4, threshold=1.0, noise=noise))
  found, info = compiled(None, (e, z, u))
  np.testing.assert_array_equal(found, compiled(jax.random.key(0), (e, z, u))[0])
  for changed in ((e + 1.0, z, u), (e, z + 1.0, u), (e, z, 1.0 - u)):
    assert (compiled(None, changed)[0] != found).any()
  drawn = [compiled(jax.random.key(k), None)[0] for k in (0, 0, 1)]
  np.testing.assert_array_equal(drawn[0], drawn[1])
  assert (drawn[0] != drawn[2]).any()
  assert info["log_z"].shape == (2,)
  assert info["log_weights"].shape == (2, 4)
  assert info["ancestors"].shape == (6, 2, 4)
  assert info["ess"].shape == info["resampled"].shape == (6, 2)
  assert info["invalid"].shape == (6, 8)
  assert {name: leaf.shape for name, leaf in info["aux"].items()} == dict.fromkeys(
    ("value", "standard_error", "ess", "invalid"), (5, 8)
  )


def test_one_particle_is_its_own_population():
  guide = still(lambda t, x: x[:, 0])
  run = jax.jit(lambda key: smc.smc(key, STATES, GRID, guide, Linear(), REWARD, particles=1, threshold=1.0))
  x, info = run(jax.random.key(0))
  assert x.shape == STATES.shape
  np.testing.assert_array_equal(info["ancestors"], 0)
  np.testing.assert_allclose(info["ess"], 1.0)
  assert jnp.isfinite(info["log_z"]).all()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"particles": 0}, "particles must be at least 1; got 0"),
    ({"particles": 3}, "the batch must be a multiple of particles=3; got 8"),
    ({"threshold": 1.5}, r"threshold must lie in \[0.0, 1.0\]; got 1.5"),
    ({"potential": "mean"}, "potential must be one of difference, max, sum; got 'mean'"),
    ({"renormalise": "norm"}, "renormalise must be one of none, rescale, clip; got 'norm'"),
    ({"times": jnp.array([0.5, 0.2])}, "times must increase"),
    ({"guide": drifts.unguided(lambda t, x, cond: x)}, "the guide must find a value; got nothing"),
    ({"guide": drifts.on_interval(ORACLE, None, low=0.2, high=0.8)}, "must find a value at all times; got"),
    (
      {"guide": drifts.closed_form(lambda t, x, cond: x, lambda t, x: x, value_of=lambda t, x: x)},
      r"the guide's value must have shape \(8,\); got \(8, 2\)",
    ),
    ({"reward": lambda x, cond: x}, r"reward\(x\) must have shape \(8,\); got \(8, 2\)"),
    ({"key": None}, "a key must be given where noise is None"),
    ({"noise": (None, jnp.zeros((4, 8, 2)), None)}, r"noise must have shape \(5, 8, 2\); got \(4, 8, 2\)"),
    ({"noise": (None, None, jnp.zeros((5, 2)))}, r"noise of the resampling must have shape \(6, 2\)"),
  ],
)
def test_bad_arguments(options, message):
  arguments = {
    "key": jax.random.key(0),
    "times": GRID,
    "guide": ORACLE,
    "reward": REWARD,
    "particles": 4,
    **options,
  }
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: smc.smc(x=STATES, interpolant=Linear(), **arguments))
