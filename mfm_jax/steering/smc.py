"""Sequential Monte Carlo around the steered SDE: samples and normaliser of p_1 exp(r) (MATH 6.8, 10).

With `drifts.dps` as guide this is the twisted diffusion sampler (Wu et al., 2023), with posterior draws one
whose twist is unbiased for exp V; "max" and "sum" are the potentials of Feynman-Kac steering
(Singhal et al., 2025).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mfm_jax import checks, interpolants
from mfm_jax.interpolants import Interpolant
from mfm_jax.sampling import integrators
from mfm_jax.steering import resampling
from mfm_jax.steering.drifts import RENORMALISATIONS, Guide, renormalised
from mfm_jax.types import Array, Cond, Decode, PRNGKey, Reward, expand_like

POTENTIALS = ("difference", "max", "sum")


class _Weights(NamedTuple):
  """What the particles' pasts come to; (P, M) each."""

  log: Array  # weight since the last resampling
  summary: Array  # of the values so far: their maximum or sum
  spent: Array  # log of the product of all potentials so far


def smc(
  key: PRNGKey | None,
  x: Array,
  times: Array,
  guide: Guide,
  interpolant: Interpolant,
  reward: Reward,
  cond: Cond = None,
  *,
  particles: int,
  threshold: float = 0.5,
  resample_end: bool = True,
  scale: Array | float = 1.0,
  renormalise: str = "none",
  limit: float = 1.0,
  potential: str = "difference",
  decode: Decode | None = None,
  noise: tuple[Array | None, Array | None, Array | None] | None = None,
  keep: bool = False,
) -> tuple[Array, dict]:
  """Samples of p exp(r) and an unbiased estimate of its normaliser E_p[exp r], from the state at times[0].

  p is the law of the sampling SDE in the steps of `times`: as in `steer`, steps with noise, but for one that
  ends at t = 1, which is the drift alone. Without noise there is one law only to propose from, the base's, so
  that step is not steered either. All else is proposed from the steered steps and weighted (MATH 10.1).

  The potentials multiply to exp r along every path, so that all have the same target. With V^ the guide's
  value, and r(x) in its place at the end, that of time k is
      "difference": exp(V^_k - V^_{k-1}),  "max": exp max_{j<=k} V^_j,  "sum": exp sum_{j<=k} V^_j
  and for the latter two the last is exp r over all before.

  The guide is called once for a state. What it finds belongs to the particle: it survives resampling with
  it, so that the same V^ is this weight's numerator and the next one's denominator. Gradient and value may
  come from the same draws: the target is then p(x_0..x_K) exp r(x_K) times the law of the draws given their
  states, whose marginal in x is the wanted one, whatever the draws are used for.

  Cost of a particle: K (1 + 2N) with N posterior draws, as the paper counts, and 2NK more with G proposals;
  besides, one reward at the end.

  Args:
    key: typed key; None with `noise`.
    x: (P * M, ...), P independent populations of M particles, one after the other.
    times: (K + 1,), as `steer`.
    guide: see `drifts`; one that finds "value", any estimate of V whose exp is positive wherever the end
      can have a reward above -inf: the final target is exact all the same.
    interpolant: the one that the guide's velocity was trained with.
    reward: on data space, (P * M, ...) -> (P * M,).
    cond: of the reward, leaves (P * M,). One for all of a population, here as in the guide: its particles
      change places.
    particles: M.
    threshold: a population is resampled where its effective sample size is below threshold * M; 0 never,
      1 always.
    resample_end: return equally weighted particles; otherwise they have info["log_weights"].
    scale: multiplies the steering term of the proposals: 0 proposes from the base.
    renormalise, limit: as `steer`; here they change the proposals, not the target.
    potential: of `POTENTIALS`.
    decode: model space -> data space; None where they are the same.
    noise: (e, z, u) in place of the key's: e and z as `steer`, u (K + 1, P) uniforms of the resampling.
    keep: also return every state.

  Returns:
    x at times[-1], (P * M, ...), and a dict of
      "log_z": (P,), log of the estimate of E_p[exp r]; -inf where all weights are 0.
      "log_weights": (P, M), those of the end before its resampling.
      "ess": (K + 1, P), before the resampling at each time.
      "resampled": bool (K + 1, P).
      "ancestors": int32 (K + 1, P, M), see `resampling.lineage`.
      "invalid": int32 (K + 1, P * M), 1 where a value or reward is NaN or +inf, or a step not finite. Such a
        particle has weight 0, as has one whose potential is 0; populations without weight are not resampled.
      "aux": what the guide found at times[:-1], leaves (K, P * M).
      "path": with `keep`, (K + 1, P * M, ...). Like "aux" and "invalid" before the resampling at each time.

  Raises:
    ValueError: particles < 1, a batch that is no multiple of it, threshold outside [0, 1], an unknown
      potential or renormalisation; times that break a rule of `check_times`; a guide that finds no value, or
      not at all times;
      a reward or noise of another shape; neither key nor noise.
  """
  checks.at_least("particles", particles, 1)
  if x.shape[0] % particles:
    raise ValueError(f"the batch must be a multiple of particles={particles}; got {x.shape[0]}")
  checks.in_interval("threshold", threshold)
  checks.one_of("potential", potential, POTENTIALS)
  checks.one_of("renormalise", renormalise, RENORMALISATIONS)
  integrators.check_times(times)
  if getattr(guide, "partial", False):  # `drifts.on_interval`
    raise ValueError("the guide must find a value at all times; got one of an interval")
  populations = x.shape[0] // particles
  grid = jnp.asarray(times, jnp.promote_types(x.dtype, jnp.float32))
  steps = len(grid) - 1
  recorded, path_noise, uniforms = (None, None, None) if noise is None else noise
  key_guide, key_path, key_resample = (None, None, None) if key is None else jax.random.split(key, 3)
  sources = recorded
  if recorded is None and key_guide is not None:
    sources = jax.random.split(key_guide, steps)
  source = integrators.step_noise(key_path, path_noise, steps, x)
  if uniforms is None:
    if key_resample is None:
      raise ValueError("a key must be given where noise is None; got key=None")
    uniforms = jax.random.uniform(key_resample, (steps + 1, populations))
  checks.shape("noise of the resampling", uniforms, (steps + 1, populations))
  last = (jnp.arange(steps) == steps - 1) & (grid[1:] >= 1.0)

  def propose(t: Array, h: Array, last: Array, z: Array, x: Array, velocity: Array, gradient: Array):
    """The next states and log p(x'|x) / q(x'|x), (P * M,)."""
    variance = 2.0 * interpolants.half_sigma_squared(interpolant, t)
    base = interpolants.sde_drift_from_velocity(interpolant, t, x, velocity)
    steering = scale * renormalised(expand_like(variance, x) * gradient, base, renormalise, limit)
    spread = expand_like(jnp.sqrt(variance * h), x)
    shift = h * steering / spread  # in standard deviations of the step
    change = h * base + jnp.where(last, 0.0, spread * (shift + z))
    log_ratio = -(shift * (z + 0.5 * shift)).reshape(x.shape[0], -1).sum(1)
    return x + change.astype(x.dtype), jnp.where(last, 0.0, log_ratio)

  def step(carry, inputs):
    x, weights, log_z = carry
    t, h, last, source, uniform, entry = inputs
    t = jnp.full(x.shape[:1], t)
    velocity, gradient, found = guide(entry, t, x)
    if "value" not in found:
      raise ValueError(f"the guide must find a value; got {sorted(found) or 'nothing'}")
    checks.shape("the guide's value", found["value"], x.shape[:1])
    weights, invalid = _weigh(weights, found["value"], potential)
    ancestors, record = _resampling(weights.log, uniform, threshold)
    resampled = record["resampled"]
    log_z = log_z + jnp.where(resampled, resampling.log_mean_exp(weights.log), 0.0)
    chosen, velocity, gradient, summary, spent = _take(
      ancestors, (x, velocity, gradient, weights.summary.ravel(), weights.spent.ravel())
    )
    log = jnp.where(resampled[:, None], 0.0, weights.log)
    z = integrators.draw_noise(source, x)
    moved, log_ratio = propose(t, h, last, z, chosen, velocity, gradient)
    shape = log.shape
    weights = _Weights(log + log_ratio.reshape(shape), summary.reshape(shape), spent.reshape(shape))
    record |= {"invalid": invalid.ravel(), "aux": found}
    return (moved, weights, log_z), record | ({"path": x} if keep else {})

  dtype = grid.dtype
  zeros = jnp.zeros((populations, particles), dtype)
  weights = _Weights(zeros, jnp.full_like(zeros, -jnp.inf) if potential == "max" else zeros, zeros)
  carry = (x, weights, jnp.zeros(populations, dtype))
  inputs = (grid[:-1], jnp.diff(grid), last, source, uniforms[:-1], sources)
  (x, weights, log_z), info = jax.lax.scan(step, carry, inputs)

  rewards = reward(x if decode is None else decode(x), cond)
  checks.shape("reward(x)", rewards, x.shape[:1])
  weights, invalid = _weigh(weights, rewards, "difference")
  ancestors, record = _resampling(weights.log, uniforms[-1], 1.0 if resample_end else 0.0)
  record |= {"invalid": invalid.ravel()} | ({"path": x} if keep else {})
  info |= {name: jnp.concatenate([info[name], entry[None]]) for name, entry in record.items()}
  info |= {"log_weights": weights.log, "log_z": log_z + resampling.log_mean_exp(weights.log)}
  return _take(ancestors, x), info


