"""Weights of populations: effective sample size, systematic resampling, ancestry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.steering import resampling

systematic = jax.jit(resampling.systematic)
ess = jax.jit(resampling.effective_sample_size)


def log(*weights):
  """Log weights, one population a row."""
  with np.errstate(divide="ignore"):
    return jnp.asarray(np.log(np.asarray(weights, np.float64)), jnp.float32)


@pytest.mark.parametrize(
  ("weights", "uniform", "expected"),
  [
    # Points at (u, 1 + u, ...) against cumulated weights that end at M.
    ((1, 1, 1, 1), 0.0, (0, 1, 2, 3)),
    ((1, 1, 1, 1), 0.9, (0, 1, 2, 3)),
    ((2, 0, 1, 1), 0.5, (0, 0, 2, 3)),
    ((1, 6, 1, 8), 0.1, (0, 1, 3, 3)),  # ends .25, 1.75, 2, 4 against .1, 1.1, 2.1, 3.1
    ((1, 6, 1, 8), 0.5, (1, 1, 3, 3)),  # .5, 1.5, 2.5, 3.5
    ((1, 6, 1, 8), 0.8, (1, 2, 3, 3)),  # .8, 1.8, 2.8, 3.8
    ((0, 0, 5, 0), 0.3, (2, 2, 2, 2)),
    ((0, 1, 0, 1), 0.0, (1, 1, 3, 3)),  # a point on a boundary belongs to the right
    ((0, 0, 0, 0), 0.4, (0, 1, 2, 3)),  # no weight at all: nothing is chosen
    ((3,), 0.99, (0,)),
  ],
)
def test_systematic_by_hand(weights, uniform, expected):
  found = systematic(jnp.array([uniform]), log(weights))
  assert found.dtype == jnp.int32
  np.testing.assert_array_equal(found, [expected])


def test_populations_are_independent_and_weights_are_relative():
  weights = log((2, 0, 1, 1), (1, 1, 1, 5), (0, 0, 0, 0)) + jnp.array([[300.0], [-5000.0], [0.0]])
  found = systematic(jnp.array([0.5, 0.3, 0.1]), weights)
  np.testing.assert_array_equal(found, [[0, 0, 2, 3], [0, 2, 3, 3], [0, 1, 2, 3]])


def test_log_mean_exp_and_effective_sample_size():
  weights = log((1, 2, 3, 2), (0, 0, 0, 4), (0, 0, 0, 0), (1, 1, 1, 1))
  weights = weights + jnp.array([[0.0], [0.0], [0.0], [-1e4]])
  expected = [np.log(2.0), 0.0, -np.inf, -1e4]
  np.testing.assert_allclose(resampling.log_mean_exp(weights), expected, atol=1e-6)
  np.testing.assert_allclose(ess(weights), [64 / 18, 1.0, 0.0, 4.0], rtol=1e-5)


def test_offspring_are_m_times_the_weight_in_the_mean():
  """Over all u; every count is a neighbour of it."""
  weights = np.random.default_rng(0).dirichlet(np.full(50, 0.3))
  uniforms = (jnp.arange(2000) + 0.5) / 2000
  ancestors = systematic(uniforms, log(*np.tile(weights, (2000, 1))))
  counts = np.stack([np.bincount(row, minlength=50) for row in np.asarray(ancestors)])
  share = 50 * weights
  np.testing.assert_allclose(counts.mean(0), share, atol=1.1e-3)
  assert ((counts >= np.floor(share - 1e-4)) & (counts <= np.ceil(share + 1e-4))).all()


def test_sums_in_float32_lose_no_particle_and_choose_none_of_weight_zero():
  """2^15 weights: cumulated in float32 they change where the weight is 0, and M - 1 + u rounds to M."""
  rng, n = np.random.default_rng(0), 2**15
  weights = rng.exponential(size=(3, n)) ** 3
  weights[rng.random(weights.shape) < 0.5] = 0.0
  weights[:, -40:] = 0.0
  weights[1, 100:] = 0.0
  weights[2, :-41] = 1e-30
  uniforms = np.array([0.0, 1e-8, np.nextafter(np.float32(1), np.float32(0)), *rng.random(21)], np.float32)
  weights = np.repeat(weights, 24, axis=0)
  found = np.asarray(systematic(jnp.asarray(np.tile(uniforms, 3)), log(*weights)))
  assert (np.diff(found, axis=1) >= 0).all()
  assert (np.take_along_axis(weights, found, 1) > 0).all()
  counts = np.stack([np.bincount(row, minlength=n) for row in found])
  share = n * weights / weights.sum(1, keepdims=True)
  assert (np.abs(counts - share) < 1.0 + 2e-6 * n).all()  # cumulated to 1e-6 of the sum


def test_lineage_follows_names():
  """Names that are handed down by each resampling, against indices followed back."""
  ancestors = np.random.default_rng(0).integers(0, 6, (5, 2, 6)).astype(np.int32)
  found = resampling.lineage(jnp.asarray(ancestors))
  for p in range(2):
    for k in range(5):
      names = np.arange(6)  # as they are before the resampling at time k
      for later in ancestors[k:, p]:
        names = names[later]
      np.testing.assert_array_equal(found[k, p], names)


@pytest.mark.parametrize(
  ("uniform", "weights", "message"),
  [
    (jnp.zeros(2), jnp.zeros((3, 4)), r"uniform must have shape \(3,\); got \(2,\)"),
    (jnp.zeros(3), jnp.zeros(3), r"log_weights must have shape \(any, any\); got \(3,\)"),
  ],
)
def test_bad_arguments(uniform, weights, message):
  with pytest.raises(ValueError, match=message):
    resampling.systematic(uniform, weights)
