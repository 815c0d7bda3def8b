"""Inception Score, KID, precision and recall, CLIP score against their definitions, pair by pair."""

import numpy as np
import pytest

from mfm_jax.metrics import features


def normal(seed: int, shape) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_inception_score_is_its_definition():
  logits = 3.0 * normal(0, (50, 7))
  p = np.exp(logits.astype(np.float64))
  p /= p.sum(1, keepdims=True)
  parts = [np.exp(np.mean(np.sum(q * np.log(q / q.mean(0)), axis=1))) for q in np.split(p, [12, 25, 37])]
  found = features.inception_score(logits, splits=4)
  assert found == pytest.approx((np.mean(parts), np.std(parts)))


def test_inception_score_of_certain_and_of_equal_predictions():
  certain = 1000.0 * np.eye(8)[np.arange(40) % 8]  # probabilities that underflow
  assert features.inception_score(certain, splits=1).mean == pytest.approx(8.0)
  assert features.inception_score(np.tile(normal(0, 8), (40, 1)), splits=2).mean == pytest.approx(1.0)


def test_kid_is_its_definition():
  x, y = normal(0, (20, 5)), normal(1, (20, 5)) + 0.5

  def kernel(a, b):
    return (float(np.dot(a.astype(np.float64), b)) / 5 + 1) ** 3

  own = [np.mean([kernel(z[i], z[j]) for i in range(20) for j in range(20) if i != j]) for z in (x, y)]
  across = np.mean([kernel(a, b) for a in x for b in y])
  # A subset of all samples is the whole set in another order.
  found = features.kid(x, y, subsets=3, size=20)
  assert found.mean == pytest.approx(sum(own) - 2 * across)
  assert found.std == pytest.approx(0.0, abs=1e-12)


def test_kid_of_one_law_is_zero_on_average():
  x, y = normal(0, (2000, 8)), normal(1, (2000, 8))
  found = features.kid(x, y, subsets=60, size=100)
  assert abs(found.mean) < 4 * found.std / np.sqrt(20)  # 2000 samples hold 20 subsets that do not overlap
  assert found == features.kid(x, y, subsets=60, size=100)
  assert found != features.kid(x, y, subsets=60, size=100, seed=1)
  assert features.kid(x, y + 0.3, subsets=10, size=100).mean > 4 * found.std


def by_pairs(real, fake, k: int):
  """Kynkaanniemi et al., Eq. 1, from all distances in float64."""

  def distances(x, y):
    return np.linalg.norm(x[:, None].astype(np.float64) - y[None], axis=2)

  def covered(points, centres):
    radius = np.sort(distances(centres, centres), axis=1)[:, k]
    return np.mean((distances(points, centres) <= radius).any(1))

  return covered(fake, real), covered(real, fake)


@pytest.mark.parametrize("k", [3, 5])
def test_precision_and_recall_are_their_definition(k, monkeypatch):
  monkeypatch.setattr(features, "ROWS", 32)  # several blocks, the last ones not full
  real, fake = normal(0, (90, 6)) + 100.0, 0.8 * normal(1, (70, 6)) + 100.3
  found = features.precision_recall(real, fake, k=k)
  assert found == pytest.approx(by_pairs(real, fake, k))
  assert 0.0 < found.recall < found.precision < 1.0
  assert features.precision_recall(real, real) == (1.0, 1.0)
  assert features.precision_recall(real, real + 50.0) == (0.0, 0.0)


def test_clip_score_is_the_mean_positive_cosine():
  image, text = (
    np.array([[2.0, 0.0], [1.0, 1.0], [1.0, 0.0]]),
    np.array([[3.0, 0.0], [0.0, 5.0], [-1.0, 0.0]]),
  )
  expected = (1.0 + np.sqrt(0.5) + 0.0) / 3
  assert features.clip_score(image, text) == pytest.approx(expected)
  assert features.clip_score(image, text, weight=2.5) == pytest.approx(2.5 * expected)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda x: features.inception_score(x[:3]), "the number of samples must be at least 10; got 3"),
    (lambda x: features.inception_score(x[0]), r"logits must have shape \(any, any\)"),
    (lambda x: features.kid(x, x), r"number of samples in x .*KID: 1000\) must be at least 1000; got 12"),
    (lambda x: features.kid(x, x[:, :2], size=2), r"y must have shape \(any, 4\); got \(12, 2\)"),
    (lambda x: features.kid(x * np.nan, x, size=2), "x must be finite; got nan"),
    (lambda x: features.precision_recall(x, x[:3]), "number of samples in fake must be at least 4; got 3"),
    (lambda x: features.precision_recall(x, x, k=0), "k must be at least 1; got 0"),
    (lambda x: features.clip_score(x, x[:3]), r"texts must have shape \(12, 4\); got \(3, 4\)"),
    (lambda x: features.clip_score(x, 0 * x), "embeddings must have a length above 0"),
  ],
)
def test_mistakes(call, message):
  with pytest.raises(ValueError, match=message):
    call(normal(0, (12, 4)))
