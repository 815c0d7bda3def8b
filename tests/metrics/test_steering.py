import numpy as np
import pytest

from mfm_jax.metrics import distances, steering


def test_mean_distance_of_two_points_and_of_a_gaussian():
  assert distances.mean_distance(np.array([[0.0, 0.0], [3.0, 4.0]])) == pytest.approx(5.0)
  x = np.random.default_rng(0).standard_normal((4000, 1))
  assert distances.mean_distance(x) == pytest.approx(2 / np.sqrt(np.pi), rel=0.03)  # E|x - x'|


def test_diversity_looks_within_groups():
  x = np.array([[0.0], [1.0], [10.0], [14.0], [50.0]])
  groups = np.array([0, 0, 1, 1, 2])
  assert steering.diversity(x, groups) == pytest.approx((1.0 + 4.0) / 2)  # the single one does not count
  # Proportions alone change nothing that matters: twice the samples of a group, the same spread within.
  both = np.concatenate([x[:4], x[:2]])
  weights = np.array([0, 0, 1, 1, 0, 0])
  pairs = np.mean([1, 0, 1, 1, 0, 1])  # of the points 0, 1, 0, 1
  assert steering.diversity(both, weights) == pytest.approx((4 * pairs + 2 * 4.0) / 6)
  assert steering.diversity(x) > steering.diversity(x, groups)


def test_collapse_is_seen():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((200, 3))
  assert steering.diversity(0.1 * x) == pytest.approx(0.1 * steering.diversity(x))
  assert steering.diversity(np.ones((5, 2))) == pytest.approx(0.0, abs=1e-6)
  assert np.isnan(steering.diversity(x[:2], np.array([0, 1])))


def test_pmf_l2():
  assert steering.pmf_l2([1.0, 0.0], [0.7, 0.3]) == pytest.approx(np.sqrt(0.18))
  with pytest.raises(ValueError, match=r"q must have shape \(2,\); got \(3,\)"):
    steering.pmf_l2([1.0, 0.0], [1.0, 0.0, 0.0])
  with pytest.raises(ValueError, match=r"groups must have shape \(3,\)"):
    steering.diversity(np.zeros((3, 1)), np.zeros(2))
