"""Compilation of functions that close over large arrays, such as the networks of rewards and decoders."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


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
