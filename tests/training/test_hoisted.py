"""Arrays that a function closes over are arguments of what is compiled."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax.interpolants import Linear
from mfm_jax.training import hoisted, subject, variance


def embedded(program, shape: tuple[int, ...]) -> bool:
  """Whether a compiled program has a constant of this shape."""
  return re.search(rf"f32\[{','.join(map(str, shape))}\]\S* constant\(", program.as_text()) is not None


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


def test_errors_of_gradients_hold_no_network_of_the_reward(monkeypatch):
  weights, programs = jax.random.normal(jax.random.key(0), (2, 45_000)), []

  def compile_hoisted(*arguments):
    programs.append(hoisted.compile_hoisted(*arguments))
    return programs[-1]

  monkeypatch.setattr(variance, "compile_hoisted", compile_hoisted)
  monkeypatch.setattr(variance, "_states", lambda *_: lambda key, t: jax.random.normal(key, (len(t), 2)))
  draws = lambda params: lambda s, u, x_s, t, x_t, cond: x_t - x_s / 2  # noqa: E731
  what = subject.Subject(
    shape=(2,),
    interpolant=Linear(),
    decode=None,
    cond=lambda n: None,
    params=(),
    marginal=lambda params: lambda t, x, cond: -x,
    draws=draws,
    differentiable=draws,
    run=None,
    mixture=None,
  )
  sizes = {"states": 2, "repeats": 2, "draws": 2, "reference": 2, "times": (0.5,)}
  config = variance.VarianceConfig(schemes=("independent",), **sizes)
  rows = variance.gradient_errors(what, lambda x, cond: jnp.tanh(x @ weights).mean(1), config)
  assert len(rows) == 3
  (program,) = programs
  assert weights.shape in [constant.shape for constant in program.args[0]]
  assert not embedded(program.func, weights.shape)


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
  plain = jax.jit(function).lower(*arguments).compile()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), compiled(*arguments), plain(*arguments)
  )
  assert [constant.shape for constant in compiled.args[0]] == [(300, 300)]
  assert embedded(plain, (300, 300))
  assert not embedded(compiled.func, (300, 300))
