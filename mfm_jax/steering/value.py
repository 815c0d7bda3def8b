"""Estimates of V_t(x) = log E[exp r(X_1) | X_t = x] and of its gradient (MATH 6.3-6.5, 11).

All of them stream over posterior draws in chunks with a running log-sum-exp (`sums`): memory is that of
batch x chunk evaluations, and with groups of one sum for each of them, whatever the number of draws. A key
gives the same draws whatever the chunk.

Both gradients are ratios of means over draws, whose bias falls like 1/N where their error falls like
N^-1/2. A steered path averages errors of its many steps and adds up their bias, so with few draws the bias is
what shows in the samples: `jackknife` groups take its first order away, at some more variance.

Draws whose reward is NaN or +inf are left out as if they had not been drawn, and counted.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks, flow_map
from mfm_jax.interpolants import CLIP, Interpolant
from mfm_jax.rewards.parts import largest_divisor
from mfm_jax.sampling import noise, posterior
from mfm_jax.steering import sums
from mfm_jax.types import Array, Cond, Decode, PRNGKey, Reward, Velocity, expand_like

VARIANCE_GROUPS = 8  # of the hybrid's weight, where the jackknife does not say


class Estimate(NamedTuple):
  """An estimate of V at each of B states; each (B,)."""

  value: Array  # logsumexp r - log N; biased low, by about standard_error^2 / 2
  standard_error: Array  # of the value, for independent draws, by the delta method; infinite for one
  ess: Array  # effective sample size of the softmax weights, 1 to N
  invalid: Array  # int32, draws left out: reward NaN or +inf or, for MFM-G, a gradient that is not finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """How the posterior draws of an estimate are made.

  Attributes:
    draws: N.
    chunk: draws per state that are held at a time; None for all. It need not divide N.
    scheme: joint law of a state's start noise, see `sampling.noise`; with a jackknife that of each group, and
      the groups are independent. "sobol" holds the noise of a group, batch x its draws x example, at once.
    decode: model space -> data space; None where they are the same.
    jackknife: number of groups of the bias correction of gradients, a divisor of draws; 1 is the paper's
      estimate.
    sharding: of rows of the flattened batch x chunk evaluations, to split the draws over a mesh; None leaves
      it to the compiler.

  Raises:
    ValueError: draws, chunk or jackknife < 1, jackknife that does not divide draws, an unknown scheme.
  """

  draws: int
  chunk: int | None = None
  scheme: str = "orthogonal"
  decode: Decode | None = None
  jackknife: int = 1
  sharding: jax.sharding.Sharding | None = None

  def __post_init__(self):
    checks.at_least("draws", self.draws, 1)
    if self.chunk is not None:
      checks.at_least("chunk", self.chunk, 1)
    checks.one_of("scheme", self.scheme, noise.SCHEMES)
    checks.at_least("jackknife", self.jackknife, 1)
    if self.draws % self.jackknife:
      raise ValueError(f"jackknife must divide draws; got jackknife={self.jackknife}, draws={self.draws}")


def estimate_value(
  key: PRNGKey | None,
  velocity: Velocity,
  t: Array,
  x_t: Array,
  reward: Reward,
  cond: Cond = None,
  *,
  noise: Array | None = None,
  **sampling,
) -> Estimate:
  """V ~ logsumexp_i r(x1_i) - log N, x1_i = X_{0,1}(e_i; t, x_t) (MATH 6.3). N evaluations a state.

  Args:
    key: typed key; None with `noise`.
    velocity: mean velocity with context.
    t, x_t: (B,) and (B, ...).
    reward: on data space, (B, ...) -> (B,).
    cond: conditioning of velocity and reward, leaves (B,).
    noise: e, (B, N, ...), in place of the key's draws.
    sampling: fields of `Sampling`, such as draws=16.

  Raises:
    ValueError: shapes that disagree; neither key nor noise; what `Sampling` refuses.
  """
  sampling = Sampling(**sampling)
  evaluate = evaluator(velocity, t, x_t, reward, cond, sampling)

  def consume(total, e):
    _, rewards = evaluate(e, x_t)
    return sums.update(total, rewards)[0], None

  return _finish(_over_groups(consume, sums.zeros(x_t), key, t, x_t, noise, sampling), sampling)


def value_and_grad_gf(
  key: PRNGKey | None,
  velocity: Velocity,
  interpolant: Interpolant,
  t: Array,
  x_t: Array,
  reward: Reward,
  cond: Cond = None,
  *,
  noise: Array | None = None,
  **sampling,
) -> tuple[Estimate, Array]:
  """V, and grad V by MFM-GF: without differentiating map or reward (paper Eq. 20; MATH 6.5).

  (6.5) divided by (1.4): (b' - a' b / a) / (sigma^2 / 2) = (w / a) / (a w / b) = b / a^2, so
      grad V ~ (b / a^2) ( sum_i softmax(r)_i x1_i - mean_i x1_i ),
  which is 0 at t = 0 and bounded until t = 1, where a is clipped from below by `CLIP`. The sample
  mean is a control variate: the exact posterior mean in its place would be worse (MATH 11).

  Args and errors as `estimate_value`, with
    interpolant: the one that the velocity was trained with.
    draws: at least 2 (a single one has no spread: the gradient would be zero).

  Returns:
    The estimate of V and a gradient (B, ...) like x_t, whose rms error falls like N^-1/2.
  """
  sampling = Sampling(**sampling)
  checks.at_least("draws", sampling.draws, 2)
  evaluate = evaluator(velocity, t, x_t, reward, cond, sampling)

  def consume(carry, e):
    return _add_gf(carry, *evaluate(e, x_t), x_t), None

  total, tilted, plain = _over_groups(consume, _start(x_t, 2), key, t, x_t, noise, sampling)
  gradient = sums.corrected(*_gf(total, tilted, plain, interpolant, t))
  return _finish(total, sampling), gradient.astype(x_t.dtype)


def value_and_grad_g(
  key: PRNGKey | None,
  velocity: Velocity,
  t: Array,
  x_t: Array,
  reward: Reward,
  cond: Cond = None,
  *,
  noise: Array | None = None,
  bound: Interpolant | None = None,
  **sampling,
) -> tuple[Estimate, Array]:
  """V, and MFM-G: its gradient in x_t through map, decode and reward (Eq. 22; MATH 6.4).

  The gradient of logsumexp r is sum_i softmax(r)_i grad r_i, so each chunk is differentiated on the spot and
  its graph forgotten: one evaluation and one backward pass a draw, the graphs of B x chunk draws alive.
  Unclipped it explodes with a sharp reward and few draws: judge it by its error (MATH 11).

  Args and errors as `estimate_value`, with
    bound: the interpolant that the velocity was trained with, to shorten gradients that no weights such as
      these can give (draws: at least 2). grad V is (b / a^2) times the shift of the posterior's mean when it
      is weighted by exp r (as `value_and_grad_gf`), and by Cauchy and Schwarz weights of mean 1 and mean
      square N / ess shift the mean of draws by at most
          sqrt(N / ess - 1) (mean_i |x1_i - mean x1|^2)^1/2.

  Returns:
    The estimate of V and its gradient (B, ...) like x_t, exact without a jackknife and a bound.
  """
  sampling = Sampling(**sampling)
  if bound is not None:
    checks.at_least("draws", sampling.draws, 2)
  evaluate = evaluator(velocity, t, x_t, reward, cond, sampling)

  def consume(carry, e):
    x1, rewards, gradients = with_gradients(evaluate, e, x_t)
    moments = _add_moments(carry[2:], x1, rewards, x_t)
    return (*_add_g(carry[:2], rewards, gradients), *moments), None

  carry = (*_start(x_t, 2), jnp.zeros(x_t.shape[:1], sums.reward_dtype(x_t)))
  total, weighted, *moments = _over_groups(consume, carry, key, t, x_t, noise, sampling)
  estimate = _finish(total, sampling)
  gradient = sums.corrected(*sums.weighted_means(weighted, total))
  if bound is not None:
    longest = _gain(bound, t) * _largest_shift(estimate, total, *moments)
    length = jnp.sqrt((gradient.reshape(len(x_t), -1) ** 2).sum(1))
    gradient = expand_like(jnp.minimum(1.0, longest / jnp.maximum(length, 1e-30)), x_t) * gradient
  return estimate, gradient.astype(x_t.dtype)


def value_and_grad_hybrid(
  key: PRNGKey | None,
  velocity: Velocity,
  interpolant: Interpolant,
  t: Array,
  x_t: Array,
  reward: Reward,
  cond: Cond = None,
  *,
  noise: Array | None = None,
  weight: float | None = None,
  **sampling,
) -> tuple[Estimate, Array, Array]:
  """V, and weight * MFM-G + (1 - weight) * MFM-GF from the same draws, at the cost of MFM-G (MATH 11).

  MFM-G is better late and for broad rewards, MFM-GF early and for sharp ones. The weight of least variance
  is, with F, G, C the variances and the covariance of the two,
      (F - C) / (F + G - 2 C)
  by the jackknife, averaged over the batch (one state's own draws say too little: with fewer than some 30
  states of one time give `weight`). The states of a batch thereby depend on each other a little. Without
  `jackknife` F, G and C are those of independent draws, which weigh the two well for other schemes too.

  Args and errors as `value_and_grad_gf`, with
    weight: of MFM-G, in [0, 1]; None for the one above, the same for the whole batch.

  Raises:
    ValueError: also times that differ where the weight is to be found.

  Returns:
    The estimate of V, a gradient (B, ...) like x_t and the weight, (B,).
  """
  sampling = Sampling(**sampling)
  checks.at_least("draws", sampling.draws, 2)
  if weight is not None:
    checks.in_interval("weight", weight)
  elif not isinstance(t, jax.core.Tracer) and np.ptp(np.asarray(t)) > 0:
    raise ValueError(f"t must be one time for all states where weight is None; got {t.min()} to {t.max()}")
  groups = sampling.jackknife
  if groups == 1:
    groups = largest_divisor(sampling.draws, VARIANCE_GROUPS)
    if groups == 1 and weight is None:
      groups = sampling.draws
  evaluate = evaluator(velocity, t, x_t, reward, cond, sampling)

  def consume(carry, e):
    gf, g = carry
    x1, rewards, gradients = with_gradients(evaluate, e, x_t)
    return (_add_gf(gf, x1, rewards, x_t), _add_g(g, rewards, gradients)), None

  carry = _start(x_t, 2), _start(x_t, 1)
  out = _over_groups(consume, carry, key, t, x_t, noise, sampling, groups)
  (total, tilted, plain), (_, weighted) = out
  gf, g = _gf(total, tilted, plain, interpolant, t), sums.weighted_means(weighted, total)
  share = _least_variance(gf[1], g[1]) if weight is None else weight
  both = [estimate[0] if sampling.jackknife == 1 else sums.corrected(*estimate) for estimate in (gf, g)]
  gradient = share * both[1] + (1.0 - share) * both[0]
  return _finish(total, sampling), gradient.astype(x_t.dtype), jnp.full(x_t.shape[:1], share)


def evaluator(
  velocity: Velocity, t: Array, x_t: Array, reward: Reward, cond: Cond, sampling: Sampling
) -> Callable[[Array, Array], tuple[Array, Array]]:
  """(e (B, n, ...), x) -> draws x1 (B, n, ...) and their rewards (B, n), in float32 at least.

  x is x_t (B, ...), or (B, n, ...) with one copy for each draw: what is to be differentiated. The draws are
  those of e, whatever their number in `sampling`. Raises a ValueError for rewards of another shape.
  """

  def evaluate(e: Array, x: Array) -> tuple[Array, Array]:
    batch, n = e.shape[:2]
    repeated = posterior.repeat((t, cond), n)
    states = posterior.repeat(x, n) if x.ndim < e.ndim else x.reshape(batch * n, *x.shape[2:])
    flat, states, (times, conds) = _constrain((e.reshape(states.shape), states, repeated), sampling.sharding)
    x1 = flow_map.posterior_map(velocity, flat, times, states, conds)
    rewards = reward(x1 if sampling.decode is None else sampling.decode(x1), conds)
    checks.shape("reward(x)", rewards, (batch * n,))
    # A draw that is not finite is left out and counted, also where its reward is -inf, a weight of 0.
    finite = jnp.isfinite(x1).reshape(batch * n, -1).all(1)
    rewards = jnp.where(finite, rewards, jnp.nan)
    return x1.reshape(e.shape), rewards.reshape(batch, n).astype(sums.reward_dtype(x_t))

  return evaluate


def with_gradients(evaluate, e: Array, x_t: Array) -> tuple[Array, Array, Array]:
  """x1, r and grad_{x_t} r of each draw, (B, n, ...); r is NaN where the gradient is not finite.

  A gradient for each draw, not their sum: a draw that is left out must not reach the others'.
  """
  copies = jnp.broadcast_to(x_t[:, None], e.shape)
  rewards, pull_back, x1 = jax.vjp(lambda x: evaluate(e, x)[::-1], copies, has_aux=True)
  (gradients,) = pull_back(jnp.ones_like(rewards))
  broken = ~jnp.isfinite(gradients).reshape(*rewards.shape, -1).all(-1)
  gradients = jnp.where(expand_like(broken, gradients), 0.0, gradients)
  return x1, jnp.where(broken & jnp.isfinite(rewards), jnp.nan, rewards), gradients


def _least_variance(left_gf: Array, left_g: Array) -> Array:
  """The weight of MFM-G, (), from both estimates with each group left out."""
  f, g, c = (
    sums.covariance(a, b).mean() for a, b in ((left_gf, left_gf), (left_g, left_g), (left_gf, left_g))
  )
  spread = f + g - 2.0 * c  # of their difference: 0 where they agree, and any weight is as good
  share = jnp.where(spread > 0, (f - c) / jnp.where(spread > 0, spread, 1.0), 0.5)
  return jnp.clip(jnp.where(jnp.isfinite(share), share, 0.0), 0.0, 1.0)


def _constrain(tree, sharding):
  return tree if sharding is None else jax.lax.with_sharding_constraint(tree, sharding)


def _start(x_t: Array, count: int) -> tuple:
  zero = jnp.zeros(x_t.shape, sums.reward_dtype(x_t))
  return (sums.zeros(x_t), *[zero] * count)


def _add_gf(carry: tuple, x1: Array, rewards: Array, x_t: Array) -> tuple:
  total, weighted, plain = carry
  total, weights, rescale = sums.update(total, rewards)
  # Measured from x_t: near t = 1 the draws lie within a of it, their two means differ by a^2.
  offset = jnp.where(expand_like(sums.sound(rewards), x1), x1 - x_t[:, None], 0.0)
  weighted = expand_like(rescale, x_t) * weighted + (expand_like(weights, offset) * offset).sum(1)
  return total, weighted, plain + offset.sum(1)


def _add_g(carry: tuple, rewards: Array, gradients: Array) -> tuple:
  total, weighted = carry
  total, weights, rescale = sums.update(total, rewards)
  return total, expand_like(rescale, weighted) * weighted + (expand_like(weights, gradients) * gradients).sum(
    1
  )


def _add_moments(carry: tuple, x1: Array, rewards: Array, x_t: Array) -> tuple:
  """Sums over the draws of x1 - x_t (B, ...) and of its square (B,)."""
  plain, square = carry
  offset = jnp.where(expand_like(sums.sound(rewards), x1), x1 - x_t[:, None], 0.0)
  return plain + offset.sum(1), square + (offset**2).reshape(len(x_t), -1).sum(1)


def _largest_shift(estimate: Estimate, groups: sums.Sums, plain: Array, square: Array) -> Array:
  """sqrt(N / ess - 1) times the standard deviation of the draws, (B,)."""
  count = jnp.maximum(groups.counted.sum(0), 1.0)
  mean = plain.sum(0) / expand_like(count, plain[0])
  variance = square.sum(0) / count - (mean**2).reshape(len(mean), -1).sum(1)
  spread = count / jnp.maximum(estimate.ess, 1.0) - 1.0
  # Of rewards that hardly differ it is lost to rounding, and must not make the bound 0.
  return jnp.sqrt(jnp.maximum(variance, 0.0) * jnp.maximum(spread, 1e-6 * count))


def _gain(interpolant: Interpolant, t: Array) -> Array:
  """b / a^2, grad V over the shift of the posterior's mean, (B,)."""
  return interpolant.b(t) / jnp.maximum(interpolant.a(t), CLIP) ** 2


