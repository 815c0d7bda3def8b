"""Best-of-N: the candidate of highest reward among N samples of the base model (MATH 6.10)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.types import Array, Cond, Decode, PRNGKey, Reward


def best_of_n(
  key: PRNGKey,
  sample: Callable[[PRNGKey], Array],
  reward: Reward,
  cond: Cond = None,
  *,
  n: int,
  decode: Decode | None = None,
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

  Returns:
    (B, ...) and {"reward": (B,), "invalid": int32 (n, B), 1 where a candidate's reward is NaN or infinite}.
    A candidate whose reward is NaN is never chosen over another.

  Raises:
    ValueError: n < 1, a reward of another shape.
  """
  checks.at_least("n", n, 1)
  keys = jax.random.split(key, n)
  like = jax.eval_shape(sample, jax.eval_shape(lambda: jax.random.key(0)))

  def better(carry, inputs):
    best, best_reward = carry
    first, key = inputs
    x = sample(key)
    rewards = reward(x if decode is None else decode(x), cond)
    checks.shape("reward(x)", rewards, x.shape[:1])
    take = first | (rewards > best_reward) | jnp.isnan(best_reward)
    best = jnp.where(take.reshape(take.shape + (1,) * (x.ndim - 1)), x, best)
    invalid = (~jnp.isfinite(rewards)).astype(jnp.int32)
    return (best, jnp.where(take, rewards, best_reward)), invalid

  start = jnp.zeros(like.shape, like.dtype), jnp.full(like.shape[:1], -jnp.inf)
  (x, rewards), invalid = jax.lax.scan(better, start, (jnp.arange(n) == 0, keys))
  return x, {"reward": rewards, "invalid": invalid}
