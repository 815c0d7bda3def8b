"""Estimates of V_t(x) = log E[exp r(X_1) | X_t = x] and of its gradient (MATH 6.3-6.5).

All of them stream over posterior draws in chunks with a running log-sum-exp: memory is that of
batch x chunk draws whatever their number, and a key gives the same draws whatever the chunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.interpolants import CLIP, Interpolant
from mfm_jax.sampling import posterior
from mfm_jax.types import Array, Cond, PRNGKey, Reward, Velocity, expand_like


class Estimate(NamedTuple):
  """An estimate of V at each of B states; each (B,)."""

  value: Array  # logsumexp r - log N; biased low, by about standard_error^2 / 2
  standard_error: Array  # of the value, by the delta method; infinite for a single draw
  ess: Array  # effective sample size of the softmax weights, 1 to N


class _Sums(NamedTuple):
  """Running sums of w = exp(r - peak) over the draws seen so far; each (B,)."""

  peak: Array
  first: Array
  second: Array


def estimate_value(
  key: PRNGKey | None,
  velocity: Velocity,
  t: Array,
  x_t: Array,
  reward: Reward,
  cond: Cond = None,
  *,
  draws: int,
  chunk: int | None = None,
  noise: Array | None = None,
) -> Estimate:
  """V ~ logsumexp_i r(x1_i) - log N, x1_i = X_{0,1}(e_i; t, x_t) (MATH 6.3). N evaluations a state.

  Args:
    key: typed key; None with `noise`.
    velocity: mean velocity with context.
    t, x_t: (B,) and (B, ...).
    reward: (B, ...) -> (B,).
    cond: conditioning of velocity and reward, leaves (B,).
    draws: N.
    chunk: draws per state that are held at a time; None for all. It need not divide N.
    noise: e, (B, N, ...), in place of the key's draws.

  Raises:
    ValueError: draws or chunk < 1; shapes that disagree; neither key nor noise.
  """
  return _estimate(key, velocity, t, x_t, reward, cond, draws=draws, chunk=chunk, noise=noise, remat=False)


def grad_value_gf(
  key: PRNGKey | None,
  velocity: Velocity,
  interpolant: Interpolant,
  t: Array,
  x_t: Array,
  reward: Reward,
  cond: Cond = None,
  *,
  draws: int,
  chunk: int | None = None,
  noise: Array | None = None,
) -> Array:
  """MFM-GF: grad V without differentiating map or reward (paper Eq. 20; MATH 6.5).

  (6.5) divided by (1.4): (b' - a' b / a) / (sigma^2 / 2) = (w / a) / (a w / b) = b / a^2, so
      grad V ~ (b / a^2) ( sum_i softmax(r)_i x1_i - mean_i x1_i ),
  which is 0 at t = 0 and bounded until t = 1, where a is clipped from below by `CLIP`. The sample
  mean is a control variate: the exact posterior mean in its place would be worse (MATH 11).

  Args and errors as `estimate_value`, with
    interpolant: the one that the velocity was trained with.
    draws: at least 2 (a single draw has no spread: the estimate would be zero).

  Returns:
    (B, ...) like x_t; bias and rms error both fall with N, the latter like N^-1/2.
  """
  checks.at_least("draws", draws, 2)
  batch = x_t.shape[0]

  def consume(carry, e):
    sums, weighted, plain = carry
    x1, rewards = _draws_and_rewards(velocity, e, t, x_t, reward, cond)
    sums, weights, rescale = _update(sums, rewards)
    # Measured from x_t: near t = 1 the draws lie within a of it, their two means differ by a^2.
    offset = x1 - x_t[:, None]
    weighted = expand_like(rescale, x_t) * weighted + (expand_like(weights, offset) * offset).sum(1)
    return (sums, weighted, plain + offset.sum(1)), None

  dtype = _reward_dtype(x_t)
  zeros = jnp.zeros(x_t.shape, dtype)
  (sums, weighted, plain), _ = posterior.over_chunks(
    consume,
    (_zero_sums(batch, dtype), zeros, zeros),
    key,
    t,
    x_t,
    draws=draws,
    noise=noise,
    chunk=chunk,
  )
  mean = plain / draws
  # All rewards -inf leave no weight: no direction, instead of 0/0.
  some = sums.first > 0
  tilted = weighted / expand_like(jnp.where(some, sums.first, 1.0), x_t)
  gain = interpolant.b(t) / jnp.maximum(interpolant.a(t), CLIP) ** 2
  difference = jnp.where(expand_like(some, x_t), tilted - mean, 0.0)
  return (expand_like(gain, x_t) * difference).astype(x_t.dtype)


def grad_value_g(
  key: PRNGKey | None,
  velocity: Velocity,
  t: Array,
  x_t: Array,
  reward: Reward,
  cond: Cond = None,
  *,
  draws: int,
  chunk: int | None = None,
  noise: Array | None = None,
) -> Array:
  """MFM-G: the gradient of `estimate_value` in x_t through map and reward (Eq. 22; MATH 6.4).

  Each chunk is recomputed in the backward pass: the graphs of B x chunk draws are alive at a time.
  Unclipped it explodes with a sharp reward and few draws: judge it by its error (MATH 11).

  Args and errors as `estimate_value`.

  Returns:
    (B, ...) like x_t.
  """

  def total(x_t):
    return _estimate(
      key, velocity, t, x_t, reward, cond, draws=draws, chunk=chunk, noise=noise, remat=True
    ).value.sum()

  return jax.grad(total)(x_t)


def _estimate(key, velocity, t, x_t, reward, cond, *, draws, chunk, noise, remat) -> Estimate:
  def consume(sums, e):
    _, rewards = _draws_and_rewards(velocity, e, t, x_t, reward, cond)
    return _update(sums, rewards)[0], None

  sums, _ = posterior.over_chunks(
    consume,
    _zero_sums(x_t.shape[0], _reward_dtype(x_t)),
    key,
    t,
    x_t,
    draws=draws,
    noise=noise,
    chunk=chunk,
    remat=remat,
  )
  return _finish(sums, draws)


def _finish(sums: _Sums, draws: int) -> Estimate:
  value = sums.peak + jnp.log(sums.first) - jnp.log(float(draws))
  ess = sums.first**2 / jnp.where(sums.second > 0, sums.second, 1.0)
  # Var[log mean w] ~ Var[w] / (N mean(w)^2) = (N / ess - 1) / (N - 1).
  relative = jnp.maximum(draws / jnp.maximum(ess, 1.0) - 1.0, 0.0)
  error = jnp.sqrt(relative / (draws - 1)) if draws > 1 else jnp.full_like(ess, jnp.inf)
  return Estimate(value, jax.lax.stop_gradient(error), jax.lax.stop_gradient(ess))


def _draws_and_rewards(velocity, e, t, x_t, reward, cond) -> tuple[Array, Array]:
  """x1 (B, n, ...) and r(x1) (B, n), the latter in float32 at least."""
  x1 = posterior.map_draws(velocity, e, t, x_t, cond)
  batch, n = x1.shape[:2]
  rewards = reward(x1.reshape(batch * n, *x1.shape[2:]), posterior.repeat(cond, n))
  checks.shape("reward(x)", rewards, (batch * n,))
  return x1, rewards.reshape(batch, n).astype(_reward_dtype(x_t))


def _update(sums: _Sums, rewards: Array) -> tuple[_Sums, Array, Array]:
  """The sums with rewards (B, n) added; their weights; the factor of what was summed before."""
  # No gradient: the peak keeps exp in range and cancels from the value (MATH 6.3).
  peak = jax.lax.stop_gradient(jnp.maximum(sums.peak, rewards.max(1)))
  finite = jnp.where(jnp.isfinite(peak), peak, 0.0)  # all -inf so far: weights 0, not exp(nan)
  rescale = jnp.exp(sums.peak - finite)
  weights = jnp.exp(rewards - finite[:, None])
  first = rescale * sums.first + weights.sum(1)
  second = rescale**2 * sums.second + (weights**2).sum(1)
  return _Sums(peak, first, second), weights, rescale


def _zero_sums(batch: int, dtype) -> _Sums:
  zero = jnp.zeros(batch, dtype)
  return _Sums(jnp.full(batch, -jnp.inf, dtype), zero, zero)


def _reward_dtype(x: Array):
  return jnp.promote_types(x.dtype, jnp.float32)
