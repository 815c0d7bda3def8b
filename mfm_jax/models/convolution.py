"""A convolution whose gradients are convolutions in the layout of the forward one.

The gradient of `jax.lax.conv_general_dilated` in its input reads the kernel with its channels swapped. XLA
for CPUs brings that into its fast form outside of loops alone; inside one, as where a steered path is
differentiated, it falls back to code that is several times slower. Here every gradient has the fast form.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from mfm_jax import checks
from mfm_jax.types import Array

NAME = "same_convolution"  # of the primitive in a jaxpr


def same_convolution(x: Array, kernel: Array) -> Array:
  """x (B, H, W, C) with kernel (h, w, C, D), zeros around the image: (B, H, W, D).

  Linear in each argument; forward and reverse derivatives of any order.

  Raises:
    ValueError: a kernel of even height or width, which has no middle, or for another number of channels.
  """
  checks.shape("kernel", kernel, (None, None, x.shape[-1], None))
  for size in kernel.shape[:2]:
    if size % 2 == 0:
      raise ValueError(f"kernel must have an odd height and width; got {kernel.shape[:2]}")
  return _same_convolution.bind(x, kernel)


class SameConv(nn.Module):
  """`same_convolution` with the parameters of `flax.linen.Conv` at stride 1 and padding "SAME"."""

  features: int
  size: int = 3
  dtype: jnp.dtype | None = None
  kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return same_convolution(x, kernel) + jnp.broadcast_to(bias, (*x.shape[:-1], self.features))


def _direct(x: Array, kernel: Array) -> Array:
  numbers = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def _of_input(cotangent: Array, x, kernel: Array) -> Array:
  return _same_convolution.bind(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))


def _of_kernel(cotangent: Array, x: Array, kernel) -> Array:
  """The images are the channels to be summed over, and the gradient of the output is the kernel."""
  height, width = kernel.aval.shape[:2]
  padding = ((height // 2, height // 2), (width // 2, width // 2))
  numbers = ("NHWC", "HWIO", "NHWC")
  images, taps = x.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3)
  out = jax.lax.conv_general_dilated(images, taps, (1, 1), padding, dimension_numbers=numbers)
  return out.transpose(1, 2, 0, 3)


def _batched(arguments, axes):
  (x, kernel), (axis_x, axis_kernel) = arguments, axes
  if axis_kernel is not None:
    return jax.vmap(_direct, axes)(x, kernel), 0
  x = jnp.moveaxis(x, axis_x, 0)
  out = _same_convolution.bind(x.reshape(-1, *x.shape[2:]), kernel)
  return out.reshape(*x.shape[:2], *out.shape[1:]), 0


_same_convolution = Primitive(NAME)
_same_convolution.def_impl(jax.jit(_direct))
_same_convolution.def_abstract_eval(lambda x, kernel: x.update(shape=(*x.shape[:-1], kernel.shape[-1])))
ad.defbilinear(_same_convolution, _of_input, _of_kernel)
batching.primitive_batchers[_same_convolution] = _batched
mlir.register_lowering(_same_convolution, mlir.lower_fun(_direct, multiple_results=False))
