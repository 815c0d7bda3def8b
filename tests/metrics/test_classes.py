"""The judge classifies held-out digits; frequencies and total variation by hand."""

import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mfm_jax.metrics import classes


@pytest.fixture(name="digits", scope="module")
def _digits():
  data = load_digits()
  x = (data.images / 8.0 - 1.0).astype(np.float32)[..., None]
  order = np.random.default_rng(0).permutation(len(x))
  x, label = x[order], data.target[order]
  judge = classes.fit_judge(x[:1437], label[:1437])
  return judge, x[1437:], label[1437:]


def test_judge_is_right_on_held_out_digits_and_not_on_noise(digits):
  judge, x, label = digits
  assert judge.accuracy(x, label) >= 0.97
  predicted = judge.predict(x)
  assert predicted.shape == label.shape
  assert np.issubdtype(predicted.dtype, np.integer)
  assert judge.accuracy(x, (label + 1) % 10) <= 0.03
  noise = np.random.default_rng(1).normal(size=x.shape)
  assert judge.accuracy(noise, label) < 0.3


def test_judge_does_not_depend_on_the_scale_of_model_space(digits):
  _, x, label = digits
  half = len(x) // 2
  one = classes.fit_judge(x[:half], label[:half]).predict(x[half:])
  two = classes.fit_judge(40.0 * x[:half] + 3.0, label[:half]).predict(40.0 * x[half:] + 3.0)
  assert np.mean(one == two) >= 0.99  # the solver stops at a tolerance


def test_judge_of_many_examples_uses_a_seeded_part(monkeypatch, digits):
  _, x, label = digits
  monkeypatch.setattr(classes, "KERNEL_WORK", 150**2 * 64)
  support = [classes.fit_judge(x, label, seed=s).classifier.support_vectors_ for s in (0, 0, 1)]
  assert len(support[0]) <= 150
  np.testing.assert_array_equal(support[0], support[1])
  assert support[0].shape != support[2].shape or not np.array_equal(support[0], support[2])


def test_judge_takes_any_shape_but_only_its_own(digits):
  judge, x, label = digits
  assert judge.predict(x[:0]).shape == (0,)
  with pytest.raises(ValueError, match=r"x must have shape \(any, 8, 8, 1\); got \(2, 64\)"):
    judge.predict(x[:2].reshape(2, 64))
  with pytest.raises(ValueError, match="x must be finite; got nan"):
    judge.predict(np.full((1, 8, 8, 1), np.nan))
  with pytest.raises(ValueError, match=r"label must have shape \(2,\); got \(3,\)"):
    judge.accuracy(x[:2], label[:3])
  with pytest.raises(ValueError, match="number of examples must be at least 1; got 0"):
    judge.accuracy(x[:0], label[:0])
  with pytest.raises(dataclasses.FrozenInstanceError):
    judge.shape = (1,)


@pytest.mark.parametrize(
  ("label", "message"),
  [
    (np.zeros(4, int), "number of classes in label must be at least 2; got 1"),
    (np.arange(4.0), "label must be integers; got float64"),
    (np.arange(3), r"label must have shape \(4,\); got \(3,\)"),
  ],
)
def test_fit_judge_refuses_bad_labels(label, message):
  with pytest.raises(ValueError, match=message):
    classes.fit_judge(np.zeros((4, 2)), label)


def test_class_frequencies_count_over_the_last_axis():
  labels = np.array([[0, 0, 2, 2], [1, 1, 1, 3]])
  expected = [[0.5, 0, 0.5, 0], [0, 0.75, 0, 0.25]]
  np.testing.assert_allclose(classes.class_frequencies(labels, 4), expected)
  np.testing.assert_allclose(classes.class_frequencies(labels[0], 4), expected[0])


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    ([0, 4], r"labels must lie in \[0, 3\]; got 4"),
    ([-1], r"labels must lie in \[0, 3\]; got -1"),
    ([0.5], "labels must be integers; got float64"),
    (np.zeros((0,), int), "not empty"),
  ],
)
def test_class_frequencies_refuse_bad_labels(labels, message):
  with pytest.raises(ValueError, match=message):
    classes.class_frequencies(labels, 4)


def test_total_variation_by_hand_and_broadcast():
  p = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
  np.testing.assert_allclose(classes.total_variation(p, [0.0, 0.5, 0.5]), [1.0, 0.5])
  assert classes.total_variation(p[0], p[0]) == 0.0


@pytest.mark.parametrize(
  ("p", "q", "message"),
  [
    ([0.5, 0.5], [1.0], r"q must have shape \(2,\); got \(1,\)"),
    ([0.5, 0.4], [0.5, 0.5], "the sum of p must lie in"),
    ([0.5, 0.5], [1.5, -0.5], r"q must lie in \[0.0, 1.0001\]; got 1.5"),
  ],
)
def test_total_variation_refuses_what_is_no_distribution(p, q, message):
  with pytest.raises(ValueError, match=message):
    classes.total_variation(p, q)
