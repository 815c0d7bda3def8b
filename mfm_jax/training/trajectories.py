"""What steered samples were on their way: a few states, and their value by one estimate for all methods."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax.rewards import callback
from mfm_jax.steering import value
from mfm_jax.training.hoisted import compile_hoisted
from mfm_jax.training.steer_config import SteerConfig
from mfm_jax.training.steered import Outcome
from mfm_jax.training.subject import Subject
from mfm_jax.types import Reward

TIMES = 8  # of a path, first and last included
STATES = 3  # samples whose states are kept
SAMPLES, DRAWS = 48, 64  # samples whose value is estimated, and posterior draws of an estimate
PATH_BYTES = 1 << 28  # larger paths are not kept: they would be the largest thing in memory


def fits(subject: Subject, config: SteerConfig) -> bool:
  """Whether the paths of a method are small enough to be kept."""
  steps = max(len(config.times(method)) for method in config.methods)
  return 4 * config.num * steps * int(np.prod(subject.shape)) <= PATH_BYTES


class Recorder:
  """What is kept of the paths of methods: `recorder(method, outcome) -> arrays`.

  The arrays are `path_t` (T,), `path_x` (T, STATES, ...) in model space and, where the subject has posterior
  draws, `path_value` (T, n), V_t in nats by DRAWS draws; none for an outcome without path, such as that of
  Best-of-N, SMC and search.
  """

  def __init__(self, subject: Subject, reward: Reward, config: SteerConfig):
    self._subject, self._reward, self._config = subject, reward, config
    self._compiled: dict[tuple[int, ...], Any] = {}  # by shape: one program for most methods

  def __call__(self, method: str, outcome: Outcome) -> dict[str, np.ndarray]:
    """The arrays of a method."""
    if outcome.path is None:
      return {}
    at, times = shown_times(self._config, method)
    out = {"path_t": times, "path_x": outcome.path[at, :STATES]}
    if self._subject.draws is None:
      return out
    x = jnp.asarray(outcome.path[at, :SAMPLES])
    t = jnp.repeat(jnp.asarray(times, jnp.float32), x.shape[1])
    with callback.reported():
      flat = x.reshape(-1, *self._subject.shape)
      arguments = self._subject.params, jax.random.key(self._config.seed), t, flat
      if flat.shape not in self._compiled:
        self._compiled[flat.shape] = compile_hoisted(self._value, *arguments)
      found = self._compiled[flat.shape](*arguments)
    return {**out, "path_value": np.asarray(found).reshape(x.shape[:2])}

  def _value(self, params, key, t, x):
    subject = self._subject
    options: dict[str, Any] = {"draws": DRAWS, "chunk": 1, "decode": subject.decode}
    cond = subject.cond(len(t))
    return value.estimate_value(key, subject.velocity(params), t, x, self._reward, cond, **options).value


def shown_times(config: SteerConfig, method: str) -> tuple[np.ndarray, np.ndarray]:
  """Indices into the states of a method's path, and their times, from the first to the last."""
  grid = np.asarray(config.times(method))
  wanted = np.linspace(grid[0], grid[-1], TIMES)
  at = np.unique(np.abs(grid[None] - wanted[:, None]).argmin(1))
  return at, grid[at]
