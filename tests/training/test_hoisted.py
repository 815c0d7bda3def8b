"""Arrays that a function closes over are arguments of what is compiled."""

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax.training import hoisted


def test_the_function_is_the_same_and_its_arrays_are_arguments():
  weights = jax.random.normal(jax.random.key(0), (300, 300))

  def reward(x):
    return jax.checkpoint(lambda x: jnp.tanh(x @ weights).sum())(x)

  def function(state, key):
    def body(x, _):
      return x + jax.grad(reward)(x), x.mean()

    x, means = jax.lax.scan(body, state["x"] + jax.random.normal(key, state["x"].shape), None, length=2)
    return {"x": x, "means": means}

  arguments = {"x": jnp.ones((2, 300))}, jax.random.key(1)
  compiled = hoisted.compile_hoisted(function, *arguments)
  expected = jax.jit(function)(*arguments)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), compiled(*arguments), expected)
  assert [constant.shape for constant in compiled.args[0]] == [(300, 300)]
  assert len(compiled.func.as_text()) < 300 * 300  # in the program each would take some characters
