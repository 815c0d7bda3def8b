"""Estimates of V_t(x) = log E[exp r(X_1) | X_t = x] and of its gradient (MATH 6.3-6.5).

All of them stream over posterior draws in chunks with a running log-sum-exp: memory is that of
batch x chunk evaluations, and with a jackknife of one sum for each of its groups, whatever the number of
draws. A key gives the same draws whatever the chunk.

Both gradients are ratios of means over draws, whose bias falls like 1/N where their error falls like
N^-1/2. A steered path averages errors of its many steps and adds up their bias, so the bias is what shows in
the samples. With `jackknife` groups the draws are summed in groups, and the ratio with each group left out
takes the bias of order 1/N away (Quenouille, 1956), at no further evaluation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.interpolants import CLIP, Interpolant
from mfm_jax.sampling import posterior
from mfm_jax.types import Array, Cond, Decode, PRNGKey, Reward, Velocity, expand_like


class Estimate(NamedTuple):
  """An estimate of V at each of B states; each (B,)."""

  value: Array  # logsumexp r - log N; biased low, by about standard_error^2 / 2
  standard_error: Array  # of the value, by the delta method; infinite for a single draw
  ess: Array  # effective sample size of the softmax weights, 1 to N
  invalid: Array  # int32, number of draws whose reward is NaN or infinite


class _Sums(NamedTuple):
  """Running sums of w = exp(r - peak) over the draws seen so far; each (B,), later (groups, B)."""

  peak: Array
  first: Array
  second: Array
  invalid: Array


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
  decode: Decode | None = None,
) -> Estimate:
  """V ~ logsumexp_i r(x1_i) - log N, x1_i = X_{0,1}(e_i; t, x_t) (MATH 6.3). N evaluations a state.

  Args:
    key: typed key; None with `noise`.
    velocity: mean velocity with context.
    t, x_t: (B,) and (B, ...).
    reward: on data space, (B, ...) -> (B,).
    cond: conditioning of velocity and reward, leaves (B,).
    draws: N.
    chunk: draws per state that are held at a time; None for all. It need not divide N.
    noise: e, (B, N, ...), in place of the key's draws.
    decode: model space -> data space; None where they are the same.

  Raises:
    ValueError: draws or chunk < 1; shapes that disagree; neither key nor noise.
  """
  sample = _sampler(velocity, t, x_t, reward, cond, decode)

  def consume(sums, e):
    return _update(sums, sample(e, x_t)[1])[0], None

  sums = _over_groups(consume, _zero_sums(x_t), key, t, x_t, noise=noise, draws=draws, chunk=chunk)
  return _finish(sums, draws)


def value_and_grad_gf(
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
  decode: Decode | None = None,
  jackknife: int = 1,
) -> tuple[Estimate, Array]:
  """V, and grad V by MFM-GF: without differentiating map or reward (paper Eq. 20; MATH 6.5).

  (6.5) divided by (1.4): (b' - a' b / a) / (sigma^2 / 2) = (w / a) / (a w / b) = b / a^2, so
      grad V ~ (b / a^2) ( sum_i softmax(r)_i x1_i - mean_i x1_i ),
  which is 0 at t = 0 and bounded until t = 1, where a is clipped from below by `CLIP`. The sample
  mean is a control variate: the exact posterior mean in its place would be worse (MATH 11).

  Args and errors as `estimate_value`, with
    interpolant: the one that the velocity was trained with.
    draws: at least 2 (a single draw has no spread: the gradient would be zero).
    jackknife: number of groups of the bias correction, a divisor of draws; 1 is the formula above.

  Returns:
    The estimate of V and a gradient (B, ...) like x_t, whose rms error falls like N^-1/2.
  """
  checks.at_least("draws", draws, 2)
  sample = _sampler(velocity, t, x_t, reward, cond, decode)

  def consume(carry, e):
    sums, weighted, plain = carry
    x1, rewards = sample(e, x_t)
    sums, weights, rescale = _update(sums, rewards)
    # Measured from x_t: near t = 1 the draws lie within a of it, their two means differ by a^2.
    offset = x1 - x_t[:, None]
    weighted = expand_like(rescale, x_t) * weighted + (expand_like(weights, offset) * offset).sum(1)
    return (sums, weighted, plain + offset.sum(1)), None

  zeros = _zeros_like(x_t)
  options = {"noise": noise, "draws": draws, "chunk": chunk, "groups": jackknife}
  carry = (_zero_sums(x_t), zeros, zeros)
  sums, weighted, plain = _over_groups(consume, carry, key, t, x_t, **options)
  # All rewards -inf leave no weight, and no direction.
  some = expand_like((sums.first > 0).any(0), x_t)
  difference = jnp.where(some, _weighted_mean(weighted, sums) - plain.sum(0) / draws, 0.0)
  gain = interpolant.b(t) / jnp.maximum(interpolant.a(t), CLIP) ** 2
  return _finish(sums, draws), (expand_like(gain, x_t) * difference).astype(x_t.dtype)


def value_and_grad_g(
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
  decode: Decode | None = None,
  jackknife: int = 1,
) -> tuple[Estimate, Array]:
  """V, and MFM-G: its gradient in x_t through map, decode and reward (Eq. 22; MATH 6.4).

  The gradient of logsumexp r is sum_i softmax(r)_i grad r_i, so each chunk is differentiated on the spot and
  its graph forgotten: one evaluation and one backward pass a draw, the graphs of B x chunk draws alive.
  Unclipped it explodes with a sharp reward and few draws: judge it by its error (MATH 11).

  Args and errors as `estimate_value`, with `jackknife` as `value_and_grad_gf`.

  Returns:
    The estimate of V and its gradient (B, ...) like x_t, exact for jackknife = 1.
  """
  sample = _sampler(velocity, t, x_t, reward, cond, decode)

  def consume(carry, e):
    sums, weighted = carry
    rewards, pull_back = jax.vjp(lambda x_t: sample(e, x_t)[1], x_t)
    sums, weights, rescale = _update(sums, rewards)
    (gradient,) = pull_back(weights)
    return (sums, expand_like(rescale, x_t) * weighted + gradient), None

  options = {"noise": noise, "draws": draws, "chunk": chunk, "groups": jackknife}
  carry = (_zero_sums(x_t), _zeros_like(x_t))
  sums, weighted = _over_groups(consume, carry, key, t, x_t, **options)
  return _finish(sums, draws), _weighted_mean(weighted, sums).astype(x_t.dtype)


def _sampler(velocity, t, x_t, reward, cond, decode):
  """(e, x_t) -> x1 (B, n, ...) and r(x1) (B, n), the latter in float32 at least."""

  def sample(e: Array, x_t: Array) -> tuple[Array, Array]:
    x1 = posterior.map_draws(velocity, e, t, x_t, cond)
    batch, n = x1.shape[:2]
    flat = x1.reshape(batch * n, *x1.shape[2:])
    data = flat if decode is None else decode(flat)
    rewards = reward(data, posterior.repeat(cond, n))
    checks.shape("reward(x)", rewards, (batch * n,))
    return x1, rewards.reshape(batch, n).astype(_reward_dtype(x_t))

  return sample


def _update(sums: _Sums, rewards: Array) -> tuple[_Sums, Array, Array]:
  """The sums with rewards (B, n) added; their weights; the factor of what was summed before."""
  # No gradient: the peak keeps exp in range and cancels from the value (MATH 6.3).
  peak = jax.lax.stop_gradient(jnp.maximum(sums.peak, rewards.max(1)))
  finite = jnp.where(jnp.isfinite(peak), peak, 0.0)  # all -inf so far: weights 0, not exp(nan)
  rescale = jnp.exp(sums.peak - finite)
  weights = jnp.exp(rewards - finite[:, None])
  first = rescale * sums.first + weights.sum(1)
  second = rescale**2 * sums.second + (weights**2).sum(1)
  invalid = sums.invalid + (~jnp.isfinite(rewards)).sum(1, dtype=jnp.int32)
  return _Sums(peak, first, second, invalid), weights, rescale


def _over_groups(consume, carry, key, t, x_t, *, noise, draws, chunk, groups=1):
  """`posterior.over_chunks` for each of `groups` equal groups of draws: last carries, (groups, B, ...)."""
  source = posterior.noise_source(key, noise, t, x_t, draws=draws)
  checks.at_least("jackknife", groups, 1)
  if draws % groups:
    raise ValueError(f"jackknife must divide draws; got jackknife={groups}, draws={draws}")

  def group(_, source):
    return None, posterior.over_chunks(consume, carry, source, x_t, chunk=chunk)[0]

  return jax.lax.scan(group, None, source.reshape(groups, draws // groups, *source.shape[1:]))[1]


def _finish(sums: _Sums, draws: int) -> Estimate:
  """The estimate of V from the sums of all groups."""
  peak = jax.lax.stop_gradient(sums.peak.max(0))
  rescale = jnp.exp(sums.peak - jnp.where(jnp.isfinite(peak), peak, 0.0)[None])
  first, second = (rescale * sums.first).sum(0), (rescale**2 * sums.second).sum(0)
  value = peak + jnp.log(first) - jnp.log(float(draws))
  ess = first**2 / jnp.where(second > 0, second, 1.0)
  # Var[log mean w] ~ Var[w] / (N mean(w)^2) = (N / ess - 1) / (N - 1).
  relative = jnp.maximum(draws / jnp.maximum(ess, 1.0) - 1.0, 0.0)
  error = jnp.sqrt(relative / (draws - 1)) if draws > 1 else jnp.full_like(ess, jnp.inf)
  return Estimate(value, jax.lax.stop_gradient(error), jax.lax.stop_gradient(ess), sums.invalid.sum(0))


def _weighted_mean(weighted: Array, sums: _Sums) -> Array:
  """sum w x / sum w from the sums of the groups (G, B, ...), bias-corrected by the jackknife for G > 1.

  With m_g the mean of group g and W_g its weight, the whole mean is sum_g softmax(log W)_g m_g, and so is
  each one with a group left out. The correction G whole - (G - 1) mean(left out) is then a sum of the m_g
  with coefficients that sum to 1: nothing is subtracted from a sum, and one dominant group is no trouble.
  """
  groups = len(weighted)
  log_weight = sums.peak + jnp.log(sums.first)
  coefficients = _shares(log_weight)
  if groups > 1:
    out = jnp.eye(groups, dtype=bool)[..., None]
    left_out = _shares(jnp.where(out, -jnp.inf, log_weight[None]), axis=1)
    # Where all weight lies in the group that is left out, there is nothing to learn from the others.
    left_out = jnp.where(left_out.sum(1, keepdims=True) > 0, left_out, coefficients[None])
    coefficients = groups * coefficients - (groups - 1.0) * left_out.mean(0)
  means = weighted / expand_like(jnp.where(sums.first > 0, sums.first, 1.0), weighted)
  return (expand_like(coefficients, means) * means).sum(0)


def _shares(log_weight: Array, axis: int = 0) -> Array:
  """Softmax over the groups; 0 where no group has weight."""
  peak = log_weight.max(axis, keepdims=True)
  weight = jnp.exp(log_weight - jnp.where(jnp.isfinite(peak), peak, 0.0))
  total = weight.sum(axis, keepdims=True)
  return weight / jnp.where(total > 0, total, 1.0)


def _zero_sums(x_t: Array) -> _Sums:
  batch, dtype = x_t.shape[0], _reward_dtype(x_t)
  zero = jnp.zeros(batch, dtype)
  return _Sums(jnp.full(batch, -jnp.inf, dtype), zero, zero, jnp.zeros(batch, jnp.int32))


def _zeros_like(x_t: Array) -> Array:
  return jnp.zeros(x_t.shape, _reward_dtype(x_t))


def _reward_dtype(x: Array):
  return jnp.promote_types(x.dtype, jnp.float32)
