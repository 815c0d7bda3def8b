import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles, times
from mfm_jax.interpolants import Linear, Trigonometric
from mfm_jax.rewards import likelihoods
from mfm_jax.sampling.refinement import refine
from mfm_jax.steering import search as searching
from mfm_jax.steering.search import search

PRIOR = oracles.paper_mixture()
REWARD = likelihoods.broad_quadratic()
GRID = times.grid(5, power=2.5)
S, M, N, K = 3, 4, 3, 5
EVERY = pytest.mark.parametrize(
  ("selection", "transition"),
  [(selection, transition) for selection in searching.SELECTIONS for transition in searching.TRANSITIONS],
)
OPTIONS = {"particles": M, "draws": N}


def recorded(seed=0):
  """States at times[0] and the noise of draws and transitions."""
  rng = np.random.default_rng(seed)
  x, e, n = (rng.standard_normal(shape) for shape in ((S * M, 2), (K, S * M, N, 2), (K, S * M, 2)))
  return jnp.asarray(x, jnp.float32), (jnp.asarray(e, jnp.float32), jnp.asarray(n, jnp.float32))


def toy(s, u, x_s, t, x_t, cond):
  """A map that bends in the context, cheap to compile."""
  return jnp.tanh(x_s + 2.0 * x_t) - t[:, None] * x_s


def run(key, x, interpolant=None, reward=REWARD, grid=GRID, velocity=None, **options):
  interpolant = Linear() if interpolant is None else interpolant
  velocity = oracles.as_sampler(PRIOR, interpolant) if velocity is None else velocity
  return jax.jit(lambda key, x: search(key, x, grid, velocity, interpolant, reward, **options))(key, x)


def by_hand(x, noise, interpolant, selection, transition, bad=lambda x1: False):
  """Algorithm 4 in loops over samples and particles, NumPy; only the oracle's draws are made by JAX."""
  velocity = jax.jit(oracles.as_sampler(PRIOR, interpolant))
  a, b = {
    Linear: (lambda t: 1 - t, lambda t: t),
    Trigonometric: (lambda t: np.cos(np.pi * t / 2), lambda t: np.sin(np.pi * t / 2)),
  }[type(interpolant)]
  grid, (e, n) = np.asarray(GRID, np.float64), (np.asarray(part) for part in noise)
  states, seen, invalid = [np.asarray(x, np.float64)], [], np.zeros((K, S * M), int)
  for k, (t, after) in enumerate(itertools.pairwise(grid)):
    x, new = states[-1], np.zeros_like(states[-1])
    drawn = np.zeros((S * M, N, 2))
    for j in range(N):
      one, zero = jnp.ones(S * M), jnp.zeros(S * M)
      slope = velocity(zero, one, e[k, :, j], t * one, jnp.asarray(x, jnp.float32), None)
      drawn[:, j] = e[k, :, j] + np.asarray(slope)
    rewards = -((drawn - 2.0) ** 2).sum(-1) / 8
    for i, j in np.ndindex(S * M, N):
      if bad(drawn[i, j]):
        rewards[i, j], invalid[k, i] = -np.inf, invalid[k, i] + 1
    best, ends = [], []
    for s in range(S):
      own = [s * M + m for m in range(M)]
      top = max(((rewards[i, j], i, j) for i in own for j in range(N)), key=lambda entry: entry[0])
      for i in own:
        source, j = (top[1], top[2]) if selection == "overall" else (i, rewards[i].argmax())
        x1 = drawn[source, j]
        x0 = n[k, i] if transition == "stochastic" else (x[source] - b(t) * x1) / a(t)
        new[i] = a(after) * x0 + b(after) * x1
      best.append(top[0])
      ends.append(drawn[top[1], top[2]])
    states.append(new)
    seen.append((best, ends, rewards.max(1)))
  return np.array(states), [np.array(part) for part in zip(*seen, strict=True)], invalid


