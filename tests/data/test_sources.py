"""Sources and data sets in memory: values, labels, splits, draws, and what is refused."""

import types

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mfm_jax.data import datasets, sources
from mfm_jax.data.datasets import DataConfig
from mfm_jax.data.sources import ArraySource

TRIMODAL = types.SimpleNamespace(
  weights=np.array([0.5, 0.3, 0.2]),
  means=np.array([[-3.0, -3.0], [0.0, 1.0], [3.0, 3.0]]),
  covs=np.array([[[0.5, 0.2], [0.2, 0.7]], [[0.5, 0.0], [0.0, 0.5]], [[1.0, -0.4], [-0.4, 0.3]]]),
)


def test_array_source_takes_rows_in_the_asked_order():
  source = ArraySource(x1=np.arange(8.0).reshape(4, 2), label=np.array([3, 2, 1, 0]), num_classes=4)
  taken = source.take(np.array([2, 0, 2]))
  np.testing.assert_array_equal(taken["x1"], [[4, 5], [0, 1], [4, 5]])
  np.testing.assert_array_equal(taken["label"], [1, 3, 1])
  assert (taken["x1"].dtype, taken["label"].dtype) == (np.float32, np.int32)
  assert (source.shape, source.num_classes, len(source)) == ((2,), 4, 4)


def test_bytes_are_scaled_to_model_space_when_taken():
  source = ArraySource(x1=np.array([[0], [51], [255]], np.uint8))
  taken = source.take(np.arange(3))
  np.testing.assert_allclose(taken["x1"], [[-1.0], [-0.6], [1.0]], atol=1e-6)
  assert taken["x1"].dtype == np.float32
  assert source.x1.dtype == np.uint8
  np.testing.assert_array_equal(taken["label"], [0, 0, 0])  # unlabelled


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"label": np.zeros(2, int), "num_classes": 2}, r"one length; got \(3, 2\) and \(2,\)"),
    ({"label": np.array([0, 2, 1]), "num_classes": 2}, r"lie in 0\.\.1; got 2 at index 1"),
    ({"label": np.array([0, 0, -1]), "num_classes": 2}, r"lie in 0\.\.1; got -1 at index 2"),
    ({"label": np.zeros(3), "num_classes": 2}, "label must be integers; got float64"),
    ({"label": np.zeros(3, int)}, "got labels and num_classes=0"),
    ({"num_classes": 2}, "got no labels and num_classes=2"),
    ({"num_classes": -1}, "num_classes must be at least 0; got -1"),
    ({"x1": np.array([[0.0], [np.nan], [1.0]])}, "x1 must be finite in float32; got nan"),
    ({"x1": np.array([[np.inf], [0.0], [1.0]])}, "x1 must be finite in float32; got inf"),
    ({"x1": np.zeros((3, 2), np.int64)}, "floats or uint8; got int64"),
  ],
)
def test_array_source_refuses(arguments, message):
  with pytest.raises(ValueError, match=message):
    ArraySource(**{"x1": np.zeros((3, 2))} | arguments)


def test_digits_are_split_into_disjoint_stratified_parts():
  train, test = sources.digits("train"), sources.digits("test")
  assert (len(train), len(test)) == (1437, 360)
  assert train.shape == test.shape == (8, 8, 1)
  counts = [np.bincount(s.label, minlength=10) for s in (train, test)]
  # One in five of each class, to within one example.
  assert np.abs(counts[1] - (counts[0] + counts[1]) / 5).max() <= 1
  every = np.concatenate([train.x1, test.x1]).reshape(1797, 64)
  original = load_digits().data / 8 - 1
  np.testing.assert_array_equal(every[np.lexsort(every.T)], original[np.lexsort(original.T)])
  assert (every.min(), every.max()) == (-1, 1)


def test_digits_split_is_fixed():
  """The rule, worked out by hand for class 0."""
  data = load_digits()
  zeros = np.flatnonzero(data.target == 0)
  test = sources.digits("test")
  expected = data.images[zeros[::5]] / 8 - 1  # class 0 comes first, so its ranks are 0, 1, 2, ...
  np.testing.assert_array_equal(test.x1[test.label == 0, :, :, 0], expected)


