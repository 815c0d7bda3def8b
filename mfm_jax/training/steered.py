"""A method that steers a subject to a reward: compiled once, called for each seed."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.rewards import callback
from mfm_jax.steering import drifts, sums
from mfm_jax.steering.best_of_n import best_of_n
from mfm_jax.steering.search import search
from mfm_jax.steering.smc import smc
from mfm_jax.steering.steer import steer
from mfm_jax.training import hoisted, sharding
from mfm_jax.training.steer_config import MethodConfig, SteerConfig
from mfm_jax.training.subject import BY_DRAWS, Subject
from mfm_jax.types import Array, PRNGKey, PyTree, Reward

INVALID_LIMIT = 0.01  # share of rewards that may be left out because they are NaN or +inf


class NotFiniteError(ValueError):
  """More rewards than INVALID_LIMIT, or a sample, that are NaN or infinite."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
  """What one method gave for one seed."""

  x1: np.ndarray  # (num, ...), model space
  reward: np.ndarray  # (num,), NaN where it is NaN or +inf
  found: dict[str, np.ndarray]  # what the guide found at each step, leaves (K, num)
  path: np.ndarray | None  # (K + 1, num, ...)
  # SMC, (populations,): "log_z", log of the estimate of E[exp r]; "share", least effective share of the
  # particles at any time; "resampled", how often.
  populations: dict[str, np.ndarray] | None
  milestones: dict[int, tuple[np.ndarray, np.ndarray]]  # Best-of-N: smaller N -> its x1 and reward
  invalid: int  # rewards that were left out because they are not finite
  seconds: float  # without compilation
  judged: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # scores (num,) of other rewards

  @property
  def mean_reward(self) -> float:
    """Over the samples whose reward is a number; -inf where one is impossible."""
    return float(np.nanmean(self.reward))


