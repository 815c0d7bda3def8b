"""Streamed moments and the Frechet distance, against NumPy, SciPy and closed forms."""

import itertools

import numpy as np
import pytest
import scipy.linalg

from mfm_jax.metrics import statistics
from mfm_jax.metrics.statistics import Gaussian, Statistics


def normal(seed: int, shape) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=shape)


def streamed(x: np.ndarray, size: int) -> Statistics:
  out = Statistics.empty(x.shape[1])
  for start in range(0, len(x), size):
    out = out.add(x[start : start + size])
  return out


def by_square_root(a: Gaussian, b: Gaussian) -> float:
  """The textbook form; the trace of the root by eigenvalues, as a singular product has no sure root."""
  values = scipy.linalg.eigvals(a.covariance @ b.covariance)
  shift = a.mean - b.mean
  return shift @ shift + np.trace(a.covariance + b.covariance) - 2.0 * np.sum(np.sqrt(values).real)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_has_the_moments_of_the_whole(size):
  x = normal(0, (60, 5)) @ normal(1, (5, 5)) + 1e4  # a mean that would cancel uncentred squares in float32
  found = streamed(x.astype(np.float32), size).gaussian()
  x = x.astype(np.float32).astype(np.float64)
  np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
  np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), rtol=1e-8, atol=1e-10)
  assert found.count == 60


def test_parts_merge_in_any_order():
  x = normal(0, (50, 4)) + 3.0
  parts = [streamed(part, 8) for part in np.split(x, [5, 6, 30])] + [Statistics.empty(4)]
  for order in itertools.islice(itertools.permutations(parts), 0, 120, 17):
    left = order[0]
    for part in order[1:]:
      left = left.merge(part)
    right = order[-1]
    for part in reversed(order[:-1]):
      right = part.merge(right)
    for merged in (left, right):
      assert merged.count == 50
      np.testing.assert_allclose(merged.mean, x.mean(0), rtol=1e-12)
      np.testing.assert_allclose(merged.gaussian().covariance, np.cov(x, rowvar=False), rtol=1e-10)


def sets(name: str) -> tuple[np.ndarray, np.ndarray]:
  d = 48
  x, y = normal(0, (400, d)) @ normal(1, (d, d)), 1.3 * normal(2, (300, d)) @ normal(3, (d, d)) + 0.5
  if name == "few":
    return x[:30], y[:20]
  if name == "constant":  # features that are 0 for all samples, as after a rectifier
    x[:, ::3], y[:, ::4] = 0.0, 0.0
  return x, y


@pytest.mark.parametrize("name", ["full", "few", "constant"])
def test_distance_is_that_of_the_matrix_square_root(name):
  x, y = sets(name)
  a, b = (streamed(z, 64).gaussian(few=True) for z in (x, y))
  found = statistics.frechet_distance(a, b)
  assert found == pytest.approx(by_square_root(a, b), rel=1e-5)
  assert found == pytest.approx(statistics.frechet_distance(b, a), rel=1e-10)
  # A sample against itself, where a square root of a singular product fails first.
  assert statistics.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9 * np.trace(a.covariance))


def test_distance_of_gaussians_on_common_axes_is_known():
  spread, other = np.array([4.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.0, 9.0, 0.0])
  axes = np.linalg.qr(normal(0, (4, 4)))[0]
  mean = np.array([1.0, -2.0, 0.0, 0.5])
  a = Gaussian(mean=np.zeros(4), covariance=axes * spread**2 @ axes.T)
  b = Gaussian(mean=mean, covariance=axes * other**2 @ axes.T)
  assert statistics.frechet_distance(a, b) == pytest.approx(mean @ mean + np.sum((spread - other) ** 2))


def test_distance_within_classes_is_that_of_each():
  x, y = normal(0, (40, 6)), normal(1, (64, 6)) + 1.0
  labels, drawn = np.arange(40) % 4, np.arange(64) % 2
  found = statistics.class_frechet_distances(x, labels, y, drawn)
  assert sorted(found) == [0, 1]
  for label, value in found.items():
    pair = (streamed(z, 9).gaussian() for z in (x[labels == label], y[drawn == label]))
    assert value == pytest.approx(statistics.frechet_distance(*pair))
  few = statistics.class_frechet_distances(x[:12], labels[:12], y[:12], drawn[:12], few=True)[0]
  pair = [streamed(z, 9).gaussian(few=True) for z in (x[:12][labels[:12] == 0], y[:12][drawn[:12] == 0])]
  assert few == pytest.approx(statistics.frechet_distance(*pair))


def test_mistakes():
  x = normal(0, (6, 8))
  with pytest.raises(
    ValueError, match=r"number of samples must exceed the 8 dimensions .*; got 6: take more"
  ):
    streamed(x, 6).gaussian()
  with pytest.raises(ValueError, match="the number of samples must be at least 2; got 1"):
    streamed(x[:1], 1).gaussian(few=True)
  with pytest.raises(ValueError, match="features must be finite; got nan"):
    Statistics.empty(8).add(np.where(x > 1, np.nan, x))
  with pytest.raises(ValueError, match=r"features must have shape \(any, 3\); got \(6, 8\)"):
    Statistics.empty(3).add(x)
  with pytest.raises(ValueError, match=r"mean must have shape \(8,\); got \(3,\)"):
    Statistics.empty(8).merge(Statistics.empty(3))
  with pytest.raises(ValueError, match=r"covariance must have shape \(2, 2\); got \(3, 3\)"):
    Gaussian(mean=np.zeros(2), covariance=np.eye(3))
  with pytest.raises(ValueError, match="mean must be finite"):
    Gaussian(mean=np.array([np.inf]), covariance=np.eye(1))
  pair = [Gaussian(mean=np.zeros(n), covariance=np.eye(n)) for n in (2, 1)]
  with pytest.raises(ValueError, match=r"mean must have shape \(2,\); got \(1,\)"):
    statistics.frechet_distance(*pair)