@EVERY
@pytest.mark.parametrize("interpolant", [Linear(), Trigonometric()], ids=["linear", "trigonometric"])
def test_it_is_the_algorithm(interpolant, selection, transition):
  x, noise = recorded()
  x1, info = run(
    None, x, interpolant, noise=noise, selection=selection, transition=transition, keep=True, **OPTIONS
  )
  states, (best, ends, rewards), _ = by_hand(x, noise, interpolant, selection, transition)
  tolerance = {
    "rtol": 1e-3,
    "atol": 1e-3,
  }  # float32 through five steps, each of which may stretch what it gets
  np.testing.assert_allclose(info["path"], states, **tolerance)
  np.testing.assert_allclose(x1, ends[-1], **tolerance)
  np.testing.assert_allclose(info["reward"], best[-1], **tolerance)
  np.testing.assert_allclose(info["rewards"], rewards, **tolerance)
  np.testing.assert_allclose(info["best"]["reward"], best.max(0), **tolerance)
  np.testing.assert_allclose(info["best"]["x1"], ends[best.argmax(0), np.arange(S)], **tolerance)
  assert info["evaluations"] == K * N
  assert not info["invalid"].any()


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("chunk", [None, 2])
def test_rewards_that_are_not_finite_are_counted_and_lose(value, chunk):
  """They stand where the reward would be highest. -inf, which says impossible, is not counted."""
  bad = lambda x: (x[..., 0] > 2.0) & (x[..., 0] < 3.0)  # noqa: E731
  reward = lambda x, cond: jnp.where(bad(x), value, REWARD(x))  # noqa: E731
  x, noise = recorded()
  x1, info = run(None, x, reward=reward, noise=noise, keep=True, chunk=chunk, **OPTIONS)
  states, (best, _, _), invalid = by_hand(x, noise, Linear(), "overall", "stochastic", bad)
  assert invalid.any()
  np.testing.assert_array_equal(info["invalid"], 0 if value == -jnp.inf else invalid)
  np.testing.assert_allclose(info["path"], states, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(info["reward"], best[-1], rtol=1e-3, atol=1e-3)
  assert not bad(np.asarray(x1)).any()


def test_without_a_finite_reward_a_draw_is_returned_and_its_reward_is_nan():
  x, noise = recorded()
  worst = lambda x, cond: jnp.full(len(x), jnp.nan)  # noqa: E731
  for chunk in (None, 2):
    x1, info = run(None, x, reward=worst, velocity=toy, noise=noise, chunk=chunk, **OPTIONS)
    # The first draw of the first particle, at every step.
    x_k = x
    for k in range(K):
      e = noise[0][k, :, 0]
      first = e + toy(None, None, e, jnp.full(S * M, GRID[k]), x_k, None)
      chosen = jnp.repeat(first[::M], M, axis=0)
      x_k = (1 - GRID[k + 1]) * noise[1][k] + GRID[k + 1] * chosen
    np.testing.assert_allclose(x1, chosen[::M], rtol=1e-4, atol=1e-4)
    assert np.isnan(info["reward"]).all()
    assert np.isnan(info["best"]["reward"]).all()
    np.testing.assert_array_equal(info["invalid"], N)


def test_one_particle_and_one_draw_are_the_refinement_sampler():
  x, (e, n) = recorded()
  x1, _ = run(None, x, velocity=toy, noise=(e[:, :, :1], n), particles=1, draws=1)
  expected, _ = refine(None, x, GRID, toy, Linear(), noise=(e[:, :, 0], n))
  np.testing.assert_allclose(x1, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("selection", searching.SELECTIONS)
def test_a_deterministic_transition_keeps_the_implied_noise(selection):
  """With a map that returns one x1 the path is the straight line from its start to there."""
  still = jnp.array([[1.0, -2.0]])
  velocity = lambda s, u, x_s, t, x_t, cond: still - x_s  # noqa: E731
  x, _ = recorded()
  options = {"transition": "deterministic", "selection": selection, "keep": True}
  x1, info = run(jax.random.key(0), x, velocity=velocity, **options, **OPTIONS)
  start = jnp.repeat(x[::M], M, axis=0) if selection == "overall" else x  # equal rewards: the first
  grid = GRID[1:, None, None]
  np.testing.assert_allclose(
    info["path"][1:], (1 - grid) * start[None] + grid * still[None], rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(x1, jnp.repeat(still, S, axis=0), rtol=1e-6)


@EVERY
def test_the_result_does_not_depend_on_the_chunk(selection, transition):
  x, _ = recorded()
  options = {"selection": selection, "transition": transition, "keep": True}
  options |= {"velocity": toy, "particles": M, "draws": 5}
  whole = run(jax.random.key(1), x, **options)
  parts = run(jax.random.key(1), x, chunk=2, **options)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), parts, whole)


def test_samples_are_independent_of_each_other():
  x, noise = recorded()
  together = run(None, x, velocity=toy, noise=noise, **OPTIONS)[0]
  noise = tuple(part[:, M : 2 * M] for part in noise)
  alone = run(None, x[M : 2 * M], velocity=toy, noise=noise, **OPTIONS)[0]
  np.testing.assert_allclose(together[1:2], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("selection", "transition"), [("overall", "stochastic"), ("per_particle", "deterministic")]
)
def test_more_particles_and_more_draws_find_higher_rewards(selection, transition):
  samples = 256
  mean, error = {}, {}
  for m, n in ((1, 1), (4, 1), (1, 4), (4, 4)):
    x = jax.random.normal(jax.random.key(0), (samples * m, 2))
    options = {"selection": selection, "transition": transition, "particles": m, "draws": n}
    rewards = run(jax.random.key(1), x, **options)[1]["reward"]
    mean[m, n], error[m, n] = rewards.mean(), rewards.std() / np.sqrt(samples)
  for less, more in (((1, 1), (4, 1)), ((1, 1), (1, 4)), ((4, 1), (4, 4)), ((1, 4), (4, 4))):
    assert mean[more] - mean[less] > 3 * np.hypot(error[less], error[more]), (less, more, mean)


def test_condition_and_decoding_reach_velocity_and_reward():
  """Each sample is drawn to its own label, in the units that the reward sees."""
  labels = jnp.repeat(jnp.arange(3), M)
  velocity = lambda s, u, x_s, t, x_t, cond: 0.1 * cond["label"][:, None].astype(jnp.float32) - x_s  # noqa: E731
  reward = lambda x, cond: jnp.where(jnp.abs(x[:, 0] - cond["label"]) < 1e-5, 1.0, jnp.nan)  # noqa: E731
  x, _ = recorded()
  x1, info = run(
    jax.random.key(0),
    x,
    velocity=velocity,
    reward=reward,
    cond={"label": labels},
    decode=lambda x: 10.0 * x,
    **OPTIONS,
  )
  np.testing.assert_allclose(x1[:, 0], [0.0, 0.1, 0.2], rtol=1e-6)
  np.testing.assert_array_equal(info["reward"], 1.0)
  assert not info["invalid"].any()


def test_memory_does_not_grow_with_the_number_of_draws():
  width, batch = 512, 8
  velocity = lambda s, u, x_s, t, x_t, cond: jnp.tanh(jnp.tanh(x_s + x_t) + x_s)  # noqa: E731
  reward = lambda x, cond: -(x**2).sum(1)  # noqa: E731

  def temporary(draws):
    run = lambda key, x: search(  # noqa: E731
      key, x, GRID, velocity, Linear(), reward, particles=4, draws=draws, chunk=8
    )
    compiled = jax.jit(run).lower(jax.random.key(0), jnp.zeros((batch, width))).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(512) - temporary(16) < batch * 8 * width * 4  # one chunk; 496 draws more would be 62


@EVERY
def test_the_published_search(golden, selection, transition):
  """States, times and result from the recorded noise and rewards, with the network's draws replayed.

  The files hold no draws. That of a winner follows from the next state of the first particle that it becomes;
  its reward, computed here, must be the recorded one. A loser is any point of the recorded reward.
  """
  file = golden(f"D_tree_max_{selection}_{transition}")
  rewards, centre = file["rewards"].astype(np.float64), file["reward_a"].astype(np.float64)
  steps, samples, particles, draws = rewards.shape
  grid = np.append(file["t_steps"], np.float32(1)).astype(np.float64)
  states = np.concatenate([file["x_steps"], file["x_out"][None]]).astype(np.float64)
  table = np.repeat(np.sqrt(-2 * rewards)[..., None], centre.size, -1).reshape(*rewards.shape, *centre.shape)
  table += centre
  for k, s, m in np.ndindex(steps, samples, particles):
    if selection == "overall":
      if m:
        continue
      source, j = divmod(file["picked"][k, s], draws)
    else:
      source, j = m, file["picked"][k, s, m]
    t, after = grid[k : k + 2]
    if transition == "stochastic":
      noise = file["noise"].reshape(steps, samples, particles, *centre.shape)[k, s, m]
      table[k, s, source, j] = (states[k + 1, s, m] - (1 - after) * noise) / after
    else:
      shrink = (1 - after) / (1 - t)
      table[k, s, source, j] = (states[k + 1, s, m] - shrink * states[k, s, source]) / (after - shrink * t)
  table = jnp.asarray(table.reshape(-1, centre.size), jnp.float32)
  e = jnp.asarray(file["eps"].reshape(steps, samples * particles, draws, centre.size))
  marks = e.reshape(-1, centre.size)[:, 0]  # the first entry of a draw's noise says which it is
  assert len(np.unique(marks)) == len(marks)

  def velocity(s, u, x_s, t, x_t, cond):
    return table[jnp.abs(x_s[:, :1] - marks[None]).argmin(1)] - x_s

  n = jnp.asarray(file["noise"].reshape(steps, -1, centre.size)) if transition == "stochastic" else None
  x1, info = run(
    None,
    jnp.asarray(file["x_start"].reshape(-1, centre.size)),
    grid=grid,
    velocity=velocity,
    reward=lambda x, cond: -0.5 * ((x - centre.reshape(1, -1).astype(np.float32)) ** 2).mean(1),
    particles=particles,
    draws=draws,
    selection=selection,
    transition=transition,
    noise=(e, n),
    keep=True,
  )
  best = rewards.max(-1)
  np.testing.assert_allclose(info["rewards"], best.reshape(steps, -1), rtol=2e-5)
  bound = 2e-5 * abs(states).max()
  np.testing.assert_allclose(info["path"], states.reshape(steps + 1, -1, centre.size), rtol=0, atol=bound)
  winner = best[-1].argmax(1) if selection == "per_particle" else np.zeros(samples, int)
  expected = file["x_out"][np.arange(samples), winner].reshape(samples, -1)
  np.testing.assert_allclose(x1, expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"particles": 0}, "particles must be at least 1; got 0"),
    ({"draws": 0}, "draws must be at least 1; got 0"),
    ({"chunk": 0}, "chunk must be at least 1; got 0"),
    ({"particles": 5}, "the batch must be a multiple of particles; got batch=12, particles=5"),
    ({"selection": "best"}, "selection must be one of overall, per_particle; got 'best'"),
    ({"transition": "ode"}, "transition must be one of stochastic, deterministic; got 'ode'"),
    ({"grid": jnp.array([0.0, 0.9])}, "times must end at 1.0; got 0.8"),
    ({"grid": jnp.array([0.5, 0.2, 1.0])}, "times must increase"),
    ({"key": None}, "a key must be given where noise is None; got key=None"),
    ({"noise": (jnp.zeros((K, 12, N + 1, 2)), None)}, r"noise must have shape \(5, 12, 3, 2\)"),
    ({"noise": (None, jnp.zeros((K, 11, 2)))}, r"noise must have shape \(5, 12, 2\)"),
    ({"reward": lambda x, cond: x}, r"reward\(x\) must have shape \(36,\); got \(36, 2\)"),
  ],
)
def test_bad_arguments(options, message):
  arguments = {"key": jax.random.key(0), "x": jnp.zeros((S * M, 2)), **OPTIONS, **options}
  with pytest.raises(ValueError, match=message):
    run(**arguments)
