"""The convolution of the image networks: equal to Flax's, and in its fast form inside loops."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.models.convolution import SameConv, same_convolution

X, KERNEL = (2, 5, 4, 3), (3, 3, 3, 6)


def _arguments(seed=0, dtype=jnp.float32):
  x, kernel, dx, dkernel = jax.random.split(jax.random.key(seed), 4)
  shapes = (x, X), (kernel, KERNEL), (dx, X), (dkernel, KERNEL)
  return [jax.random.normal(key, shape, dtype) for key, shape in shapes]


def _reference(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _close(ours, theirs, tolerance=1e-5):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance * np.abs(b).max()), ours, theirs
  )


def test_parameters_and_output_are_those_of_flax():
  x = jax.random.normal(jax.random.key(0), X)
  ours, theirs = SameConv(6), nn.Conv(6, (3, 3))
  params = theirs.init(jax.random.key(1), x)
  params["params"]["bias"] = jnp.arange(6.0)
  assert jax.tree.map(jnp.shape, ours.init(jax.random.key(1), x)) == jax.tree.map(jnp.shape, params)
  _close(ours.apply(params, x), theirs.apply(params, x))
  half = SameConv(6, dtype=jnp.bfloat16).apply(params, x)
  assert half.dtype == jnp.bfloat16
  _close(half.astype(jnp.float32), theirs.apply(params, x), 2e-2)


def test_derivatives_of_both_kinds_and_mixed_are_those_of_the_direct_form():
  x, kernel, dx, dkernel = _arguments()

  def all_of(conv):
    def energy(x, kernel):
      return (jnp.sin(conv(x, kernel)) ** 2).sum()

    def slope(x, kernel):  # reverse over forward: a consistency loss differentiates a tangent
      return jax.jvp(energy, (x, kernel), (dx, dkernel))[1]

    return (
      jax.jvp(conv, (x, kernel), (dx, dkernel)),
      jax.grad(energy, (0, 1))(x, kernel),
      jax.grad(slope, (0, 1))(x, kernel),
    )

  _close(jax.jit(lambda: all_of(same_convolution))(), jax.jit(lambda: all_of(_reference))())


def test_batches_of_images_and_of_kernels():
  x, kernel, dx, dkernel = _arguments()
  xs, kernels = jnp.stack([x, dx], 1), jnp.stack([kernel, dkernel])
  for axes in ((1, None), (None, 0), (1, 0)):
    arguments = [
      both if axis is not None else one for axis, both, one in zip(axes, (xs, kernels), (x, kernel))
    ]
    _close(jax.vmap(same_convolution, axes)(*arguments), jax.vmap(_reference, axes)(*arguments))


def test_gradients_inside_a_loop_read_kernels_in_their_fast_layout():
  """XLA for CPUs repairs another layout outside of loops alone; it is several times slower where it stays."""
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 3))

  def program(conv):
    def step(carry, _):
      x, kernel = jax.grad(lambda *both: (conv(*both) ** 2).sum(), (0, 1))(*carry)
      return (x, kernel), None

    text = (
      jax.jit(lambda *carry: jax.lax.scan(step, carry, None, length=3)[0])
      .lower(x, kernel)
      .compile()
      .as_text()
    )
    return [line for line in text.splitlines() if " convolution(" in line]

  ours = program(same_convolution)
  assert len(ours) == 3
  assert all("dim_labels=b01f_01io->b01f" in line for line in ours)
  assert not all("dim_labels=b01f_01io->b01f" in line for line in program(_reference))


def test_refuses_kernels_that_have_no_middle_or_other_channels():
  with pytest.raises(ValueError, match=r"odd height and width; got \(2, 3\)"):
    same_convolution(jnp.zeros(X), jnp.zeros((2, 3, 3, 1)))
  with pytest.raises(ValueError, match="kernel must have shape"):
    same_convolution(jnp.zeros(X), jnp.zeros((3, 3, 2, 1)))
