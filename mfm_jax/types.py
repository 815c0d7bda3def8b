"""Array aliases, the dimension legend and the two protocols that everything else speaks.

Dimension legend: B batch, N draws per context, K mixture components, D coordinates of a vector,
H, W, C height, width and channels of an image. A suffix (`t_B`) marks a rank that matters.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

Array = jax.Array
PRNGKey = jax.Array  # a typed key of shape ()
Cond = Mapping[str, Array] | None  # "label": int (B,), "guidance": float (B,)
PyTree = Any


class Velocity(Protocol):
  """Mean velocity v_{s,u}(x_s; t, x_t) of a flow map with context (MATH 2.1).

  Times have shape (B,), states (B, ...). A network, an oracle and a wrapper all have this signature.
  """

  def __call__(self, s: Array, u: Array, x_s: Array, t: Array, x_t: Array, cond: Cond) -> Array: ...


class MarginalVelocity(Protocol):
  """Marginal velocity v_t(x), times (B,), states (B, ...) (MATH 1)."""

  def __call__(self, t: Array, x: Array, cond: Cond) -> Array: ...


class Reward(Protocol):
  """Reward r(x) on data space, (B, ...) -> (B,), float32."""

  def __call__(self, x: Array, cond: Cond) -> Array: ...


class Decode(Protocol):
  """Model space -> data space, (B, ...) -> (B, ...), differentiable and without clipping."""

  def __call__(self, x: Array) -> Array: ...


def expand_like(t_B: Array, x: Array) -> Array:
  """Reshapes (B,) to (B, 1, ..., 1) with the rank of `x`, so that it broadcasts against it."""
  return t_B.reshape(t_B.shape + (1,) * (x.ndim - t_B.ndim))


def times_like(t: Array | float, x: Array) -> Array:
  """A scalar time as the (B,) vector that a velocity takes for the batch of `x`."""
  return jax.numpy.full((x.shape[0],), t, x.dtype)