def _weigh(weights: _Weights, value: Array, potential: str) -> tuple[_Weights, Array]:
  """The weights with the potential of one more time, and where a value or weight is NaN or +inf."""
  log, summary, spent = weights
  value = value.reshape(log.shape).astype(log.dtype)
  if potential == "difference":  # also the last of every path: exp r over all before
    total = value
  else:
    summary = jnp.maximum(summary, value) if potential == "max" else summary + value
    total = spent + summary
  # As a difference of what is carried, the potentials multiply to exp r in floating point too.
  following = log + (total - spent)
  invalid = ~(log + value < jnp.inf)  # NaN as well
  lost = invalid | (log == -jnp.inf)  # weight 0 stays 0, where the difference may be inf - inf
  return _Weights(jnp.where(lost, -jnp.inf, following), summary, total), invalid.astype(jnp.int32)


def _resampling(log_weights: Array, uniform: Array, threshold: float) -> tuple[Array, dict]:
  """Ancestors (P, M), each its own where the population is not due, and the record of it."""
  particles = log_weights.shape[1]
  ess = resampling.effective_sample_size(log_weights)
  due = (ess > 0) & ((ess < threshold * particles) | (threshold == 1))
  ancestors = resampling.systematic(uniform, log_weights)
  ancestors = jnp.where(due[:, None], ancestors, jnp.arange(particles, dtype=jnp.int32)[None])
  return ancestors, {"ess": ess, "resampled": due, "ancestors": ancestors}


def _take(ancestors: Array, tree):
  """Leaves (P * M, ...) at the ancestors (P, M)."""
  populations, particles = ancestors.shape
  first = particles * jnp.arange(populations, dtype=ancestors.dtype)
  rows = (ancestors + first[:, None]).ravel()
  return jax.tree.map(lambda leaf: leaf[rows], tree)
