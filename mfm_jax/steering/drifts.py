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
  marginal: MarginalVelocity, grad_value: Callable[[Array, Array], Array], cond: Cond = None
) -> Guide:
  """A gradient (t_B, x) -> like x that is known, such as `oracles.grad_value`."""
  return lambda source, t, x: Guided(marginal(t, x, cond), grad_value(t, x), {})


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
  reward at the mean, and "invalid".
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
    invalid = (~jnp.isfinite(rewards)).astype(jnp.int32)
    return Guided(velocity, gradient, {"value": rewards, "invalid": invalid})

  return guide


def mfm_gf(
  velocity: Velocity,
  interpolant: Interpolant,
  reward: Reward,
  cond: Cond = None,
  *,
  draws: int,
  chunk: int | None = None,
  decode: Decode | None = None,
  jackknife: int = 1,
  marginal: MarginalVelocity | None = None,
) -> Guide:
  """`value.value_and_grad_gf` of `draws` posterior draws. 1 + N evaluations a step, no backward pass.

  `marginal` is v_t(x) of the drift where it is not the velocity's own (MATH 2.3).

  Raises:
    ValueError: draws < 2, chunk < 1.
  """
  checks.at_least("draws", draws, 2)
  options = {"draws": draws, "chunk": chunk, "decode": decode, "jackknife": jackknife}
  return _by_draws(value.value_and_grad_gf, (velocity, interpolant), reward, cond, marginal, options)


def mfm_g(
  velocity: Velocity,
  reward: Reward,
  cond: Cond = None,
  *,
  draws: int,
  chunk: int | None = None,
  decode: Decode | None = None,
  jackknife: int = 1,
  marginal: MarginalVelocity | None = None,
) -> Guide:
  """`value.value_and_grad_g` of `draws` posterior draws. 1 + N evaluations and N backward passes a step.

  `marginal` as `mfm_gf`.

  Raises:
    ValueError: draws or chunk < 1.
  """
  checks.at_least("draws", draws, 1)
  options = {"draws": draws, "chunk": chunk, "decode": decode, "jackknife": jackknife}
  return _by_draws(value.value_and_grad_g, (velocity,), reward, cond, marginal, options)


def _by_draws(estimator, model, reward, cond, marginal, options) -> Guide:
  if options["chunk"] is not None:
    checks.at_least("chunk", options["chunk"], 1)
  marginal = flow_map.marginal_velocity(model[0]) if marginal is None else marginal

  def guide(source, t: Array, x: Array) -> Guided:
    recorded = source is not None and not jnp.issubdtype(source.dtype, jax.dtypes.prng_key)
    key, noise = (None, source) if recorded else (source, None)
    estimate, gradient = estimator(key, *model, t, x, reward, cond, noise=noise, **options)
    return Guided(marginal(t, x, cond), gradient, estimate._asdict())

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
