"""Networks that need much memory for a gradient, worked through a few examples at a time."""

from collections.abc import Callable
from typing import Any

import jax

from mfm_jax import checks
from mfm_jax.types import PyTree


def in_parts(function: Callable[..., PyTree], *arguments: Any, rows: int) -> PyTree:
  """function(*arguments), at most `rows` examples a device at a time, rematerialised.

  A gradient then holds the activations of one part, and computes them a second time. Parts are equally large:
  of B examples the largest divisor of B that `rows` allows.

  Args:
    function: of pytrees whose leaves have the examples as their leading axis, to such a pytree; an example
      must not depend on the others.
    arguments: its arguments, at least one leaf.
    rows: 0 for all examples at once, and then no rematerialisation.

  Raises:
    ValueError: rows < 0.
  """
  checks.at_least("rows", rows, 0)
  batch = jax.tree.leaves(arguments)[0].shape[0]
  size = largest_divisor(batch, rows * jax.device_count()) if rows else batch
  if size == batch:
    return function(*arguments)

  # Part i has the examples i, i + parts, ...: those that are on a device stay there.
  def split(x):
    return x.reshape(size, batch // size, *x.shape[1:]).swapaxes(0, 1)

  def join(x):
    return x.swapaxes(0, 1).reshape(batch, *x.shape[2:])

  part = jax.checkpoint(lambda arguments: function(*arguments))
  return jax.tree.map(join, jax.lax.map(part, jax.tree.map(split, arguments)))


def largest_divisor(n: int, limit: int) -> int:
  """The largest divisor of n that is at most `limit`: how many groups of equal size can be made."""
  return max(k for k in range(1, limit + 1) if n % k == 0)
