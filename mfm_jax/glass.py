"""GLASS: the inner velocity v_{s,s}(x_s; t, x_t) from a marginal velocity alone (MATH 3).

x_t and x_s are two independent Gaussian observations of x1. Together they are worth one observation
x* at a later time t*, so E[x1 | x_t, x_s] = D_{t*}(x*) and the inner velocity is
    v_{s,s} = c_x x_s + c_t x_t + c_v v_{t*}(x*),    x* = k_t x_t + k_s x_s.
The coefficients are written with N = b_t^2 a_s^2 + b_s^2 a_t^2 so that every limit is finite without a
clamp: only (s, t) = (0, 0) and (1, 1), where both observations are void or both exact, are branches.
"""

from typing import NamedTuple

import jax.numpy as jnp

from mfm_jax.interpolants import Interpolant, Linear, Trigonometric
from mfm_jax.types import Array, Cond, MarginalVelocity, Velocity, expand_like

S_MAX = 1.0 - 1e-4  # s is clipped here where t = 1 too: there the velocity (x_t - x_s) / (1 - s) diverges


class Coefficients(NamedTuple):
  """Scalars of one (s, t), each (B,)."""

  time: Array  # t*
  x_t_in_star: Array  # k_t
  x_s_in_star: Array  # k_s
  x_s: Array  # c_x
  x_t: Array  # c_t
  velocity: Array  # c_v


def coefficients(interpolant: Interpolant, s: Array, t: Array) -> Coefficients:
  """The GLASS coefficients at inner time s and context time t, both (B,) in [0, 1].

  Differentiable, with finite derivatives on the closed square. Two are conventions: at (0, 0), where the
  coefficients jump with t, those in t are 0; where s is clipped (t = 1, s > S_MAX), those in s are 0.

  Raises:
    ValueError: an interpolant that has no closed form here.
  """
  s = jnp.where(t >= 1.0, jnp.minimum(s, S_MAX), s)
  void = (s <= 0.0) & (t <= 0.0)  # no observation at all: t* = 0, x* = x_s, the result v_0(x_s)
  s_safe = jnp.where(void, 0.5, s)
  if isinstance(interpolant, Linear):
    exact = _linear(s_safe, t)
  elif isinstance(interpolant, Trigonometric):
    exact = _trigonometric(s_safe, t)
  else:
    raise ValueError(f"interpolant must be Linear or Trigonometric; got {interpolant!r}")
  zero, one = jnp.zeros_like(s), jnp.ones_like(s)
  limit = Coefficients(s, zero, one, zero, zero, one)
  return Coefficients(*(jnp.where(void, at_0, at) for at_0, at in zip(limit, exact, strict=True)))


def inner_velocity(
  marginal: MarginalVelocity,
  interpolant: Interpolant,
  s: Array,
  x_s: Array,
  t: Array,
  x_t: Array,
  cond: Cond = None,
) -> Array:
  """v_{s,s}(x_s; t, x_t) with one evaluation of `marginal` (MATH 3.2); s, t (B,), x_s, x_t (B, ...)."""
  c = Coefficients(*(expand_like(value, x_s) for value in coefficients(interpolant, s, t)))
  star = c.x_t_in_star * x_t + c.x_s_in_star * x_s
  v_star = marginal(c.time.reshape(s.shape), star, cond)
  return c.x_s * x_s + c.x_t * x_t + c.velocity * v_star


def as_velocity(marginal: MarginalVelocity, interpolant: Interpolant) -> Velocity:
  """The diagonal of a meta flow map as a `Velocity`: u must equal s, the value for u > s is v_{s,s}."""

  def velocity(s, u, x_s, t, x_t, cond):
    del u
    return inner_velocity(marginal, interpolant, s, x_s, t, x_t, cond)

  return velocity


def _linear(s: Array, t: Array) -> Coefficients:
  """MATH 3, linear, in p = t (1-s) / sqrt d and q = s (1-t) / sqrt d, so that p^2 + q^2 = 1.

  In this form s -> 1, s -> 0 and t -> 0 need no branch, and no square underflows near (0, 0).
  """
  a_s, a_t = 1.0 - s, 1.0 - t
  root = jnp.hypot(t * a_s, s * a_t)  # sqrt d
  scale = 1.0 / (a_t * a_s + root)
  p, q = t * a_s / root, s * a_t / root
  return Coefficients(
    time=root * scale,
    x_t_in_star=scale * p * a_s,
    x_s_in_star=scale * q * a_t,
    # The bracket of MATH 3 over sqrt d is a_t (q - 1) - t p; with q - 1 = -p^2 / (1 + q) nothing cancels.
    x_s=-scale * p * (t + a_t * p / (1.0 + q)),
    x_t=scale * p,
    velocity=scale * a_t,
  )


def _trigonometric(s: Array, t: Array) -> Coefficients:
  """MATH 3 for a^2 + b^2 = 1: with R^2 = a_t^2 + b_t^2 a_s^2 nothing cancels."""
  interpolant = Trigonometric()
  a_s, b_s, a_t, b_t = interpolant.a(s), interpolant.b(s), interpolant.a(t), interpolant.b(t)
  root = jnp.hypot(b_t * a_s, b_s * a_t)
  radius = jnp.hypot(a_t, b_t * a_s)
  return Coefficients(
    time=interpolant.inverse_ratio(root, a_t * a_s),
    x_t_in_star=b_t * a_s / radius * (a_s / root),
    x_s_in_star=b_s * a_t / radius * (a_t / root),
    x_s=-0.5 * jnp.pi * a_s * b_s * b_t * (b_t / radius**2),
    x_t=0.5 * jnp.pi * a_s * (b_t / radius**2),
    velocity=a_t / radius,
  )
