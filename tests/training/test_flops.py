"""FLOPs are those of matrix products and convolutions, counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from mfm_jax.models import dit
from mfm_jax.training import flops

A, B = jnp.ones((3, 5, 7)), jnp.ones((3, 7, 11))
PRODUCT = 2 * 3 * 5 * 7 * 11


def product(a, b):
  return a @ b


def test_a_product_counts_two_for_each_multiplication():
  assert flops.count(product, A, B) == PRODUCT
  assert flops.count(product, jax.ShapeDtypeStruct(A.shape, A.dtype), B) == PRODUCT


def test_what_programs_are_made_of():
  loop = jax.jit(lambda a: jax.lax.scan(lambda c, _: (c @ c, None), a, None, length=13)[0])
  assert flops.count(loop, jnp.ones((4, 4))) == 13 * 2 * 4**3
  assert flops.count(jax.grad(lambda a: product(a, B).sum()), A) == PRODUCT  # the value itself is not needed
  assert flops.count(jax.value_and_grad(lambda a, b: (product(a, b) ** 2).sum(), (0, 1)), A, B) == 3 * PRODUCT
  assert flops.count(lambda a: jax.jvp(lambda a: product(a, B), (a,), (a,)), A) == 2 * PRODUCT
  branch = lambda a: jax.lax.cond(a.sum() > 0, lambda: product(a, B), lambda: jnp.zeros((3, 5, 11)))  # noqa: E731
  assert flops.count(branch, A) == PRODUCT


def test_a_remembered_value_is_counted_once_and_one_computed_again_twice():
  def loss(a):
    return (jnp.sin(product(a, B)) ** 2).sum()

  again = flops.count(jax.value_and_grad(jax.checkpoint(loss)), A)
  assert flops.count(jax.value_and_grad(loss), A) == 2 * PRODUCT
  assert again == 3 * PRODUCT


def test_a_convolution_counts_its_window():
  def convolve(x, kernel, groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )

  x = jnp.ones((2, 8, 6, 4))
  assert flops.count(convolve, x, jnp.ones((3, 3, 4, 10))) == 2 * (2 * 8 * 6 * 10) * (3 * 3 * 4)
  apart = flops.count(lambda x, k: convolve(x, k, groups=2), x, jnp.ones((3, 3, 2, 10)))
  assert apart == 2 * (2 * 8 * 6 * 10) * (3 * 3 * 2)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_gradient_of_a_strided_convolution_costs_two_of_it(groups):
  """It is a convolution of an input with zeros between its entries, which count for nothing."""

  def loss(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
      x, kernel, (2, 2), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )
    return (y**2).sum()

  arguments = jnp.ones((2, 8, 6, 4)), jnp.ones((3, 3, 4 // groups, 10))
  forward = 2 * (2 * 4 * 3 * 10) * (3 * 3 * 4 // groups)
  assert flops.count(loss, *arguments) == forward
  assert flops.count(jax.value_and_grad(loss, (0, 1)), *arguments) == 3 * forward


def test_a_program_of_one_device_counts_for_all():
  # Automatic axes: with explicit ones, the default since jax 0.11, arguments would have to come split.
  mesh = jax.sharding.AbstractMesh((3,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  split = jax.sharding.PartitionSpec("data")
  apart = jax.shard_map(product, mesh=mesh, in_specs=(split, split), out_specs=split)
  assert flops.count(apart, A, B) == PRODUCT


def test_a_transformer_by_the_formula():
  """Projections, attention and MLP of each block, and what is around them."""
  width, depth, tokens, channels, patch, batch = 32, 3, 16, 4, 2, 5
  net = dit.DiT(width, depth, 4, patch, 0)
  one, x = jnp.ones(batch), jnp.ones((batch, 8, 8, channels))
  variables = jax.eval_shape(lambda: net.init(jax.random.key(0), one, one, x, one, x, None, None))
  found = flops.count(lambda v, x: net.apply(v, one, one, x, one, x, None, None), variables, x)
  linear = tokens * (3 + 1 + 4 + 4) * width**2 + 6 * width**2
  attention = 2 * tokens**2 * width
  times = 5 * (256 * width + width**2)
  ends = tokens * width * channels * patch**2 * 3 + 2 * 2 * width**2
  assert found == 2 * batch * (depth * (linear + attention) + times + ends)
