"""Arrays that a function closes over are arguments of what is compiled."""

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax.training import hoisted


def test_what_is_lifted_takes_other_shapes():
  weights = jax.random.normal(jax.random.key(0), (300, 300))
  function = lambda x, cond: jnp.tanh(x @ weights).sum(1) * cond["scale"]  # noqa: E731
  cond = {"scale": jnp.arange(2.0)}
  arrays, lifted = hoisted.lift(function, jax.ShapeDtypeStruct((2, 300), jnp.float32), cond)
  assert [array.shape for array in arrays] == [(300, 300)]
  x, cond = jnp.ones((3, 300)), {"scale": jnp.arange(3.0)}
  program = jax.jit(jax.value_and_grad(lambda x, arrays: lifted(arrays, x, cond).sum()))
  expected = jax.value_and_grad(lambda x: function(x, cond).sum())(x)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), program(x, arrays), expected)
  assert len(program.lower(x, arrays).as_text()) < 300 * 300
  # It is the given arrays that are read.
  np.testing.assert_array_equal(lifted([jnp.zeros((300, 300))], x, cond), np.zeros(3))


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
