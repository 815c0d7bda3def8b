"""The posterior over a finite set: Bayes' rule by brute force, limits, priors."""

import numpy as np
import pytest
from scipy.stats import norm

from mfm_jax.interpolants import Linear, Trigonometric
from mfm_jax.metrics import empirical

RNG = np.random.default_rng(0)
SCHEDULES = {
  Linear(): (lambda t: 1 - t, lambda t: t),
  Trigonometric(): (lambda t: np.cos(np.pi * t / 2), lambda t: np.sin(np.pi * t / 2)),
}
DATA = RNG.normal(size=(9, 2, 3))
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 0, 1])


def brute_force(interpolant, t, x_t, prior):
  a, b = (f(t) for f in SCHEDULES[interpolant])
  likelihood = norm.pdf(x_t, loc=b * DATA, scale=a).prod((1, 2))
  return prior * likelihood / (prior * likelihood).sum()


@pytest.mark.parametrize("interpolant", SCHEDULES)
def test_weights_are_bayes_rule(interpolant):
  t = np.array([0.05, 0.3, 0.5, 0.8, 0.9])
  x_t = RNG.normal(size=(5, 2, 3))
  prior = RNG.uniform(size=9)
  uniform = empirical.posterior_weights(interpolant, t, x_t, DATA)
  tilted = empirical.posterior_weights(interpolant, t, x_t, DATA, prior=prior)
  assert uniform.dtype == np.float64
  for i in range(5):
    expected = brute_force(interpolant, t[i], x_t[i], np.ones(9))
    np.testing.assert_allclose(uniform[i], expected, rtol=1e-8, atol=1e-12)
    expected = brute_force(interpolant, t[i], x_t[i], prior)
    np.testing.assert_allclose(tilted[i], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("interpolant", SCHEDULES)
def test_limits_are_the_prior_at_0_and_the_nearest_at_1(interpolant):
  x_t = DATA[[4, 7]] + 0.01 * RNG.normal(size=(2, 2, 3))
  at_0 = empirical.posterior_weights(interpolant, 0.0, x_t, DATA)
  np.testing.assert_allclose(at_0, 1 / 9, rtol=1e-12)
  at_1 = empirical.posterior_weights(interpolant, 1.0, x_t, DATA)
  np.testing.assert_array_equal(at_1, np.eye(9)[[4, 7]])


def test_equal_examples_share_the_nearest_weight_at_1():
  data = np.concatenate([DATA, DATA[4:5]])
  weights = empirical.posterior_weights(Linear(), 1.0, DATA[4:5], data)
  np.testing.assert_allclose(weights[0, [4, 9]], 0.5, rtol=1e-6)


def test_far_states_do_not_underflow():
  weights = empirical.posterior_weights(Linear(), [0.5, 0.99], 1e3 * DATA[:2], DATA)
  assert np.isfinite(weights).all()
  np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)


def test_no_contexts_give_no_weights():
  assert empirical.posterior_weights(Linear(), 0.5, DATA[:0], DATA).shape == (0, 9)


def test_weights_do_not_depend_on_the_blocks(monkeypatch):
  t, x_t = RNG.uniform(size=7), RNG.normal(size=(7, 2, 3))
  prior = RNG.uniform(size=(7, 9))
  whole = empirical.posterior_weights(Linear(), t, x_t, DATA, prior=prior)
  monkeypatch.setattr(empirical, "BLOCK", 20)
  blocked = empirical.posterior_weights(Linear(), t, x_t, DATA, prior=prior)
  np.testing.assert_allclose(blocked, whole, rtol=1e-12)


def test_weights_are_calibrated():
  # For x1 drawn from the set, the weights are the frequencies of x1 given x_t: their mean is the
  # prior, and the mean weight of the true example equals the mean of the squared weights.
  count = 20_000
  drawn = RNG.integers(0, 9, count)
  x_t = 0.6 * RNG.normal(size=(count, 2, 3)) + 0.4 * DATA[drawn]
  weights = empirical.posterior_weights(Linear(), 0.4, x_t, DATA)
  error = weights.std(0) / np.sqrt(count)
  assert (abs(weights.mean(0) - 1 / 9) < 4 * error).all()
  difference = weights[np.arange(count), drawn] - (weights**2).sum(1)
  assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(count)


def test_label_prior_restricts_to_the_label():
  x_t, wanted = RNG.normal(size=(3, 2, 3)), np.array([2, 0, 1])
  prior = empirical.label_prior(LABELS, wanted)
  weights = empirical.posterior_weights(Linear(), 0.3, x_t, DATA, prior=prior)
  for i, label in enumerate(wanted):
    own = label == LABELS
    assert (weights[i, ~own] == 0).all()
    alone = empirical.posterior_weights(Linear(), 0.3, x_t[i : i + 1], DATA[own])
    np.testing.assert_allclose(weights[i, own], alone[0], rtol=1e-10)
  with pytest.raises(ValueError, match="wanted must be a label of some example; got 5"):
    empirical.label_prior(LABELS, [0, 5])


def test_class_posterior_sums_the_weights_of_each_class():
  weights = RNG.dirichlet(np.ones(9), size=4)
  classes = empirical.class_posterior(weights, LABELS, 4)
  assert classes.shape == (4, 4)
  for k in range(4):
    np.testing.assert_allclose(classes[:, k], weights[:, k == LABELS].sum(1), atol=1e-15)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"t": 1.2}, r"t must lie in \[0.0, 1.0\]; got 1.2"),
    ({"t": np.zeros(3)}, r"t must have shape \(2,\); got \(3,\)"),
    ({"x_t": np.zeros((2, 6))}, r"x_t must have shape \(any, 2, 3\); got \(2, 6\)"),
    ({"x_t": np.full((2, 2, 3), np.nan)}, "x_t must be finite; got nan"),
    ({"data": np.zeros((0, 2, 3))}, "number of examples must be at least 1; got 0"),
    ({"prior": np.ones(4)}, r"prior must have shape \(9,\); got \(4,\)"),
    ({"prior": -np.ones(9)}, r"prior must lie in \[0.0, .*\]; got -1.0"),
    ({"prior": np.eye(2, 9) * [[1], [0]]}, "a positive entry for each context; got none in row 1"),
  ],
)
def test_bad_arguments_are_refused(change, message):
  arguments = {"t": 0.5, "x_t": np.zeros((2, 2, 3)), "data": DATA, **change}
  with pytest.raises(ValueError, match=message):
    empirical.posterior_weights(Linear(), **arguments)


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    (np.full(9, 4), r"labels must lie in \[0, 3\]; got 4"),
    (np.zeros(8, int), r"weights must have shape \(any, 8\); got \(2, 9\)"),
    (np.zeros(9), "labels must be integers; got float64"),
  ],
)
def test_class_posterior_refuses_bad_labels(labels, message):
  with pytest.raises(ValueError, match=message):
    empirical.class_posterior(np.full((2, 9), 1 / 9), labels, 4)
