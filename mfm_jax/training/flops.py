"""Floating-point operations of a function, counted in its jaxpr: matrix products and convolutions.

XLA's own cost analysis counts the body of a loop once; here it counts as often as it runs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

from mfm_jax.models import convolution


def count(function: Callable, *args: Any) -> int:
  """Multiplications and additions of `function(*args)`; the arguments may be shapes.

  A branch counts as its dearest, a loop whose length is not known before it runs once. What is computed again
  to save memory (`jax.checkpoint`) is counted again.
  """
  jaxpr = jax.make_jaxpr(function)(*args).jaxpr
  used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # what nobody reads is not computed
  return _of(used)


def _of(jaxpr: core.Jaxpr) -> int:
  return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: core.JaxprEqn) -> int:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    left = _shape(equation.invars[0])
    return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)
  if name == "conv_general_dilated":
    kernel, numbers = _shape(equation.invars[1]), params["dimension_numbers"]
    per_output = math.prod(kernel) // kernel[numbers.rhs_spec[0]]  # inputs of one output
    # Of a dilated input, as in the gradient of a strided convolution, the rest are zeros.
    return 2 * math.prod(_shape(equation.outvars[0])) * per_output // math.prod(params["lhs_dilation"])
  if name == convolution.NAME:
    return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(_shape(equation.invars[1])[:3])
  if name == "cond":
    return max(_of(branch.jaxpr) for branch in params["branches"])
  inner = sum(_of(jaxpr) for value in params.values() for jaxpr in _jaxprs(value))
  if name == "shard_map":  # its program is that of one device
    # The name depends on JAX's version.
    axes = params["newly_manual_axes" if "newly_manual_axes" in params else "manual_axes"]
    return inner * math.prod(params["mesh"].shape[axis] for axis in axes)
  return inner * params["length"] if name == "scan" else inner


def _shape(variable: Any) -> tuple[int, ...]:
  return variable.aval.shape  # whose type, of a variable in general, does not say that it is an array


def _jaxprs(value: Any) -> list[core.Jaxpr]:
  """The programs in a parameter of an equation."""
  if isinstance(value, core.ClosedJaxpr):
    return [value.jaxpr]
  if isinstance(value, core.Jaxpr):
    return [value]
  if isinstance(value, tuple | list):
    return [jaxpr for item in value for jaxpr in _jaxprs(item)]
  return []
