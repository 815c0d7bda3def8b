import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.steering.best_of_n import best_of_n, best_of_pool

B, N = 4, 12


def first(x, cond):
  return x[:, 0]


def sampler(candidates):
  """Candidate i of the stream that `best_of_n` takes from key 0, from an array (n, B, ...)."""
  keys = jax.random.key_data(jax.random.split(jax.random.key(0), len(candidates)))

  def sample(key):
    return candidates[jnp.argmax((keys == jax.random.key_data(key)[None]).all(1))]

  return sample


# ---- milestones ----


@pytest.mark.parametrize("milestones", [(1, 2, 5, N), (7, 3)])
def test_a_milestone_is_the_best_of_the_first_candidates(milestones):
  candidates = jax.random.normal(jax.random.key(1), (N, B, 2))
  run = lambda n, **options: best_of_n(  # noqa: E731
    jax.random.key(0), sampler(candidates), first, n=n, decode=lambda x: -x, **options
  )
  x, info = run(N, milestones=milestones)
  rewards = -np.asarray(candidates)[..., 0]
  for i, m in enumerate(milestones):
    winner = rewards[:m].argmax(0)
    np.testing.assert_array_equal(info["milestones"]["x1"][i], np.asarray(candidates)[winner, np.arange(B)])
    np.testing.assert_array_equal(info["milestones"]["reward"][i], rewards[:m].max(0))
  np.testing.assert_array_equal(info["reward"], rewards.max(0))
  plain, without = run(N)
  np.testing.assert_array_equal(x, plain)
  assert "milestones" not in without


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_milestone_without_a_finite_reward_has_a_candidate_and_no_reward(value):
  candidates = np.random.default_rng(0).standard_normal((3, 2, 1)).astype(np.float32)
  candidates[0, 0], candidates[1, 0], candidates[2, 1] = value, value, value
  x, info = best_of_n(jax.random.key(0), sampler(jnp.asarray(candidates)), first, n=3, milestones=[1, 2])
  np.testing.assert_array_equal(x[:, 0], [candidates[2, 0, 0], candidates[:2, 1, 0].max()])
  counted = 0 if value == -np.inf else 1  # it says impossible, which is a reward
  np.testing.assert_array_equal(info["invalid"], counted * np.array([[1, 0], [1, 0], [0, 1]]))
  reward = [[np.nan, candidates[0, 1, 0]], [np.nan, candidates[:2, 1, 0].max()]]
  np.testing.assert_array_equal(info["milestones"]["reward"], reward)
  np.testing.assert_array_equal(info["milestones"]["x1"][:, 0, 0], [value, value])


@pytest.mark.parametrize("milestones", [(), (1, 4, 16)])
def test_memory_does_not_grow_with_the_number_of_candidates(milestones):
  batch, width = 64, 512

  def temporary(n):
    run = lambda key: best_of_n(  # noqa: E731
      key, lambda key: jax.random.normal(key, (batch, width)), first, n=n, milestones=milestones
    )
    return jax.jit(run).lower(jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes

  assert temporary(1000) - temporary(16) < batch * width * 4  # one candidate a group; 984 more are drawn


@pytest.mark.parametrize(
  ("milestones", "message"),
  [((0, 3), r"milestones must lie in \[1, 5\]; got 0"), ((6,), r"milestones must lie in \[1, 5\]; got 6")],
)
def test_bad_milestones(milestones, message):
  with pytest.raises(ValueError, match=message):
    best_of_n(jax.random.key(0), lambda key: jnp.ones((2, 1)), first, n=5, milestones=milestones)


# ---- a pool ----


@pytest.mark.parametrize("n", [1, 3, 4, 10])
def test_groups_of_a_pool_are_disjoint_and_each_has_its_best(n):
  rewards = np.random.default_rng(0).standard_normal(10)
  rewards[[1, 5]] = np.nan, np.inf
  found = best_of_pool(rewards, n)
  assert len(found) == 10 // n
  for g, winner in enumerate(np.asarray(found)):
    group = range(g * n, (g + 1) * n)
    finite = [i for i in group if np.isfinite(rewards[i])]
    assert winner == max(finite or group[:1], key=lambda i: rewards[i])


def test_a_pool_of_normal_rewards_has_the_expected_maximum():
  """E max of 2 and of 3 standard normals: 1 / sqrt(pi) and 1.5 / sqrt(pi)."""
  rewards = jax.random.normal(jax.random.key(0), (60_000,))
  for n, expected in ((2, 1.0), (3, 1.5)):
    best = np.asarray(rewards[best_of_pool(rewards, n)])
    assert abs(best.mean() - expected / np.sqrt(np.pi)) < 4 * best.std() / np.sqrt(len(best))


@pytest.mark.parametrize(
  ("rewards", "n", "message"),
  [
    (np.zeros(3), 0, "n must be at least 1; got 0"),
    (np.zeros(3), 4, "n must be at most the size of the pool, 3; got 4"),
    (np.zeros((3, 1)), 1, r"rewards must have shape \(any,\); got \(3, 1\)"),
  ],
)
def test_bad_pools(rewards, n, message):
  with pytest.raises(ValueError, match=message):
    best_of_pool(rewards, n)
