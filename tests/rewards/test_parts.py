"""A few examples at a time: the same values and gradients, rematerialised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.rewards.parts import in_parts

X = jnp.linspace(-1.0, 1.0, 12).reshape(6, 2)
COND = {"label": jnp.arange(6)}


def function(x, cond):
  return {"score": jnp.tanh(x).sum(1) + cond["label"]}


@pytest.mark.parametrize("rows", [0, 1, 2, 4, 6, 9])
def test_values_and_gradients_are_the_same(rows):
  def total(x):
    return jnp.vdot(in_parts(function, x, COND, rows=rows)["score"], jnp.arange(6.0))

  def expected(x):
    return jnp.vdot(function(x, COND)["score"], jnp.arange(6.0))

  np.testing.assert_allclose(in_parts(function, X, COND, rows=rows)["score"], function(X, COND)["score"])
  np.testing.assert_allclose(jax.grad(total)(X), jax.grad(expected)(X), rtol=1e-6)


def test_a_gradient_computes_parts_again():
  text = str(jax.make_jaxpr(lambda x: in_parts(function, x, COND, rows=2))(X))
  assert "scan[" in text
  assert "checkpoint" in text or "remat" in text
  assert "scan[" not in str(jax.make_jaxpr(lambda x: in_parts(function, x, COND, rows=6))(X))


def test_a_negative_number_is_refused():
  with pytest.raises(ValueError, match="rows must be at least 0; got -1"):
    in_parts(function, X, COND, rows=-1)
