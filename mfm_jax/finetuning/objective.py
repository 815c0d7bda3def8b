"""The fine-tuning loss of MFM-FT (paper Eq. 43; MATH 7).

With Delta = v_ft - v_base the residual is v_ft - target = R Delta - (sigma^2/2) grad R. Its mean over draws
is e^V (Delta - (sigma^2/2) grad V): zero at v_base + (sigma^2/2) grad V, and without bias, since R and grad R
enter linearly. A positive factor of both leaves that alone, as long as it does not depend on the draw that it
multiplies: so exp(r) is never formed, but exp(r - shift). Weights beyond e^LOG_WEIGHT_MAX are cut, which is a
bias: of a rare draw with "auto", of all that matters with a number far below the rewards.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mfm_jax import checks, interpolants
from mfm_jax.finetuning.draws import FTDraws
from mfm_jax.interpolants import Interpolant
from mfm_jax.losses.weighting import squared_error
from mfm_jax.rewards.parts import largest_divisor
from mfm_jax.steering import sums, value
from mfm_jax.types import Array, Cond, Decode, MarginalVelocity, Reward, Velocity, expand_like

# Bound of r - shift: beyond it, e^12 times the usual weight, a draw would be all there is.
LOG_WEIGHT_MAX = 12.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FTObjective:
  """Settings of the loss.

  Attributes:
    shift: what is subtracted from the reward before exp: "auto" (`log_mean_of_others`), or a number.
    sigma_squared: a constant sigma^2; 0 for that of the interpolant (MATH 1.4). Only the latter's fixed point
      samples p_1 exp(r); a constant c has v_base + (c/2) grad V.
    chunk: posterior draws of a state that are held at a time; 0 for all. Bounds the memory.
  """

  shift: str = "auto"
  sigma_squared: float = 0.0
  chunk: int = 0

  def __post_init__(self):
    checks.at_least("loss.chunk", self.chunk, 0)
    checks.at_least("loss.sigma_squared", self.sigma_squared, 0)
    if self.shift != "auto":
      try:
        number = float(self.shift)
      except ValueError:
        number = float("nan")
      if not abs(number) < float("inf"):
        raise ValueError(f"loss.shift must be auto or a finite number; got {self.shift!r}")

  def __call__(
    self,
    marginal: MarginalVelocity,
    base: Velocity,
    interpolant: Interpolant,
    draws: FTDraws,
    reward: Reward,
    *,
    decode: Decode | None = None,
  ) -> tuple[Array, dict[str, Array]]:
    """The loss of every example, |v_ft - target|^2.

    Args:
      marginal: v_ft, of which alone there is a gradient.
      base: the frozen map: v_base, and its posterior draws.
      interpolant: of both.
      draws: one batch.
      reward: r on data space, differentiable, with its multiplier.
      decode: model space -> data space; None where they are the same.

    Returns:
      (loss (B,), terms (B,): "reward", the mean over an example's draws, "invalid", the share of draws that
      are left out because reward or gradient is not finite, "weight", R, and squares per coordinate of the
      parts of the target, "shift" for (R - 1) (v_ft - v_base), "steering" for (sigma^2/2) grad R). An example
      without a draw has R = 0 and no loss.
    """
    x_t = draws.state(interpolant)
    v_base = base(draws.t, draws.t, x_t, jnp.zeros_like(draws.t), jnp.zeros_like(x_t), draws.cond)
    v_ft = marginal(draws.t, x_t, draws.cond)
    weight, gradient, rewards = tilt_weight(
      base,
      draws.t,
      x_t,
      draws.e,
      reward,
      draws.cond,
      shift=self.shift,
      decode=decode,
      chunk=self.chunk,
    )
    half = interpolants.half_sigma_squared(interpolant, draws.t)
    if self.sigma_squared:
      half = jnp.full_like(half, 0.5 * self.sigma_squared)
    shift, steering = expand_like(weight - 1.0, x_t) * (v_ft - v_base), expand_like(half, x_t) * gradient
    # All of the target is frozen, the v_ft in it too (MATH 7.1).
    target = jax.lax.stop_gradient(v_base - shift + steering)
    size, zero = x_t[0].size, jnp.zeros_like(x_t)
    left_out = jnp.isnan(rewards)
    terms = {
      "reward": jnp.where(left_out, 0.0, rewards).sum(1) / jnp.maximum((~left_out).sum(1), 1),
      "invalid": left_out.mean(1),
      "weight": weight,
      "shift": squared_error(shift, zero) / size,
      "steering": squared_error(steering, zero) / size,
    }
    return squared_error(v_ft, target), jax.lax.stop_gradient(terms)


def tilt_weight(
  base: Velocity,
  t: Array,
  x_t: Array,
  e: Array,
  reward: Reward,
  cond: Cond = None,
  *,
  shift: str = "auto",
  decode: Decode | None = None,
  chunk: int = 0,
) -> tuple[Array, Array, Array]:
  """R and grad R in x_t, each a mean over the N draws of every state whose reward and gradient are finite.

  Args:
    base: the map; t, x_t, cond: (B,), (B, ...), leaves (B,).
    e: start noise (B, N, ...).
    shift, chunk: see `FTObjective`.

  Returns:
    R (B,), grad R (B, ...), rewards (B, N), NaN where a draw is left out; all frozen.

  Raises:
    ValueError: shift "auto" with a single draw of a single state.
  """
  sampling = value.Sampling(draws=e.shape[1], decode=decode)
  evaluate = value.evaluator(base, t, x_t, reward, cond, sampling)
  # All of this is frozen, so no graph of a chunk is kept.
  size = largest_divisor(e.shape[1], chunk or e.shape[1])
  if size == e.shape[1]:
    _, rewards, gradients = value.with_gradients(evaluate, e, x_t)
  else:
    parts = jnp.moveaxis(e.reshape(len(e), -1, size, *e.shape[2:]), 1, 0)
    found = jax.lax.map(lambda e: value.with_gradients(evaluate, e, x_t)[1:], parts)
    rewards, gradients = (jnp.moveaxis(part, 0, 1).reshape(*e.shape[:2], *part.shape[3:]) for part in found)
  valid = sums.sound(rewards)
  usable = jnp.where(valid, rewards, -jnp.inf)
  shifts = log_mean_of_others(usable) if shift == "auto" else float(shift)
  weights = jnp.exp(jnp.minimum(usable - shifts, LOG_WEIGHT_MAX))
  weights = jnp.where(usable > -jnp.inf, weights, 0.0)
  count = jnp.maximum(valid.sum(1), 1)
  gradient = (expand_like(weights, gradients) * gradients).sum(1) / expand_like(count, x_t)
  return jax.lax.stop_gradient((weights.sum(1) / count, gradient, jnp.where(valid, rewards, jnp.nan)))


def log_mean_of_others(rewards: Array) -> Array:
  """For each draw the log of the mean of exp(r) over draws other than itself, (B, N) -> (B, N).

  Half of the weight is on the other draws of the same state, which makes R of order 1 where V is large; half
  on the draws of the other states, so that states that the tilted law never visits do not count as much as
  those where it lives. With N = 1, or B = 1, one of the halves is all.

  Raises:
    ValueError: a single draw in all.
  """
  batch, n = rewards.shape
  checks.at_least("number of draws in a batch for loss.shift=auto", batch * n, 2)
  if n > 1:
    of_state = _log_sum_of_others(rewards.T).T - jnp.log(n - 1.0)
    if batch == 1:
      return of_state
  of_batch = _log_sum_of_others(jax.nn.logsumexp(rewards, axis=1)) - jnp.log((batch - 1.0) * n)
  of_batch = jnp.broadcast_to(of_batch[:, None], rewards.shape)
  return of_batch if n == 1 else jnp.logaddexp(of_state, of_batch) - jnp.log(2.0)


def _log_sum_of_others(values: Array) -> Array:
  """log of the sum of exp over the first axis without the entry itself; no sum is subtracted from another."""
  none = jnp.full_like(values[:1], -jnp.inf)
  before = jnp.concatenate([none, jax.lax.cumlogsumexp(values)[:-1]])
  after = jnp.concatenate([jax.lax.cumlogsumexp(values, reverse=True)[1:], none])
  return jnp.logaddexp(before, after)