def _gf(total: sums.Sums, weighted: Array, plain: Array, interpolant: Interpolant, t: Array):
  """MFM-GF of all groups (B, ...) and with each left out (G, B, ...)."""
  gain = expand_like(_gain(interpolant, t), weighted[0])
  pairs = zip(sums.weighted_means(weighted, total), sums.plain_means(plain, total), strict=True)
  # Rewards that are all -inf leave no weight, and no direction.
  gain = jnp.where(expand_like((total.first > 0).any(0), gain), gain, 0.0)
  whole, left_out = (tilted - mean for tilted, mean in pairs)
  return gain * whole, gain[None] * left_out


def _over_groups(consume, carry, key, t, x_t, recorded, sampling: Sampling, groups: int = 0):
  """`posterior.over_chunks` for each group of draws: their last carries, leaves (groups, B, ...).

  The groups are those of the jackknife, or `groups` of equal size.
  """
  groups = groups or sampling.jackknife
  by_scheme = recorded is None and key is not None and sampling.scheme != "independent"
  if by_scheme and groups == sampling.jackknife:

    def group_of(_, key):
      draws, scheme, chunk = sampling.draws // groups, sampling.scheme, sampling.chunk
      return None, posterior.over_blocks(consume, carry, key, x_t, draws=draws, scheme=scheme, chunk=chunk)

    return jax.lax.scan(group_of, None, jax.random.split(key, groups))[1]
  if by_scheme:  # groups that share blocks of draws
    recorded = noise.normals(key, x_t, draws=sampling.draws, scheme=sampling.scheme)
  source = posterior.noise_source(key, recorded, t, x_t, draws=sampling.draws)

  def group(_, source):
    return None, posterior.over_chunks(consume, carry, source, x_t, chunk=sampling.chunk)[0]

  return jax.lax.scan(group, None, source.reshape(groups, -1, *source.shape[1:]))[1]


def _finish(groups: sums.Sums, sampling: Sampling) -> Estimate:
  """The estimate of V from the sums of all groups."""
  peak, first, second, count, invalid = sums.totals(groups)
  value = peak + jnp.log(first) - jnp.log(jnp.maximum(count, 1.0))
  ess = first**2 / jnp.where(second > 0, second, 1.0)
  # Var[log mean w] ~ Var[w] / (N mean(w)^2) = (N / ess - 1) / (N - 1).
  relative = jnp.maximum(count / jnp.maximum(ess, 1.0) - 1.0, 0.0)
  error = jnp.where(count > 1, jnp.sqrt(relative / jnp.maximum(count - 1.0, 1.0)), jnp.inf)
  return Estimate(value, jax.lax.stop_gradient(error), jax.lax.stop_gradient(ess), invalid)