def test_digits_unlabelled_and_unknown_split():
  assert sources.digits("test", labelled=False).num_classes == 0
  with pytest.raises(ValueError, match="split must be one of train, test; got 'valid'"):
    sources.digits("valid")


def test_mixture_has_the_moments_of_its_components():
  size = 40_000
  source = sources.mixture(TRIMODAL, size, seed=3)
  drawn = source.take(np.arange(size))
  for k in range(3):
    x = drawn["x1"][drawn["label"] == k].astype(np.float64)
    weight, cov = TRIMODAL.weights[k], TRIMODAL.covs[k]
    # Within 4 standard errors; an entry of a covariance has variance (C_ii C_jj + C_ij^2) / n.
    assert abs(len(x) / size - weight) < 4 * np.sqrt(weight * (1 - weight) / size)
    assert (np.abs(x.mean(0) - TRIMODAL.means[k]) < 4 * np.sqrt(np.diag(cov) / len(x))).all()
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / len(x))
    assert (np.abs(np.cov(x.T) - cov) < 4 * error).all()


def test_mixture_may_be_singular():
  line = types.SimpleNamespace(
    weights=np.ones(1), means=np.ones((1, 2)), covs=np.array([[[4.0, 2.0], [2.0, 1.0]]])
  )
  x = sources.mixture(line, 1000, 0).x1 - 1.0
  np.testing.assert_allclose(x[:, 0], 2 * x[:, 1], atol=1e-5)
  assert x[:, 1].std() == pytest.approx(1.0, abs=4 / np.sqrt(2000))


def test_mixture_streams_and_seeds_are_different_draws():
  def draw(seed, stream):
    return sources.mixture(TRIMODAL, 100, seed, stream=stream).x1

  np.testing.assert_array_equal(draw(0, 0), draw(0, 0))
  arrays = [draw(0, 0), draw(0, 1), draw(1, 0), draw(1, 1)]
  rows = np.unique(np.concatenate(arrays), axis=0)
  assert len(rows) == 400


def test_mixture_unlabelled_keeps_the_draws():
  labelled = sources.mixture(TRIMODAL, 50, 0)
  plain = sources.mixture(TRIMODAL, 50, 0, labelled=False)
  np.testing.assert_array_equal(labelled.x1, plain.x1)
  assert (labelled.num_classes, plain.num_classes) == (3, 0)
  with pytest.raises(ValueError, match="seed must be at least 0; got -1"):
    sources.mixture(TRIMODAL, 50, -1)
  with pytest.raises(ValueError, match="size must be at least 1; got 0"):
    sources.mixture(TRIMODAL, 0, 0)


def test_load_mixture():
  config = DataConfig(name="mixture", train_size=30_000, test_size=500, labelled=False)
  data = datasets.load(config, TRIMODAL)
  assert (len(data.train), len(data.test)) == (30_000, 500)
  assert (data.shape, data.num_classes, data.image) == ((2,), 0, False)
  second = TRIMODAL.covs + np.einsum("ki,kj->kij", TRIMODAL.means, TRIMODAL.means)
  exact = np.sqrt(np.einsum("k,kii->", TRIMODAL.weights, second) / 2)
  assert data.data_std == pytest.approx(exact, rel=0.02)  # 15,000 draws: about .4 % a deviation
  for split, size, stream in ((data.train, 30_000, 0), (data.test, 500, 1)):
    np.testing.assert_array_equal(split.x1, sources.mixture(TRIMODAL, size, 0, stream=stream).x1)
  with pytest.raises(ValueError, match="must come with a mixture to draw from; got None"):
    datasets.load(config)


def test_load_digits():
  data = datasets.load(DataConfig(name="digits"))
  assert (data.shape, data.num_classes, data.image) == ((8, 8, 1), 10, True)
  assert data.data_std == pytest.approx(np.sqrt(np.mean(np.square(data.train.x1))), rel=1e-6)
