"""Guides: what a steered step knows of a state, v_t(x) and an estimate of grad V_t(x) (MATH 6.2-6.7).

A guide is any function (source, t_B, x) -> `Guided`, `source` being the step's randomness: a typed key, or
recorded noise in its place. The estimators of `value`, a closed form and DPS are exchangeable; `steer.steer`
adds what they find to the drift of the flow or of the sampling SDE.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mfm_jax import checks, flow_map, interpolants
from mfm_jax.interpolants import Interpolant
from mfm_jax.steering import value
from mfm_jax.types import Array, Cond, Decode, MarginalVelocity, Reward, Velocity, expand_like

RENORMALISATIONS = ("none", "rescale", "clip")
_TINY = 1e-8  # keeps a zero steering term finite, as in the published code


class Guided(NamedTuple):
  """What a guide finds at B states."""

  velocity: Array  # v_t(x), (B, ...)
  gradient: Array  # grad V_t(x), or what stands for it, (B, ...)
  found: dict[str, Array]  # figures to be kept along the path, leaves (B,): fields of `value.Estimate`


Guide = Callable[[Array | None, Array, Array], Guided]


def unguided(marginal: MarginalVelocity, cond: Cond = None) -> Guide:
  """The base model: no gradient. One evaluation a step."""
  return lambda source, t, x: Guided(marginal(t, x, cond), jnp.zeros_like(x), {})


def closed_form(
  marginal: MarginalVelocity,
  grad_value: Callable[[Array, Array], Array],
  cond: Cond = None,
  *,
  value_of: Callable[[Array, Array], Array] | None = None,
) -> Guide:
  """A gradient (t_B, x) -> like x that is known, such as `oracles.grad_value`.

  Finds "value" where `value_of` (t_B, x) -> (B,) is given, such as `oracles.value`.
  """

  def guide(source, t: Array, x: Array) -> Guided:
    del source
    found = {} if value_of is None else {"value": value_of(t, x)}
    return Guided(marginal(t, x, cond), grad_value(t, x), found)

  return guide


def dps(
  marginal: MarginalVelocity,
  interpolant: Interpolant,
  reward: Reward,
  cond: Cond = None,
  *,
  decode: Decode | None = None,
) -> Guide:
  """grad_x r(D_t(x)) (MATH 6.6): the reward at the posterior mean, which is not the value.

  Biased wherever the posterior has spread, at every number of steps. One evaluation and one backward
  pass a step: the velocity that the drift needs is the one that is differentiated. Finds "value", the
  reward at the mean, and "invalid", 1 where that or its gradient is not finite: no steering there.
  """

  def guide(source, t: Array, x: Array) -> Guided:
    del source

    def total(x):
      velocity = marginal(t, x, cond)
      mean = interpolants.denoiser_from_velocity(interpolant, t, x, velocity)
      rewards = reward(mean if decode is None else decode(mean), cond)
      checks.shape("reward(x)", rewards, x.shape[:1])
      return rewards.sum(), (velocity, rewards)

    gradient, (velocity, rewards) = jax.grad(total, has_aux=True)(x)
    broken = ~(jnp.isfinite(rewards) & jnp.isfinite(gradient).reshape(len(x), -1).all(1))
    gradient = jnp.where(expand_like(broken, x), 0.0, gradient)
    return Guided(velocity, gradient, {"value": rewards, "invalid": broken.astype(jnp.int32)})

  return guide


def mfm_gf(
  velocity: Velocity,
  interpolant: Interpolant,
  reward: Reward,
  cond: Cond = None,
  *,
  marginal: MarginalVelocity | None = None,
  **sampling,
) -> Guide:
  """`value.value_and_grad_gf`: 1 + N evaluations a step, no backward pass.

  Args:
    velocity, interpolant, reward, cond: see there.
    marginal: v_t(x) of the drift where it is not the velocity's own (MATH 2.3).
    sampling: fields of `value.Sampling`, draws >= 2.

  Raises:
    ValueError: what these refuse.
  """
  checks.at_least("draws", value.Sampling(**sampling).draws, 2)

  def estimate(key, noise, t, x):
    how = {"noise": noise, **sampling}
    found, gradient = value.value_and_grad_gf(key, velocity, interpolant, t, x, reward, cond, **how)
    return gradient, found._asdict()

  return _by_draws(estimate, velocity, marginal, cond)


def mfm_g(
  velocity: Velocity,
  reward: Reward,
  cond: Cond = None,
  *,
  marginal: MarginalVelocity | None = None,
  bound: Interpolant | None = None,
  **sampling,
) -> Guide:
  """`value.value_and_grad_g`: 1 + N evaluations and N backward passes a step.

  Arguments as `mfm_gf`, and `bound`, see there.
  """
  value.Sampling(**sampling)

  def estimate(key, noise, t, x):
    how = {"noise": noise, "bound": bound, **sampling}
    found, gradient = value.value_and_grad_g(key, velocity, t, x, reward, cond, **how)
    return gradient, found._asdict()

  return _by_draws(estimate, velocity, marginal, cond)


def hybrid(
  velocity: Velocity,
  interpolant: Interpolant,
  reward: Reward,
  cond: Cond = None,
  *,
  marginal: MarginalVelocity | None = None,
  weight: float | None = None,
  **sampling,
) -> Guide:
  """`value.value_and_grad_hybrid`, at the cost of `mfm_g`. Arguments as `mfm_gf`; finds "weight" too."""
  checks.at_least("draws", value.Sampling(**sampling).draws, 2)
  if weight is not None:
    checks.in_interval("weight", weight)

  def estimate(key, noise, t, x):
    how = {"noise": noise, "weight": weight, **sampling}
    found, gradient, share = value.value_and_grad_hybrid(
      key, velocity, interpolant, t, x, reward, cond, **how
    )
    return gradient, {**found._asdict(), "weight": share}

  return _by_draws(estimate, velocity, marginal, cond)


def on_interval(guide: Guide, marginal: MarginalVelocity, cond: Cond = None, *, low: float, high: float):
  """`guide` while low <= t <= high, the base model outside: a guide that there costs one evaluation.

  All states of a call have one time. What it finds outside is NaN, and 0 for counts.

  Raises:
    ValueError: not 0 <= low <= high <= 1.
  """
  checks.in_interval("low", low)
  checks.in_interval("high", high)
  checks.ordered("low", low, "high", high)

  def guided(source, t: Array, x: Array) -> Guided:
    like = jax.eval_shape(guide, source, t, x).found

    def base(source, t, x):
      missing = {
        name: jnp.full(leaf.shape, jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else 0, leaf.dtype)
        for name, leaf in like.items()
      }
      return Guided(marginal(t, x, cond), jnp.zeros_like(x), missing)

    return jax.lax.cond((low <= t[0]) & (t[0] <= high), guide, base, source, t, x)

  vars(guided)["partial"] = True
  return guided


def _by_draws(estimate, velocity: Velocity, marginal: MarginalVelocity | None, cond: Cond) -> Guide:
  """A guide from (key, noise, t, x) -> (gradient, found); its source is the one or the other."""
  marginal = flow_map.marginal_velocity(velocity) if marginal is None else marginal

  def guide(source, t: Array, x: Array) -> Guided:
    recorded = source is not None and not jnp.issubdtype(source.dtype, jax.dtypes.prng_key)
    gradient, found = estimate(*((None, source) if recorded else (source, None)), t, x)
    return Guided(marginal(t, x, cond), gradient, found)

  return guide


def renormalised(steering: Array, base: Array, how: str, limit: float = 1.0) -> Array:
  """The steering term (B, ...) with its norm tied to that of the base drift, per sample (MATH 6.7; Eq. 136).

  Args:
    steering: gain times gradient.
    base: the drift without steering.
    how: "none"; "rescale", to `limit` times the norm of `base`; "clip", to at most that. Both of the
      latter bias the samples: choose them before measuring.
    limit: positive.

  Raises:
    ValueError: an unknown `how`, limit <= 0.
  """
  checks.one_of("renormalise", how, RENORMALISATIONS)
  if not limit > 0:
    raise ValueError(f"limit must be positive; got {limit}")
  if how == "none":
    return steering
  factor = limit * _norm(base) / (_TINY + _norm(steering))
  return expand_like(jnp.minimum(factor, 1.0) if how == "clip" else factor, steering) * steering


def _norm(x: Array) -> Array:
  return jnp.sqrt((x.reshape(x.shape[0], -1) ** 2).sum(1))
