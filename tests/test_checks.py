"""Argument checks: each passes what is right and names rule, argument and value otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import checks


def test_one_of_lists_the_choices():
  checks.one_of("mode", "a", ["a", "b"])
  with pytest.raises(ValueError, match=r"mode must be one of a, b; got 'c'"):
    checks.one_of("mode", "c", ["a", "b"])


@pytest.mark.parametrize("value", [0, -1.5, float("nan")])
def test_at_least_rejects_smaller_and_nan(value):
  with pytest.raises(ValueError, match=rf"steps must be at least 1; got {value}"):
    checks.at_least("steps", value, 1)
  checks.at_least("steps", 1, 1)


@pytest.mark.parametrize("bad", [-1e-3, 1.5, np.nan])
def test_in_interval_names_the_first_bad_entry(bad):
  with pytest.raises(ValueError, match=r"t must lie in \[0.0, 1.0\]; got ") as error:
    checks.in_interval("t", jnp.array([0.0, 1.0, bad]))
  assert float(str(error.value).split()[-1]) == pytest.approx(bad, nan_ok=True)


def test_in_interval_accepts_the_closed_interval_and_other_bounds():
  checks.in_interval("t", np.array([0.0, 1.0]))
  checks.in_interval("scale", 7.0, 1.0, 8.0)
  with pytest.raises(ValueError, match=r"scale must lie in \[1.0, 8.0\]; got 0.5"):
    checks.in_interval("scale", 0.5, 1.0, 8.0)


def test_ordered_broadcasts_and_names_the_pair():
  checks.ordered("s", 0.2, "u", jnp.array([0.2, 0.9]))
  with pytest.raises(ValueError, match=r"s <= u must hold; got s=0.75, u=0.5"):
    checks.ordered("s", 0.75, "u", jnp.array([0.9, 0.5]))
  with pytest.raises(ValueError, match=r"s <= u must hold"):
    checks.ordered("s", np.nan, "u", 0.5)


@pytest.mark.parametrize("actual", [(2,), (2, 4), (2, 3, 1), ()])
def test_shape_mismatch_states_both_shapes(actual):
  with pytest.raises(ValueError, match=r"x must have shape \(any, 3\); got \(") as error:
    checks.shape("x", np.zeros(actual), (None, 3))
  assert str(error.value).endswith(str(actual))
  checks.shape("x", np.zeros((5, 3)), (None, 3))


def test_traced_values_pass_because_they_cannot_be_inspected():
  def checked(t):
    checks.in_interval("t", t)
    checks.ordered("s", t, "u", 0.0)
    checks.shape("t", t, (None,))
    return t

  np.testing.assert_array_equal(jax.jit(checked)(jnp.array([5.0])), [5.0])
  with pytest.raises(ValueError, match="t must have shape"):  # shapes are known while tracing
    jax.jit(checked)(jnp.zeros((1, 1)))
