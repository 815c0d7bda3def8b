import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.rewards import classes, composition, likelihoods

X = jax.random.normal(jax.random.key(0), (7, 2))


def first(x, cond):
  return x[:, 0]


def second(x, cond):
  return x[:, 1] ** 2


def test_weighted_sum_and_minimum():
  total = composition.weighted_sum([first, second], [2.0, -0.5])
  np.testing.assert_allclose(total(X, None), 2.0 * X[:, 0] - 0.5 * X[:, 1] ** 2, rtol=1e-6)
  np.testing.assert_allclose(composition.minimum([first, second])(X), np.minimum(X[:, 0], X[:, 1] ** 2))


def test_a_part_of_weight_0_has_no_say():
  barrier = lambda x, cond: jnp.where(x[:, 0] > 0, -jnp.inf, 0.0)  # noqa: E731
  np.testing.assert_array_equal(composition.weighted_sum([barrier, first], [0.0, 1.0])(X), X[:, 0])
  np.testing.assert_array_equal(composition.weighted_sum([barrier], [0.0])(X), jnp.zeros(7))


def test_the_sum_of_two_likelihoods_is_the_joint_one():
  """Two observations, one after the other or as the rows of one matrix."""
  rows, observed = np.array([[1.0, 0.5], [-0.3, 2.0]]), np.array([0.2, -1.0])
  joint = likelihoods.GaussianLikelihood(matrix=rows, observed=observed, sigma=0.5)
  parts = [
    likelihoods.GaussianLikelihood(matrix=rows[i : i + 1], observed=observed[i : i + 1], sigma=0.5)
    for i in range(2)
  ]
  np.testing.assert_allclose(composition.weighted_sum(parts, [1, 1])(X), joint(X), rtol=1e-5)


def test_the_condition_reaches_every_part():
  reward = composition.weighted_sum([lambda x, cond: cond["label"], first], [1.0, 0.0])
  np.testing.assert_allclose(reward(X, {"label": jnp.arange(7.0)}), jnp.arange(7.0))


def constrained(**changes):
  return composition.constrained(first, second, **{"bound": 1.0, "strength": 4.0, "width": 0.1, **changes})


def test_a_constraint_costs_nothing_within_and_its_strength_beyond():
  x = jnp.array([[0.3, 2.0], [0.3, 0.0], [0.3, 1.0]])  # well within, well beyond, on the bound
  value, gradient = jax.vmap(jax.value_and_grad(lambda x: constrained()(x[None])[0]))(x)
  np.testing.assert_allclose(value, [0.3, 0.3 - 4.0, 0.3 - 0.4 * np.log(2)], atol=1e-3)
  np.testing.assert_allclose(gradient, [[1.0, 0.0], [1.0, 0.0], [1.0, 0.5 * 4.0 * 2.0]], atol=1e-3)
  below = jax.grad(lambda x: constrained()(x[None])[0])(jnp.array([0.3, 0.5]))
  np.testing.assert_allclose(below, [1.0, 4.0 * 2.0 * 0.5], rtol=1e-2)  # strength times grad c


def test_a_constraint_without_gradient_is_none_of_the_whole():
  part = lambda x, cond=None: x[:, 0]  # noqa: E731
  part.differentiable = False
  made = composition.constrained(first, part, bound=0.0, strength=1.0, width=1.0)
  assert not composition.is_differentiable(made)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: composition.weighted_sum([], []), "number of rewards must be at least 1; got 0"),
    (lambda: composition.minimum([]), "number of rewards must be at least 1; got 0"),
    (lambda: composition.weighted_sum([first], [1, 2]), r"weights must have shape \(1,\); got \(2,\)"),
    (lambda: composition.weighted_sum([first], [np.nan]), "weights must be finite; got nan"),
    (lambda: constrained(bound=np.inf), "bound must be finite; got inf"),
    (lambda: constrained(strength=0.0), "strength must be a positive number; got 0.0"),
    (lambda: constrained(width=-1.0), "width must be a positive number; got -1.0"),
  ],
)
def test_bad_compositions(call, message):
  with pytest.raises(ValueError, match=message):
    call()


# ---- class mixtures ----


def log_probs(x):
  return jax.nn.log_softmax(jnp.stack([x[:, 0], x[:, 1], x[:, 0] * x[:, 1]], axis=1))


def test_a_class_mixture_is_its_formula_and_normalises_its_weights():
  reward = classes.class_mixture(log_probs, [7, 0, 3])
  p = np.exp(np.asarray(log_probs(X), np.float64))
  np.testing.assert_allclose(reward(X), np.log(0.7 * p[:, 0] + 0.3 * p[:, 2]), rtol=1e-5)


def test_a_sure_classifier_keeps_value_and_gradient_finite():
  """A probability that underflows, and classes of weight 0, meet no log 0."""
  sure = lambda x: jax.nn.log_softmax(1e4 * jnp.concatenate([x, jnp.zeros_like(x)], axis=1))  # noqa: E731
  reward = classes.class_mixture(sure, [0.0, 1.0])
  value, gradient = jax.value_and_grad(lambda x: reward(x).sum())(jnp.array([[3.0], [-3.0]]))
  np.testing.assert_allclose(value, -3e4, rtol=1e-5)
  np.testing.assert_allclose(gradient[:, 0], [-1e4, 0.0], atol=1e-3)


@pytest.mark.parametrize(
  ("weights", "message"),
  [
    ([-0.1, 1.1, 0.0], "weights must lie in"),
    ([0.0, 0.0, 0.0], "weights must have a positive sum"),
    ([np.inf, 0.0, 0.0], "weights must lie in"),
    ([[1.0]], r"weights must have shape \(any,\)"),
    ([0.5, 0.5], r"log_probs\(x\) must have shape \(7, 2\); got \(7, 3\)"),
  ],
)
def test_bad_weights(weights, message):
  with pytest.raises(ValueError, match=message):
    classes.class_mixture(log_probs, weights)(X)
