import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles
from mfm_jax.rewards import likelihoods


def test_paper_likelihood_by_hand():
  reward = likelihoods.paper_likelihood()
  # A x - y: 1.2 - 0.8 + 1 = 1.4 and 0; divided by sigma = 0.2: 7 and 0.
  x = jnp.array([[1.0, 1.0], [-0.5, 0.5]])
  np.testing.assert_allclose(reward(x), [-24.5, 0.0], rtol=1e-5, atol=1e-6)


def test_broad_quadratic_by_hand():
  np.testing.assert_allclose(
    likelihoods.broad_quadratic()(jnp.array([[2.0, 2.0], [0.0, 0.0]])), [0.0, -1.0], atol=1e-6
  )


def test_images_are_flattened_and_the_condition_ignored():
  reward = likelihoods.quadratic(np.zeros(12), 1.0)
  x = jax.random.normal(jax.random.key(0), (5, 2, 2, 3))
  expected = -0.5 * (x**2).sum((1, 2, 3))
  np.testing.assert_allclose(reward(x, {"label": jnp.zeros(5, int)}), expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("given", "expected"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_precision(given, expected):
  with jax.enable_x64(True):
    assert likelihoods.paper_likelihood()(jnp.ones((2, 2), given)).dtype == expected


def test_log_normaliser_of_the_tilt_is_the_mean_of_exp_reward():
  """The attributes are what `oracles.tilt` takes, with the same meaning."""
  reward, prior = likelihoods.broad_quadratic(), oracles.paper_mixture()
  _, log_z = oracles.tilt(prior, reward.matrix, reward.observed, reward.sigma)
  weights = jnp.exp(reward(oracles.sample(jax.random.key(0), prior, 40_000)))
  error = weights.std() / np.sqrt(40_000)
  assert abs(weights.mean() - jnp.exp(log_z)) < 4 * error


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"matrix": np.ones(2)}, r"matrix must have shape \(any, any\); got \(2,\)"),
    ({"observed": np.ones(2)}, r"observed must have shape \(1,\); got \(2,\)"),
    ({"sigma": 0.0}, "sigma must be a positive number; got 0.0"),
    ({"sigma": np.nan}, "sigma must be a positive number; got nan"),
    ({"observed": np.array([np.inf])}, "observed must be finite"),
  ],
)
def test_bad_constants(change, message):
  arguments = {"matrix": np.ones((1, 2)), "observed": np.ones(1), "sigma": 1.0} | change
  with pytest.raises(ValueError, match=message):
    likelihoods.GaussianLikelihood(**arguments)


def test_bad_points():
  with pytest.raises(ValueError, match=r"x, flattened, must have shape \(any, 2\); got \(4, 3\)"):
    likelihoods.paper_likelihood()(jnp.ones((4, 3)))
