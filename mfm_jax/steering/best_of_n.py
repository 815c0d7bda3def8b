"""Best-of-N: the candidate of highest reward among N samples of the base model (MATH 6.10)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.steering import sums
from mfm_jax.types import Array, Cond, Decode, PRNGKey, Reward, expand_like


class Best(NamedTuple):
  """The best of B groups of candidates, as far as these have been seen."""

  x: Array  # (B, ...)
  score: Array  # (B,), see `score`; -inf before the first candidate

  @property
  def reward(self) -> Array:
    """(B,), NaN where no candidate had a finite reward."""
    return jnp.where(self.score > jnp.finfo(self.score.dtype).min, self.score, jnp.nan)


def nothing(like: Array | jax.ShapeDtypeStruct, groups: int) -> Best:
  """Before the first candidate; of `like`, (any, ...), only shape and dtype matter."""
  dtype = jnp.promote_types(like.dtype, jnp.float32)
  return Best(jnp.zeros((groups, *like.shape[1:]), like.dtype), jnp.full(groups, -jnp.inf, dtype))


def better(best: Best, x: Array, score: Array) -> Best:
  """With a further candidate a group, x (B, ...) and score (B,). Of equal ones the first is kept."""
  take = score > best.score
  return Best(jnp.where(expand_like(take, x), x, best.x), jnp.where(take, score, best.score))


def score(rewards: Array) -> Array:
  """Rewards as they are compared: one that is NaN or infinite loses to every finite one, not to nothing."""
  return jnp.where(jnp.isfinite(rewards), rewards, jnp.finfo(rewards.dtype).min)


def best_of_n(
  key: PRNGKey,
  sample: Callable[[PRNGKey], Array],
  reward: Reward,
  cond: Cond = None,
  *,
  n: int,
  decode: Decode | None = None,
  milestones: Sequence[int] = (),
) -> tuple[Array, dict]:
  """B groups of N candidates, the best of each group. One group's candidate is alive at a time.

  Its law is not the tilt p_1 exp(r): it goes on towards the maximum of r as N grows.

  Args:
    key: typed key.
    sample: key -> (B, ...), B independent samples of the base model.
    reward: on data space, (B, ...) -> (B,); need not be differentiable.
    cond: of the reward, leaves (B,).
    n: N, candidates a group.
    decode: model space -> data space; None where they are the same.
    milestones: smaller N, whose winners are wanted too: the best of the first candidates of each group, from
      the same stream. One more sample a group is alive for each.

  Returns:
    (B, ...) and {"reward": (B,), "invalid": int32 (n, B), 1 where a candidate's reward is NaN or +inf},
    with milestones also {"milestones": {"x1": (len, B, ...), "reward": (len, B)}}. A candidate whose reward
    is not finite is never chosen over one whose reward is; where none is, the reward is NaN.

  Raises:
    ValueError: n < 1, a milestone outside [1, n], a reward of another shape.
  """
  checks.at_least("n", n, 1)
  checks.in_interval("milestones", list(milestones), 1, n)
  like = jax.eval_shape(sample, jax.eval_shape(lambda: jax.random.key(0)))
  batch, ends = like.shape[0], jnp.asarray(milestones, jnp.int32)

  def advance(carry, inputs):
    best, kept = carry
    i, key = inputs
    x = sample(key)
    rewards = reward(x if decode is None else decode(x), cond)
    checks.shape("reward(x)", rewards, (batch,))
    best = better(best, x, score(rewards.astype(best.score.dtype)))
    early = i < ends
    kept = jax.tree.map(lambda new, old: jnp.where(expand_like(early, old), new[None], old), best, kept)
    return (best, kept), (~sums.sound(rewards)).astype(jnp.int32)

  start = nothing(like, batch)
  kept = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(milestones), axis=0), start)
  inputs = jnp.arange(n), jax.random.split(key, n)
  (best, kept), invalid = jax.lax.scan(advance, (start, kept), inputs)
  info = {"reward": best.reward, "invalid": invalid}
  if milestones:
    info["milestones"] = {"x1": kept.x, "reward": kept.reward}
  return best.x, info


def best_of_pool(rewards: Array, n: int) -> Array:
  """The winners of disjoint groups of n consecutive samples of a pool, by index: (M,) -> int32 (M // n,).

  A sample whose reward is not finite is never chosen over one whose reward is. What is left over when n does
  not divide M competes in no group.

  Raises:
    ValueError: rewards that are no vector, n < 1, n > M.
  """
  checks.shape("rewards", rewards, (None,))
  checks.at_least("n", n, 1)
  if n > len(rewards):
    raise ValueError(f"n must be at most the size of the pool, {len(rewards)}; got {n}")
  groups = len(rewards) // n
  rewards = jnp.asarray(rewards, float)[: groups * n].reshape(groups, n)
  return score(rewards).argmax(1) + n * jnp.arange(groups)
