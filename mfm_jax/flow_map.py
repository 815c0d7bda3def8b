"""What a mean velocity with context gives: the flow map, the marginal velocity, posterior draws (MATH 2)."""

import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.types import Array, Cond, MarginalVelocity, Velocity, expand_like, times_like


def flow_map(
  velocity: Velocity, s: Array, u: Array, x_s: Array, t: Array, x_t: Array, cond: Cond = None
) -> Array:
  """X_{s,u}(x_s; t, x_t) = x_s + (u - s) v_{s,u}(x_s; t, x_t) (MATH 2.1).

  Args:
    velocity: mean velocity.
    s, u, t: (B,) in [0, 1], s <= u.
    x_s, x_t: (B, ...).
    cond: conditioning, leaves (B,).

  Raises:
    ValueError: concrete times outside [0, 1] or s > u; shapes that disagree.
  """
  check_arguments(s, u, x_s, t, x_t)
  return x_s + expand_like(u - s, x_s) * velocity(s, u, x_s, t, x_t, cond)


def marginal_velocity(velocity: Velocity) -> MarginalVelocity:
  """v_t(x) = v_{t,t}(x; 0, 0), because the posterior at t = 0 is the data law (MATH 2.3)."""

  def marginal(t: Array, x: Array, cond: Cond = None) -> Array:
    return velocity(t, t, x, jnp.zeros_like(t), jnp.zeros_like(x), cond)

  return marginal


def posterior_map(
  velocity: Velocity, noise: Array, t: Array, x_t: Array, cond: Cond = None, *, steps: int = 1
) -> Array:
  """X_{0,1}(e; t, x_t): draws from p_{1|t}(. | x_t), i.i.d. over `noise` (MATH 2.2).

  Args:
    velocity: mean velocity.
    noise: e, (B, ...) from N(0, I).
    t, x_t: context, (B,) and (B, ...).
    cond: conditioning, leaves (B,).
    steps: number of equal jumps of the flow map, 1 for a single evaluation.

  Returns:
    (B, ...) draws, differentiable in x_t and in the noise.

  Raises:
    ValueError: steps < 1, a concrete t outside [0, 1], shapes that disagree.
  """
  checks.at_least("steps", steps, 1)
  check_arguments(times_like(0.0, noise), times_like(1.0, noise), noise, t, x_t)

  def jump(x, k):
    s, u = times_like(k / steps, x), times_like((k + 1) / steps, x)
    return x + expand_like(u - s, x) * velocity(s, u, x, t, x_t, cond), None

  if steps == 1:
    return jump(noise, jnp.float32(0))[0]
  return jax.lax.scan(jump, noise, jnp.arange(steps, dtype=jnp.float32))[0]


def check_arguments(s: Array, u: Array, x_s: Array, t: Array, x_t: Array) -> None:
  """The shape and range rules of a `Velocity` call; ValueError names the argument that breaks one."""
  checks.shape("x_t", x_t, x_s.shape)
  for name, time in (("s", s), ("u", u), ("t", t)):
    checks.shape(name, time, x_s.shape[:1])
    checks.in_interval(name, time)
  checks.ordered("s", s, "u", u)