class Method:
  """One method on one subject: `method(key, scale) -> Outcome`.

  The same key gives all methods the same starting noise, but for Best-of-N, whose candidates have their own.

  Args:
    subject, reward: what is steered to what.
    config: settings of the method and of the sampler.
    name: of `cost.METHODS`.
    num: samples a call.
    keep: also keep every state (of methods that steer).
    milestones: of Best-of-N, smaller N that are wanted too.
  """

  def __init__(
    self,
    subject: Subject,
    reward: Reward,
    config: SteerConfig,
    name: str,
    *,
    num: int,
    keep: bool = False,
    milestones: Sequence[int] = (),
  ):
    checks.at_least("num", num, 1)
    self.name, self.num = name, num
    self.settings = config.settings(name)
    self._config, self._subject, self._reward = config, subject, reward
    self._milestones = tuple(milestones)
    rows = config.rows or num
    self._batch = min(num, rows)
    if name == "search":
      self._batch = max(rows // config.search.particles, 1)
    elif name == "smc":
      self._batch = config.smc.particles * max(self._batch // config.smc.particles, 1)
    self._batch = min(self._batch, num)
    particles = config.search.particles if name == "search" else 1
    self._chunk = max(rows // (self._batch * particles), 1)
    start = time.monotonic()
    others: dict[str, Callable] = {"best_of_n": self._best_of_n, "smc": self._smc, "search": self._search}
    sample = others.get(name, self._steer)
    compiled = functools.partial(sample, keep=keep) if name not in ("best_of_n", "smc", "search") else sample
    self._compiled = hoisted.compile_hoisted(compiled, subject.params, jax.random.key(0), jnp.float32(1))
    self.seconds_compile = time.monotonic() - start

  def __call__(self, key: PRNGKey, scale: float = 1.0) -> Outcome:
    """The method's samples. Rewards that are left out are reported with the first sample.

    Raises:
      NotFiniteError: more than INVALID_LIMIT of the rewards, or a sample, that are not finite.
    """
    start, parts = time.monotonic(), []
    with callback.reported():
      for i in range(-(-self.num // self._batch)):
        # Even numbers; the odd ones are for whoever else needs randomness of this key (`comparison`).
        part = self._compiled(self._subject.params, jax.random.fold_in(key, 2 * i), jnp.float32(scale))
        parts.append(self._cut(jax.device_get(part), self.num - i * self._batch))
    seconds = time.monotonic() - start

    def join(name: str, axis: int):
      if name not in parts[0]:
        return None
      return jax.tree.map(lambda *arrays: np.concatenate(arrays, axis), *[part[name] for part in parts])

    early = join("milestones", 1) or {"x1": (), "reward": ()}
    milestones = zip(self._milestones, early["x1"], early["reward"], strict=True)
    outcome = Outcome(
      x1=join("x1", 0),
      reward=join("reward", 0),
      found=join("found", 1),
      path=join("path", 1),
      populations=join("populations", 0),
      milestones={n: (x1, reward) for n, x1, reward in milestones},
      invalid=0,
      seconds=seconds,
    )
    invalid = self._check(outcome, join("lost", 0))
    sound = np.where(sums.sound(outcome.reward), outcome.reward, np.nan)
    return dataclasses.replace(outcome, reward=sound, invalid=invalid)

  def _guide(self, params: PyTree, name: str, settings: MethodConfig) -> drifts.Guide:
    """The guide of a method, or of SMC's twist."""
    subject, reward = self._subject, self._reward
    cond, interpolant, marginal = subject.cond(self._batch), subject.interpolant, subject.marginal(params)
    options: dict[str, Any] = {"marginal": marginal, "decode": subject.decode}
    if name in BY_DRAWS:
      options |= {"draws": settings.draws, "jackknife": settings.groups, "scheme": settings.scheme}
      options |= {"chunk": self._chunk, "sharding": sharding.of_rows(self._batch * self._chunk)}
    if name == "dps":
      guide = drifts.dps(marginal, interpolant, reward, cond, decode=subject.decode)
    elif name == "mfm_gf":
      guide = drifts.mfm_gf(subject.velocity(params), interpolant, reward, cond, **options)
    elif name == "mfm_g":
      bound = interpolant if settings.bounded else None
      guide = drifts.mfm_g(
        subject.velocity(params, differentiable=True), reward, cond, bound=bound, **options
      )
    elif name == "hybrid":
      weight = None if settings.weight < 0 else settings.weight
      velocity = subject.velocity(params, differentiable=True)
      guide = drifts.hybrid(velocity, interpolant, reward, cond, weight=weight, **options)
    else:
      return drifts.unguided(marginal, cond)
    if settings.interval == (0.0, 1.0):
      return guide
    low, high = settings.interval
    return drifts.on_interval(guide, marginal, cond, low=low, high=high)

  def _steer(self, params: PyTree, key: PRNGKey, scale: Array, keep: bool = False) -> dict[str, Any]:
    key_start, key_path = jax.random.split(key)
    x = self._noise(key_start, self._batch)
    guide = self._guide(params, self.name, self.settings)
    x, info = steer(
      key_path,
      x,
      self._config.times(self.name),
      guide,
      self._subject.interpolant,
      sampler=self._config.sampler,
      scale=scale,
      keep=keep,
      renormalise=self.settings.renormalise,
      limit=self.settings.limit,
    )
    out = {"x1": x, "reward": self._rewards(x), "found": info["aux"]}
    return {**out, "path": info["path"]} if keep else out

  def _best_of_n(self, params: PyTree, key: PRNGKey, scale: Array) -> dict[str, Any]:
    x, info = best_of_n(
      key,
      lambda key: self._steer(params, key, scale)["x1"],
      self._reward,
      self._subject.cond(self._batch),
      n=self.settings.draws,
      decode=self._subject.decode,
      milestones=self._milestones,
    )
    out = {"x1": x, "reward": info["reward"], "found": {"invalid": info["invalid"]}}
    return {**out, "milestones": info["milestones"]} if self._milestones else out

  def _smc(self, params: PyTree, key: PRNGKey, scale: Array) -> dict[str, Any]:
    config, subject = self._config, self._subject
    key_start, key_path = jax.random.split(key)
    x, info = smc(
      key_path,
      self._noise(key_start, self._batch),
      config.times(self.name),
      self._guide(params, config.smc.twist, self.settings),
      subject.interpolant,
      self._reward,
      subject.cond(self._batch),
      particles=config.smc.particles,
      threshold=config.smc.threshold,
      potential=config.smc.potential,
      scale=scale,
      renormalise=self.settings.renormalise,
      limit=self.settings.limit,
      decode=subject.decode,
    )
    share = info["ess"].min(0) / config.smc.particles
    populations = {"log_z": info["log_z"], "share": share, "resampled": info["resampled"][:-1].sum(0)}
    return {
      "x1": x,
      "reward": self._rewards(x),
      "found": info["aux"],
      "lost": info["invalid"][-1],  # at the end, before the resampling that drops them
      "populations": populations,
    }

  def _search(self, params: PyTree, key: PRNGKey, scale: Array) -> dict[str, Any]:
    del scale
    own, subject = self._config.search, self._subject
    key_start, key_path = jax.random.split(key)
    rows = self._batch * own.particles
    x, info = search(
      key_path,
      self._noise(key_start, rows),
      self._config.times(self.name),
      subject.velocity(params),
      subject.interpolant,
      self._reward,
      subject.cond(rows),
      particles=own.particles,
      draws=self.settings.draws,
      selection=own.selection,
      transition=own.transition,
      decode=subject.decode,
      chunk=self._chunk,
    )
    invalid = info["invalid"].reshape(len(info["invalid"]), self._batch, own.particles).sum(2)
    return {"x1": x, "reward": info["reward"], "found": {"invalid": invalid}}

  def _noise(self, key: PRNGKey, rows: int) -> Array:
    return jax.random.normal(key, (rows, *self._subject.shape))

  def _rewards(self, x: Array) -> Array:
    decode = self._subject.decode
    return self._reward(x if decode is None else decode(x), self._subject.cond(self._batch))

  def _cut(self, part: dict[str, Any], n: int) -> dict[str, Any]:
    """The first n samples of a block."""
    axes = {"x1": 0, "reward": 0, "lost": 0, "found": 1, "path": 1, "milestones": 1}
    return {
      name: jax.tree.map(lambda array, axis=axes[name]: array[(slice(None),) * axis + (slice(n),)], leaf)
      if name in axes
      else leaf
      for name, leaf in part.items()
    }

  def _check(self, outcome: Outcome, lost: np.ndarray | None) -> int:
    """How many rewards were left out; raises for too many of them, or for a sample that is not finite.

    `lost` (num,) marks those of the end that are not among the outcome's.
    """
    for i in np.flatnonzero(~np.isfinite(outcome.x1).reshape(self.num, -1).all(1)):
      got = outcome.x1[i].ravel()[:4]
      raise NotFiniteError(f"a steered sample must be finite; got {got} for sample {i} of {self.name}")
    found = outcome.found.get("invalid")
    found = np.zeros((0, self.num), np.int32) if found is None else found  # a count for each step and sample
    invalid = self._left_out(found, self._calls, "candidate {}" if self.name == "best_of_n" else "step {}")
    lost = np.zeros(self.num, bool) if lost is None else lost > 0
    return invalid + self._left_out((lost | ~np.asarray(sums.sound(outcome.reward)))[None], 1, "the end")

  def _left_out(self, invalid: np.ndarray, calls: int, where: str) -> int:
    """The sum of `invalid` (K, num), of so many calls each; says so, or raises, with the first of them."""
    count, total = int(invalid.sum()), invalid.size * calls
    if not count:
      return 0
    step, sample = np.argwhere(invalid)[0]
    got = f"{count} of {total}, the first for sample {sample} of {self.name} at {where.format(step)}"
    if count > INVALID_LIMIT * total:
      raise NotFiniteError(
        f"at most {INVALID_LIMIT:.0%} of the rewards may be NaN or infinite; got {got} (if the reward is "
        "sound, the sample has diverged before)"
      )
    print(f"rewards that are NaN or infinite are left out: {got}", flush=True)
    return count

  @property
  def _calls(self) -> int:
    """Rewards a step and sample."""
    if self.name == "search":
      return self.settings.draws * self._config.search.particles
    return 1 if self.name == "best_of_n" else max(self.settings.draws, 1)
