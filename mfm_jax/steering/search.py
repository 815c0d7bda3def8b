"""MFM-Search: of the posterior draws of M particles the best is re-noised to the next time (paper Alg. 4)."""

import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.interpolants import CLIP, Interpolant, interpolate
from mfm_jax.sampling import posterior
from mfm_jax.sampling.integrators import check_times, draw_noise, step_noise
from mfm_jax.steering import sums, value
from mfm_jax.steering.best_of_n import Best, better, nothing, score
from mfm_jax.types import Array, Cond, Decode, PRNGKey, Reward, Velocity, expand_like

SELECTIONS = ("overall", "per_particle")
TRANSITIONS = ("stochastic", "deterministic")


def search(
  key: PRNGKey | None,
  x: Array,
  times: Array,
  velocity: Velocity,
  interpolant: Interpolant,
  reward: Reward,
  cond: Cond = None,
  *,
  particles: int,
  draws: int,
  selection: str = "overall",
  transition: str = "stochastic",
  decode: Decode | None = None,
  chunk: int | None = None,
  noise: tuple[Array | None, Array | None] | None = None,
  keep: bool = False,
) -> tuple[Array, dict]:
  """At every t of times but the last: N one-step draws from each of M particles; the best, x1, is re-noised.

  MATH 6.9. Several independent samples are searched for at once, each with M particles of its own. This
  maximises the reward; its law is not the tilt p_1 exp(r). M N K evaluations a sample of the velocity, and as
  many of the reward, without gradients.

  Args:
    key: typed key; None with `noise`.
    x: (B, ...), the states at times[0], B = samples * particles, the particles of a sample in a row.
    times: (K + 1,), increasing in [0, 1], the last is 1: `times.grid` with power 2.5, which starts at 0
      (the published ones, `linspace(0.01, 1, K + 1) ** 2.5`, start at 1e-5).
    velocity: mean velocity with context.
    interpolant: the one that the velocity was trained with.
    reward: on data space, (n, ...) -> (n,); need not be differentiable.
    cond: conditioning of velocity and reward, leaves (B,), the same for all particles of a sample.
    particles, draws: M and N.
    selection: "overall", all particles go on from the best of the M N draws of their sample; "per_particle",
      each from the best of its own N.
    transition: "stochastic", x <- a(t') n + b(t') x1 with fresh n; "deterministic", with the n that the
      chosen x1 and the state it was drawn from imply, (x - b(t) x1) / a(t). With "overall" this makes the
      particles of a sample equal from the first step on: M N draws of one state.
    decode: model space -> data space; None where they are the same.
    chunk: draws a particle that are held at a time; None for all. It need not divide N.
    noise: (e, n) in place of the key's: e (K, B, N, ...) of the draws, n (K, B, ...) of the transition. Where
      one is None it comes from the key, if it is needed.
    keep: also return every state.

  Returns:
    (samples, ...), for each sample the best of what its particles have become at t = 1, which are the chosen
    draws of the last step. And info:
      "reward": (samples,), of these.
      "best": {"x1", "reward"}, of all draws of all steps; at least as good.
      "rewards": (K, B), of the best draw of each particle at times[:-1].
      "invalid": int32 (K, B), how many draws have a reward that is NaN or +inf. They are never chosen
        over one of finite reward; where there was none of those, a reward above is NaN.
      "evaluations": K N of the velocity for the whole batch.
      "path": (K + 1, B, ...), with `keep`.

  Raises:
    ValueError: particles, draws or chunk < 1; a batch that is no multiple of particles; an unknown selection
      or transition; times that break a rule of `check_times` or do not end at 1; noise or rewards of another
      shape; neither key nor noise.
  """
  checks.at_least("particles", particles, 1)
  sampling = value.Sampling(draws=draws, chunk=chunk, decode=decode)
  checks.one_of("selection", selection, SELECTIONS)
  checks.one_of("transition", transition, TRANSITIONS)
  if len(x) % particles:
    raise ValueError(f"the batch must be a multiple of particles; got batch={len(x)}, particles={particles}")
  check_times(times, end=1.0)
  times = jnp.asarray(times, jnp.promote_types(x.dtype, jnp.float32))
  steps = len(times) - 1
  key_draw, key_renoise = (None, None) if key is None else jax.random.split(key)
  recorded, renoise = (None, None) if noise is None else noise
  pool = jax.ShapeDtypeStruct((len(x), draws, *x.shape[1:]), x.dtype)
  sources = (
    step_noise(key_draw, recorded, steps, pool),
    step_noise(key_renoise, renoise, steps, x) if transition == "stochastic" else None,
  )

  def best_draws(source: Array, t: Array, x: Array) -> tuple[Best, Array]:
    """The best draw of each particle, and how many of its rewards are not finite."""
    is_key = jnp.issubdtype(source.dtype, jax.dtypes.prng_key)
    key, e = (source, None) if is_key else (None, source)

    evaluate = value.evaluator(velocity, t, x, reward, cond, sampling)

    def consume(carry, e):
      best, invalid = carry
      x1, rewards = evaluate(e, x)
      scores, rows = score(rewards), jnp.arange(len(x))
      chosen = scores.argmax(1)
      best = better(best, x1[rows, chosen].astype(x.dtype), scores[rows, chosen])
      return (best, invalid + (~sums.sound(rewards)).sum(1, dtype=jnp.int32)), None

    source = posterior.noise_source(key, e, t, x, draws=draws)
    start = nothing(x, len(x)), jnp.zeros(len(x), jnp.int32)
    return posterior.over_chunks(consume, start, source, x, chunk=chunk)[0]

  def winners(scores: Array) -> Array:
    """Where in the batch the best particle of each sample is, (B,) -> (samples,)."""
    return scores.reshape(-1, particles).argmax(1) + particles * jnp.arange(len(scores) // particles)

  def advance(carry, inputs):
    x, best = carry
    t, after, source_draw, source_renoise = inputs
    t_B, after_B = jnp.full(x.shape[:1], t), jnp.full(x.shape[:1], after)
    chosen, invalid = best_draws(source_draw, t_B, x)
    winner, x1 = winners(chosen.score), chosen.x
    best = better(best, x1[winner], chosen.score[winner])
    if selection == "overall":
      every = jnp.repeat(winner, particles)
      x1, x = x1[every], x[every]
    if transition == "stochastic":
      x0 = draw_noise(source_renoise, x)
    else:
      a = expand_like(jnp.maximum(interpolant.a(t_B), CLIP), x)
      x0 = (x - expand_like(interpolant.b(t_B), x) * x1) / a
    x = interpolate(interpolant, after_B, x0, x1).astype(x.dtype)
    return (x, best), (chosen.reward, invalid, x if keep else None)

  start = x, nothing(x, len(x) // particles)
  (end, best), kept = jax.lax.scan(advance, start, (times[:-1], times[1:], *sources))
  rewards, invalid, path = kept
  winner = winners(score(rewards[-1]))
  info = {
    "reward": rewards[-1, winner],
    "best": {"x1": best.x, "reward": best.reward},
    "rewards": rewards,
    "invalid": invalid,
    "evaluations": steps * draws,
  }
  if keep:
    info["path"] = jnp.concatenate([x[None], path])
  return end[winner], info
