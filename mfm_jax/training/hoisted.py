"""Compilation of functions that close over large arrays, such as the networks of rewards and decoders."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core


def lift(function: Callable, *examples: Any) -> tuple[list[Any], Callable]:
  """The arrays that `function` closes over, and the function with them as its first argument.

  lifted(arrays, *arguments) is function(*arguments) for arguments of any shapes for which it reads the same
  arrays. In a program that takes `arrays` as an argument they are no constants.

  Args:
    function: of pytrees of arrays.
    examples: arguments of it, or their shapes.
  """
  arrays = jax.make_jaxpr(function)(*examples).consts
  places = {id(array): i for i, array in enumerate(arrays)}

  def lifted(arrays: list[Any], *arguments: Any) -> Any:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), arguments)
    closed, result = jax.make_jaxpr(function, return_shape=True)(*shapes)
    # What is made anew at each trace, such as a NumPy array's copy, stays a constant.
    constants = [arrays[places[id(c)]] if id(c) in places else c for c in closed.consts]
    whole = core.jaxpr_as_fun(core.ClosedJaxpr(closed.jaxpr, constants))
    return jax.tree.unflatten(jax.tree.structure(result), whole(*jax.tree.leaves(arguments)))

  return arrays, lifted


def compile_hoisted(function: Callable, *arguments: Any) -> Callable:
  """`function` compiled for arguments like these, with the arrays that it closes over as arguments, too.

  jax.jit would write them into the program: a network of a gigabyte is copied at compilation and again by its
  executable, and beyond two gigabytes there is no program at all. Arrays closed over by a function that is
  jitted itself, inside of `function`, stay constants.

  Args:
    function: of pytrees of arrays.
    arguments: examples; shapes, types and shardings are theirs.
  """
  closed, result = jax.make_jaxpr(function, return_shape=True)(*arguments)
  structure = jax.tree.structure(result)

  def flat(constants, *arguments):
    whole = core.jaxpr_as_fun(core.ClosedJaxpr(closed.jaxpr, constants))
    return jax.tree.unflatten(structure, whole(*jax.tree.leaves(arguments)))

  return functools.partial(jax.jit(flat).lower(closed.consts, *arguments).compile(), closed.consts)
