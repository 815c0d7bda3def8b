"""Draws from the posteriors p_{1|t}(. | x_t) of many contexts at once (MATH 2.2, 3).

Contexts x draws are flattened into one batch, context-major. `chunk` bounds how many draws per
context are evaluated at a time. Draw i uses the i-th split of the key, so the result does not
depend on the chunk.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mfm_jax import checks, flow_map, glass
from mfm_jax import times as timegrid
from mfm_jax.interpolants import Interpolant
from mfm_jax.sampling import integrators
from mfm_jax.sampling import noise as noise_schemes
from mfm_jax.types import Array, Cond, MarginalVelocity, PRNGKey, PyTree, Velocity


def draw(
  key: PRNGKey | None,
  velocity: Velocity,
  t: Array,
  x_t: Array,
  cond: Cond = None,
  *,
  draws: int,
  steps: int = 1,
  noise: Array | None = None,
  chunk: int | None = None,
) -> Array:
  """Posterior draws by the flow map, X_{0,1}(e; t, x_t) (MATH 2.2).

  Args:
    key: typed key; None with `noise`.
    velocity: mean velocity with context.
    t, x_t: contexts, (contexts,) and (contexts, ...).
    cond: conditioning, leaves (contexts,).
    draws: number of draws per context.
    steps: jumps of the flow map, 1 for a single evaluation.
    noise: e, (contexts, draws, ...), in place of the key's draws.
    chunk: draws per context that are evaluated at a time; None for all. It need not divide `draws`.

  Returns:
    (contexts, draws, ...).

  Raises:
    ValueError: draws, steps or chunk < 1; shapes that disagree; neither key nor noise.
  """

  def consume(carry, e):
    return carry, map_draws(velocity, e, t, x_t, cond, steps=steps)

  source = noise_source(key, noise, t, x_t, draws=draws)
  return over_chunks(consume, None, source, x_t, chunk=chunk)[1]


def draw_glass(
  key: PRNGKey | None,
  marginal: MarginalVelocity,
  interpolant: Interpolant,
  t: Array,
  x_t: Array,
  cond: Cond = None,
  *,
  draws: int,
  times: Array,
  method: str = "heun",
  noise: Array | None = None,
  chunk: int | None = None,
) -> Array:
  """Posterior draws from a marginal velocity: the GLASS inner ODE from s = 0 to s = 1 (MATH 3).

  The same arguments, result and noise as `draw`, but for
    marginal: v_t(x), the velocity of a plain flow.
    interpolant: the one that it was trained with.
    times: (K + 1,) inner times, from 0 to 1.
    method: "euler" or "heun".

  Raises:
    ValueError: as `draw`; an unknown method; times that break a rule of `check_times` or do not run
      from 0 to 1.
  """
  integrators.check_times(times, start=0.0, end=1.0)

  def consume(carry, e):
    def rollout(e, t, x_t, cond):
      def drift(s, x_s):
        return glass.inner_velocity(marginal, interpolant, s, x_s, t, x_t, cond)

      return integrators.ode(e, times, drift, method=method)[0]

    return carry, _flattened(rollout, e, t, x_t, cond)

  source = noise_source(key, noise, t, x_t, draws=draws)
  return over_chunks(consume, None, source, x_t, chunk=chunk)[1]


def glass_jump(marginal: MarginalVelocity, interpolant: Interpolant, *, steps: int) -> Velocity:
  """Posterior draws from a marginal velocity, as a `Velocity` for the jump from s = 0 to u = 1 alone.

  So a plain flow, or a fine-tuned one, serves wherever one-step draws of a map do, in `steps` Heun steps of
  the GLASS inner ODE (2 `steps` evaluations); differentiable in x_t.

  Raises:
    ValueError: steps < 1.
  """
  times = timegrid.grid(steps)

  def velocity(s: Array, u: Array, x_s: Array, t: Array, x_t: Array, cond: Cond) -> Array:
    del s, u

    def drift(s, x_s):
      return glass.inner_velocity(marginal, interpolant, s, x_s, t, x_t, cond)

    return integrators.ode(x_s, times, drift, method="heun")[0] - x_s

  return velocity


def map_draws(
  velocity: Velocity, e: Array, t: Array, x_t: Array, cond: Cond = None, *, steps: int = 1
) -> Array:
  """X_{0,1}(e; t, x_t) for start noise e (contexts, n, ...): (contexts, n, ...)."""

  def rollout(e, t, x_t, cond):
    return flow_map.posterior_map(velocity, e, t, x_t, cond, steps=steps)

  return _flattened(rollout, e, t, x_t, cond)


def repeat(tree: PyTree, n: int) -> PyTree:
  """Every leaf (contexts, ...) with each entry n times in a row: (contexts * n, ...)."""
  return jax.tree.map(lambda leaf: jnp.repeat(leaf, n, axis=0), tree)


def over_chunks(
  consume: Callable[[Any, Array], tuple[Any, PyTree]],
  carry: Any,
  source: Array,
  x_t: Array,
  *,
  chunk: int | None = None,
) -> tuple[Any, PyTree]:
  """Feeds the start noise of many draws per context to `consume`, `chunk` draws at a time.

  Args:
    consume: (carry, e) -> (carry, out), e and leaves of out (contexts, n, ...). One scan calls it
      with n = chunk; what is left over when chunk does not divide the draws is one more call, with
      smaller n, so that no evaluation is wasted on padding.
    carry: its first carry.
    source: of `noise_source`, or a part of it: one entry a draw.
    x_t: contexts, (contexts, ...).
    chunk: draws per context that are held at a time; None for all.

  Returns:
    the last carry and out joined over the chunks, (contexts, draws, ...).

  Raises:
    ValueError: chunk < 1.
  """
  draws = source.shape[0]
  chunk = draws if chunk is None else chunk
  checks.at_least("chunk", chunk, 1)

  def body(carry, source):
    return consume(carry, jax.vmap(integrators.draw_noise, (0, None), 1)(source, x_t))

  whole, rest = divmod(draws, chunk)
  outs = []
  if whole:
    scanned = source[: whole * chunk].reshape(whole, chunk, *source.shape[1:])
    carry, out = jax.lax.scan(body, carry, scanned)
    outs.append(jax.tree.map(_join, out))
  if rest:
    carry, out = body(carry, source[whole * chunk :])
    outs.append(out)
  return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *outs)


def over_blocks(
  consume: Callable[[Any, Array], tuple[Any, PyTree]],
  carry: Any,
  key: PRNGKey,
  x_t: Array,
  *,
  draws: int,
  scheme: str,
  chunk: int | None = None,
) -> Any:
  """The last carry of `over_chunks` with the start noise of a scheme, `noise.normals` of the same key.

  Held at a time are as many blocks of dependent draws as make a chunk, one at least.
  """
  together = noise_schemes.block(scheme, draws, x_t[0].size)
  held = max((chunk or draws) // together, 1)
  keys = jax.random.split(key, -(-draws // together))

  def some(carry, keys, count):
    e = jax.vmap(lambda key: noise_schemes.one_block(key, x_t, draws=together, scheme=scheme))(keys)
    source = jnp.moveaxis(e, 2, 1).reshape(-1, *x_t.shape)[:count]
    return over_chunks(consume, carry, source, x_t, chunk=chunk)[0]

  rounds, rest = divmod(draws, held * together)
  if rounds:
    scanned = keys[: rounds * held].reshape(rounds, held)
    carry, _ = jax.lax.scan(lambda carry, keys: (some(carry, keys, held * together), None), carry, scanned)
  return some(carry, keys[rounds * held :], rest) if rest else carry


def noise_source(key: PRNGKey | None, noise: Array | None, t: Array, x_t: Array, *, draws: int) -> Array:
  """What the start noise of each draw is made from, (draws, ...): a split of the key, or recorded noise.

  Args and errors as `draw`.
  """
  checks.at_least("draws", draws, 1)
  checks.shape("t", t, x_t.shape[:1])
  checks.in_interval("t", t)
  if noise is not None:
    checks.shape("noise", noise, (x_t.shape[0], draws, *x_t.shape[1:]))
    return jnp.moveaxis(noise, 1, 0)
  if key is None:
    raise ValueError("a key must be given where noise is None; got key=None")
  return jax.random.split(key, draws)


def _join(out: Array) -> Array:
  """(chunks, contexts, chunk, ...) -> (contexts, chunks * chunk, ...)."""
  out = jnp.moveaxis(out, 0, 1)
  return out.reshape(out.shape[0], -1, *out.shape[3:])


def _flattened(rollout: Callable, e: Array, t: Array, x_t: Array, cond: Cond) -> Array:
  contexts, n = e.shape[:2]
  flat = e.reshape(contexts * n, *e.shape[2:])
  return rollout(flat, *repeat((t, x_t, cond), n)).reshape(e.shape)
