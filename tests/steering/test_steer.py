"""The steered sampler: its two forms, its noise, its figures along the path, what it costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles, times
from mfm_jax.interpolants import Linear, Trigonometric, half_sigma_squared
from mfm_jax.rewards import likelihoods
from mfm_jax.sampling import integrators, marginal
from mfm_jax.steering import cost, drifts, search, smc, steer
from mfm_jax.steering.best_of_n import best_of_n

PRIOR = oracles.paper_mixture()
REWARD = likelihoods.broad_quadratic()
GRID = times.grid(6, start=1e-3, power=2.0)
X = jax.random.normal(jax.random.key(0), (5, 2))


@pytest.mark.parametrize("sampler", steer.SAMPLERS)
@pytest.mark.parametrize("interpolant", [Linear(), Trigonometric()], ids=["linear", "trigonometric"])
def test_without_a_gradient_it_is_the_base_sampler(interpolant, sampler):
  velocity = oracles.as_marginal(PRIOR, interpolant)
  found, info = steer.steer(
    jax.random.key(1), X, GRID, drifts.unguided(velocity), interpolant, sampler=sampler
  )
  if sampler == "ode":
    expected = integrators.ode(X, GRID, marginal.probability_flow(velocity))[0]
  else:
    _, key_path = jax.random.split(jax.random.key(1))
    expected = integrators.sde(key_path, X, GRID, *marginal.diffusion(velocity, interpolant))[0]
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  assert info["evaluations"] == 6


@pytest.mark.parametrize(("sampler", "gain"), [("ode", 1.0), ("sde", 2.0)])
def test_the_gain_of_one_step(sampler, gain):
  """MATH 6.2: sigma^2 / 2 in the flow, sigma^2 in the SDE, times the scale."""
  guide = drifts.closed_form(lambda t, x, cond: 0.0 * x, lambda t, x: jnp.ones_like(x))
  grid, noise = jnp.array([0.4, 0.5]), (None, jnp.zeros((1, *X.shape)))
  found = [
    steer.steer(None, X, grid, guide, Linear(), sampler=sampler, scale=scale, noise=noise)[0]
    for scale in (0.0, 3.0)
  ]
  expected = 3.0 * 0.1 * gain * half_sigma_squared(Linear(), jnp.array(0.4))
  np.testing.assert_allclose(found[1] - found[0], jnp.full_like(X, expected), rtol=1e-4)


def test_recorded_noise_replaces_the_keys():
  velocity = lambda s, u, x_s, t, x_t, cond: jnp.tanh(x_s + x_t) - x_s  # noqa: E731
  guide = drifts.mfm_gf(velocity, Linear(), REWARD, draws=3)
  e = jax.random.normal(jax.random.key(1), (6, 5, 3, 2))
  z = jax.random.normal(jax.random.key(2), (6, 5, 2))
  run = functools.partial(steer.steer, None, X, GRID, guide, Linear(), keep=True)
  found, info = run(noise=(e, z))
  again, _ = run(noise=(e, z))
  np.testing.assert_array_equal(found, again)
  other, _ = run(noise=(e[:, :, ::-1] + 1.0, z))
  assert (jnp.abs(found - other) > 1e-4).any()
  with_a_key = steer.steer(jax.random.key(0), X, GRID, guide, Linear(), noise=(e, z))[0]
  np.testing.assert_array_equal(found, with_a_key)
  drawn = [steer.steer(jax.random.key(k), X, GRID, guide, Linear(), noise=(None, z))[0] for k in (0, 1)]
  assert (drawn[0] != drawn[1]).any()
  assert info["path"].shape == (7, 5, 2)
  assert {name: leaf.shape for name, leaf in info["aux"].items()} == dict.fromkeys(
    ("value", "standard_error", "ess", "invalid"), (6, 5)
  )
  assert ((info["aux"]["ess"] >= 1 - 1e-5) & (info["aux"]["ess"] <= 3 + 1e-5)).all()


def test_the_values_along_the_path_are_those_of_its_states():
  guide = drifts.mfm_gf(oracles.as_velocity(PRIOR, Linear(), 8), Linear(), REWARD, draws=2048, chunk=256)
  _, info = jax.jit(lambda key: steer.steer(key, X, GRID, guide, Linear(), keep=True))(jax.random.key(1))
  for t, x, found, error in zip(
    GRID, info["path"], info["aux"]["value"], info["aux"]["standard_error"], strict=False
  ):
    exact = oracles.value(PRIOR, Linear(), jnp.full(5, t), x, REWARD.matrix, REWARD.observed, REWARD.sigma)
    assert (jnp.abs(found - exact) < 5 * error + 1e-3).all()


def test_memory_of_the_whole_sampler_does_not_grow_with_the_draws():
  """The bar: at N = 256 at most 1.2 times that at N = 16 with the same chunk and blocks of draws."""
  width = 64

  def velocity(s, u, x_s, t, x_t, cond):
    return jnp.tanh(jnp.tanh(x_s + x_t) + t[:, None])

  def peak(method, draws):
    reward = lambda x, cond: -(x**2).sum(1)  # noqa: E731
    model = (velocity, Linear()) if method == "mfm_gf" else (velocity,)
    guide = getattr(drifts, method)(*model, reward, draws=draws, chunk=2, jackknife=2)
    run = lambda key, x: steer.steer(key, x, GRID, guide, Linear())[0]  # noqa: E731
    memory = jax.jit(run).lower(jax.random.key(0), jnp.zeros((64, width))).compile().memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes + memory.argument_size_in_bytes

  for method in ("mfm_gf", "mfm_g"):
    assert peak(method, 256) <= 1.2 * peak(method, 16)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"sampler": "heun"}, "sampler must be one of ode, sde; got 'heun'"),
    ({"renormalise": "norm"}, "renormalise must be one of none, rescale, clip; got 'norm'"),
    ({"times": jnp.array([0.5, 0.2])}, "times must increase"),
    ({"key": None}, "a key must be given where noise is None"),
    ({"key": None, "noise": (None, jnp.zeros((2, 5, 2)))}, r"noise must have shape \(6, 5, 2\)"),
  ],
)
def test_bad_arguments(options, message):
  guide = drifts.unguided(oracles.as_marginal(PRIOR, Linear()))
  arguments = {"key": jax.random.key(0), "times": GRID, **options}
  with pytest.raises(ValueError, match=message):
    steer.steer(x=X, guide=guide, interpolant=Linear(), **arguments)


# ---- Best-of-N ----


def test_best_of_n_is_the_best_of_its_candidates():
  reward = lambda x, cond: -jnp.abs(x[:, 0] - cond["label"])  # noqa: E731
  sample = lambda key: jax.random.normal(key, (4, 2))  # noqa: E731
  cond = {"label": jnp.array([0.0, 1.0, -1.0, 2.0])}
  found, info = best_of_n(jax.random.key(0), sample, reward, cond, n=50, decode=lambda x: 2.0 * x)
  keys = jax.random.split(jax.random.key(0), 50)
  candidates = jnp.stack([sample(keys[i]) for i in range(50)])
  rewards = jnp.stack([reward(2.0 * x, cond) for x in candidates])
  np.testing.assert_allclose(info["reward"], rewards.max(0), atol=1e-6)
  np.testing.assert_allclose(found, candidates[rewards.argmax(0), jnp.arange(4)], rtol=1e-5)
  assert not info["invalid"].any()


def test_best_of_n_never_chooses_nan_and_counts_it():
  candidates = jnp.array([[jnp.nan, 1.0], [2.0, jnp.nan], [1.0, 3.0]])
  keys = jax.random.key_data(jax.random.split(jax.random.key(0), 3))

  def sample(key):
    return candidates[jnp.argmax((keys == jax.random.key_data(key)[None]).all(1))][:, None]

  found, info = best_of_n(jax.random.key(0), sample, lambda x, cond: x[:, 0], n=3)
  np.testing.assert_array_equal(found[:, 0], [2.0, 3.0])
  np.testing.assert_array_equal(info["invalid"], [[1, 0], [0, 1], [0, 0]])


def test_best_of_n_of_rewards_that_are_all_minus_infinity_is_a_candidate():
  sample = lambda key: jnp.ones((2, 1))  # noqa: E731
  found, _ = best_of_n(jax.random.key(0), sample, lambda x, cond: jnp.full(2, -jnp.inf), n=3)
  np.testing.assert_array_equal(found, 1.0)


def test_best_of_n_needs_a_candidate_and_one_reward_a_sample():
  sample = lambda key: jnp.ones((2, 1))  # noqa: E731
  with pytest.raises(ValueError, match="n must be at least 1; got 0"):
    best_of_n(jax.random.key(0), sample, lambda x, cond: x[:, 0], n=0)
  with pytest.raises(ValueError, match=r"reward\(x\) must have shape \(2,\); got \(2, 1\)"):
    best_of_n(jax.random.key(0), sample, lambda x, cond: x, n=2)


# ---- cost ----


def test_cost_is_the_papers_formula():
  K, N = 250, 16
  expected = {
    "base": K,
    "dps": 4 * K,
    "mfm_gf": K + 2 * N * K,
    "mfm_g": K + 4 * N * K,
    "hybrid": K + 4 * N * K,
    "best_of_n": N * (K + 1),
    "smc": K * (1 + 2 * N) + 1,  # a particle, and the reward of the end
    "search": 2 * 3 * N * K,
  }
  assert {name: cost.cost(name, steps=K, draws=N, particles=3).nfe for name in cost.METHODS} == expected
  assert cost.cost("smc", steps=K, draws=N, twist="mfm_g").nfe == expected["smc"] + 2 * N * K
  assert cost.cost("mfm_gf", steps=K, draws=N, guided=10).nfe == K + 2 * N * 10
  assert cost.cost("mfm_gf", steps=K, draws=N, evaluations=4).nfe == K + 5 * N * K
  # Published ratios to Best-of-1000 (PUBLISHED: 251,000 evaluations).
  best = cost.cost("best_of_n", steps=K, draws=1000).nfe
  assert best == 251_000
  ratios = [round(best / cost.cost("mfm_g", steps=K, draws=n).nfe) for n in (1, 4, 16)]
  assert ratios == [201, 59, 15]
  assert [round(best / cost.cost("mfm_gf", steps=K, draws=n).nfe) for n in (1, 16)] == [335, 30]


class Counter:
  """Counts rows that pass through a function, forwards and backwards, as they happen."""

  def __init__(self):
    self.counts = dict.fromkeys(("forward", "backward", "decode", "reward", "reward_backward"), 0)

  def watch(self, forward, backward, function):
    def count(name, x):
      def add(rows):
        self.counts[name] += len(rows)

      jax.debug.callback(add, jax.lax.stop_gradient(x.reshape(x.shape[0], -1)[:, 0]), ordered=True)

    @jax.custom_vjp
    def counted(x):
      count(forward, x)
      return function(x)

    def run(x):
      count(forward, x)
      return jax.vjp(function, x)

    def back(pull_back, cotangent):
      count(backward, cotangent)
      return pull_back(cotangent)

    counted.defvjp(run, back)
    return counted


@pytest.mark.parametrize("method", cost.METHODS)
def test_what_is_counted_is_what_is_called(method):
  """Every call of network, decoder and reward while it runs, backward passes included, against `cost`."""
  counter, K, N, batch = Counter(), 3, 4, 5

  def velocity(s, u, x_s, t, x_t, cond):
    # One function of everything, so that its backward pass is seen whatever it is differentiated in.
    joint = jnp.concatenate([x_s, x_t], axis=1)
    return counter.watch("forward", "backward", lambda z: jnp.tanh(z[:, :2] + z[:, 2:]))(joint)

  def flow(t, x, cond=None):
    return velocity(t, t, x, jnp.zeros_like(t), jnp.zeros_like(x), cond)

  decode = counter.watch("decode", "decode_backward", lambda x: 2.0 * x)
  counter.counts["decode_backward"] = 0
  watched = counter.watch("reward", "reward_backward", lambda x: -(x**2).sum(1))
  reward = lambda x, cond: watched(x)  # noqa: E731
  options = {"draws": N, "chunk": 2, "decode": decode}
  guide = {
    "base": lambda: drifts.unguided(flow),
    "best_of_n": lambda: drifts.unguided(flow),
    "dps": lambda: drifts.dps(flow, Linear(), reward, decode=decode),
    "mfm_gf": lambda: drifts.mfm_gf(velocity, Linear(), reward, **options),
    "mfm_g": lambda: drifts.mfm_g(velocity, reward, **options),
    "hybrid": lambda: drifts.hybrid(velocity, Linear(), reward, **options),
    "smc": lambda: drifts.mfm_gf(velocity, Linear(), reward, **options),
    "search": lambda: None,
  }[method]()
  grid = times.grid(K, start=0.01)

  def run(key):
    return steer.steer(key, jnp.ones((batch, 2)), grid, guide, Linear())[0]

  def run_smc(key):
    how = {"particles": batch, "decode": decode}
    return smc.smc(key, jnp.ones((batch, 2)), grid, guide, Linear(), reward, **how)[0]

  def run_search(key):
    how = {"particles": 2, "draws": N, "decode": decode}
    return search.search(key, jnp.ones((2 * batch, 2)), grid, velocity, Linear(), reward, **how)[0]

  def run_best(key):
    return best_of_n(key, run, reward, n=N, decode=decode)[0]

  runs = {"best_of_n": run_best, "smc": run_smc, "search": run_search}
  jax.jit(runs.get(method, run))(jax.random.key(0)).block_until_ready()
  jax.effects_barrier()
  spent = cost.cost(method, steps=K, draws=N, particles=2)
  expected = {
    "forward": spent.forwards,
    "backward": spent.backwards,
    "decode": spent.decodes,
    "reward": spent.reward_calls,
    "reward_backward": spent.reward_backwards,
    "decode_backward": spent.reward_backwards,
  }
  assert counter.counts == {name: batch * number for name, number in expected.items()}


def test_draws_at_equal_cost():
  budget = cost.cost("mfm_gf", steps=250, draws=32).nfe
  assert cost.draws_for("mfm_gf", budget, steps=250) == 32
  assert cost.draws_for("mfm_g", budget, steps=250) == 16
  n = cost.draws_for("best_of_n", budget, steps=250)
  assert cost.cost("best_of_n", steps=250, draws=n).nfe <= budget
  assert cost.cost("best_of_n", steps=250, draws=n + 1).nfe > budget
  assert cost.draws_for("mfm_g", 10, steps=250) == 1
  with pytest.raises(ValueError, match="draws of smc must cost something; got none"):
    cost.draws_for("smc", 100, steps=10, twist="dps")
  with pytest.raises(
    ValueError, match="method must be one of best_of_n, mfm_gf, mfm_g, hybrid, smc, search; got 'dps'"
  ):
    cost.draws_for("dps", 10, steps=250)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"method": "fps", "steps": 5}, "method must be one of"),
    ({"method": "smc", "steps": 5, "draws": 1, "twist": "base"}, "twist must be one of"),
    ({"method": "search", "steps": 5, "draws": 1, "particles": 0}, "particles must be at least 1; got 0"),
    ({"method": "dps", "steps": 5, "guided": 6}, r"guided must lie in \[0, 5\]; got 6"),
    ({"method": "base", "steps": 5, "evaluations": 0}, "evaluations must be at least 1; got 0"),
    ({"method": "base", "steps": 0}, "steps must be at least 1; got 0"),
    ({"method": "mfm_g", "steps": 1, "draws": 0}, "draws must be at least 1; got 0"),
  ],
)
def test_costs_that_do_not_exist(arguments, message):
  with pytest.raises(ValueError, match=message):
    cost.cost(**arguments)
