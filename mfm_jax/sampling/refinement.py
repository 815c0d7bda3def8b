"""K-step refinement: posterior draw, re-noise to a later time, repeat (paper Alg. 1; MATH 6.10)."""

import jax
import jax.numpy as jnp

from mfm_jax import flow_map
from mfm_jax.interpolants import Interpolant, interpolate
from mfm_jax.sampling.integrators import check_times, draw_noise, step_noise
from mfm_jax.types import Array, Cond, PRNGKey, Velocity


def refine(
  key: PRNGKey | None,
  x: Array,
  times: Array,
  velocity: Velocity,
  interpolant: Interpolant,
  cond: Cond = None,
  *,
  noise: tuple[Array, Array] | None = None,
) -> tuple[Array, dict]:
  """At every t of times but the last: x1 = X_{0,1}(e; t, x), then x <- a(t') n + b(t') x1.

  With the exact map each state has the law of I_t, so more steps cost nothing in law and repair the
  errors of an inexact one. From t = 0 with one step it is a single evaluation.

  Args:
    key: typed key; None with `noise`.
    x: (B, ...), the state at times[0]; standard normal where that is 0.
    times: (K + 1,), increasing in [0, 1], the last is 1.
    velocity: mean velocity with context.
    interpolant: the one that the velocity was trained with.
    cond: conditioning, leaves (B,).
    noise: (e, n), each (K, B, ...), in place of the key's; the last n has no effect (a(1) = 0).

  Returns:
    x at t = 1, (B, ...), and {"evaluations": K}.

  Raises:
    ValueError: times that break a rule of `check_times` or do not end at 1; noise of another shape;
      neither key nor noise.
  """
  check_times(times, end=1.0)
  times = jnp.asarray(times, jnp.promote_types(x.dtype, jnp.float32))
  steps = len(times) - 1
  key_draw, key_renoise = (None, None) if key is None else jax.random.split(key)
  draws, renoise = (None, None) if noise is None else noise
  sources = (
    step_noise(key_draw, draws, steps, x),
    step_noise(key_renoise, renoise, steps, x),
  )

  def advance(x, inputs):
    t, after, source_draw, source_renoise = inputs
    t_B, after_B = jnp.full(x.shape[:1], t), jnp.full(x.shape[:1], after)
    x1 = flow_map.posterior_map(velocity, draw_noise(source_draw, x), t_B, x, cond)
    renoised = interpolate(interpolant, after_B, draw_noise(source_renoise, x), x1)
    return renoised.astype(x.dtype), None

  end, _ = jax.lax.scan(advance, x, (times[:-1], times[1:], *sources))
  return end, {"evaluations": steps}
