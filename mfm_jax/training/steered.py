"""Steering a trained run, or the closed forms of a mixture: a method, compiled once, called for each seed."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks, interpolants, oracles, times
from mfm_jax.interpolants import Interpolant
from mfm_jax.steering import drifts
from mfm_jax.steering.best_of_n import best_of_n
from mfm_jax.steering.steer import steer
from mfm_jax.training.classifier import decode_for
from mfm_jax.training.run import Run
from mfm_jax.training.steer_config import SteerConfig
from mfm_jax.types import Array, Cond, Decode, MarginalVelocity, PRNGKey, PyTree, Reward, Velocity

BY_DRAWS = ("mfm_gf", "mfm_g")  # methods that need one-step posterior draws


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
  """What is steered.

  Attributes:
    shape: of one sample in model space.
    interpolant: its own.
    decode: model space -> data space, None where they are the same.
    cond: n -> conditioning of velocity and reward.
    params: argument of the following three, so that compiled programs hold no constants.
    marginal: v_t(x).
    draws: posterior draws, for MFM-GF; None for a marginal-only run.
    differentiable: the same, differentiable in x_t, for MFM-G.
    run: the trained run, None for closed forms.
    mixture: the law of samples without steering, where it is known.
  """

  shape: tuple[int, ...]
  interpolant: Interpolant
  decode: Decode | None
  cond: Callable[[int], Cond]
  params: PyTree
  marginal: Callable[[PyTree], MarginalVelocity]
  draws: Callable[[PyTree], Velocity] | None
  differentiable: Callable[[PyTree], Velocity] | None
  run: Run | None
  mixture: oracles.GaussianMixture | None


def from_run(run: Run, *, label: int = -1, guidance: float | None = None) -> Subject:
  """A trained run, under one label (-1: the null label) and a trained guidance scale.

  Raises:
    ValueError: a label or scale that the run was not trained with.
  """
  if label >= 0 or guidance is not None:
    run.cond(None if label < 0 else np.full(1, label), guidance, 1)

  def cond(n: int) -> Cond:
    return run.cond(None if label < 0 else np.full(n, label), guidance, n)

  velocity = run.parts.model.velocity if run.config.is_map else None
  # Under a label, or a guidance scale, the law of the samples is not the mixture.
  whole = label in (-1, run.info.num_classes) and guidance in (None, 1.0)
  known = whole and run.config.data.name == "mixture"
  return Subject(
    shape=run.info.shape,
    interpolant=run.interpolant,
    decode=decode_for(run.info),
    cond=cond,
    params=run.params,
    marginal=run.marginal_of,
    draws=velocity,
    differentiable=velocity,
    run=run,
    mixture=run.config.mixture.build() if known else None,
  )


def from_oracle(config: SteerConfig) -> Subject:
  """The closed forms of config.mixture under config.interpolant."""
  mixture, interpolant = config.mixture.build(), interpolants.get(config.interpolant)
  return Subject(
    shape=(mixture.means.shape[1],),
    interpolant=interpolant,
    decode=None,
    cond=lambda n: None,
    params=(),
    marginal=lambda params: oracles.as_marginal(mixture, interpolant),
    draws=lambda params: oracles.as_sampler(mixture, interpolant),
    differentiable=lambda params: oracles.as_velocity(mixture, interpolant),
    run=None,
    mixture=mixture,
  )


def check(subject: Subject, reward: Reward, methods: tuple[str, ...]) -> None:
  """What can be known before anything is computed.

  Raises:
    ValueError: a method that needs posterior draws for a marginal-only run; a reward that does not give one
      floating-point number a sample.
  """
  wanting = [method for method in methods if method in BY_DRAWS]
  if wanting and subject.draws is None:
    raise ValueError(
      f"methods {' and '.join(wanting)} need a run trained as a map (loss.consistency other than none), for "
      f"one-step posterior draws; got the marginal-only run {subject.run.workdir}"
    )
  n = 3  # unlike most sizes of samples, so that a reward of one number in all is seen

  def rewards(x):
    return reward(x if subject.decode is None else subject.decode(x), subject.cond(n))

  found = jax.eval_shape(rewards, jax.ShapeDtypeStruct((n, *subject.shape), jnp.float32))
  if getattr(found, "shape", None) != (n,) or not jnp.issubdtype(found.dtype, jnp.floating):
    raise ValueError(
      f"a reward must give one real number a sample, shape ({n},) for {n} samples; got {found}"
    )


class NotFiniteError(ValueError):
  """A reward or a sample that is NaN or infinite."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
  """What one method gave for one seed."""

  x1: np.ndarray  # (num, ...), model space
  reward: np.ndarray  # (num,)
  found: dict[str, np.ndarray]  # what the guide found at each step, leaves (K, num)
  path: np.ndarray | None  # (K + 1, num, ...)
  seconds: float  # without compilation


def time_grid(config: SteerConfig) -> Array:
  """The K + 1 times of every method."""
  return times.grid(config.steps, start=config.start, power=config.power)


class Method:
  """One method on one subject: `method(key, scale) -> Outcome`.

  The same key gives all methods the same starting noise, but for Best-of-N, whose candidates have their own.

  Args:
    subject, reward: what is steered to what.
    config: settings of the method and of the sampler.
    name: of `cost.METHODS`.
    num: samples a call.
    keep: also keep every state.
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
  ):
    checks.at_least("num", num, 1)
    self.name, self.num = name, num
    self.settings = config.settings(name)
    self._times = time_grid(config)
    self._params = subject.params
    rows = config.rows or num
    self._batch = min(num, rows)
    sample = self._sampler(subject, reward, config, max(rows // self._batch, 1), keep)
    start = time.monotonic()
    self._compiled = jax.jit(sample).lower(self._params, jax.random.key(0), jnp.float32(1)).compile()
    self.seconds_compile = time.monotonic() - start

  def __call__(self, key: PRNGKey, scale: float = 1.0) -> Outcome:
    """The method's samples.

    Raises:
      NotFiniteError: a reward that is NaN or infinite, or a sample that is, with the sample and the step.
    """
    start, parts = time.monotonic(), []
    for i in range(-(-self.num // self._batch)):
      # Even numbers; the odd ones are for whoever else needs randomness of this key (`comparison`).
      part = self._compiled(self._params, jax.random.fold_in(key, 2 * i), jnp.float32(scale))
      parts.append(self._cut(jax.device_get(part), self.num - i * self._batch))
      self._check(parts[-1], i * self._batch)
    seconds = time.monotonic() - start

    def join(name: str, axis: int):
      return jax.tree.map(lambda *arrays: np.concatenate(arrays, axis), *[part[name] for part in parts])

    return Outcome(
      x1=join("x1", 0),
      reward=join("reward", 0),
      found=join("found", 1),
      path=join("path", 1) if "path" in parts[0] else None,
      seconds=seconds,
    )

  def _sampler(self, subject: Subject, reward: Reward, config: SteerConfig, chunk: int, keep: bool):
    cond, decode, interpolant = subject.cond(self._batch), subject.decode, subject.interpolant
    settings, options = self.settings, {"chunk": chunk, "decode": decode}

    def guide(params) -> drifts.Guide:
      marginal = subject.marginal(params)
      if self.name == "dps":
        return drifts.dps(marginal, interpolant, reward, cond, decode=decode)
      if self.name in BY_DRAWS:
        options.update(draws=settings.draws, jackknife=settings.groups, marginal=marginal)
      if self.name == "mfm_gf":
        return drifts.mfm_gf(subject.draws(params), interpolant, reward, cond, **options)
      if self.name == "mfm_g":
        return drifts.mfm_g(subject.differentiable(params), reward, cond, **options)
      return drifts.unguided(marginal, cond)

    def path(params, key, scale) -> tuple[Array, dict]:
      key_start, key_path = jax.random.split(key)
      x = jax.random.normal(key_start, (self._batch, *subject.shape))
      how = {"sampler": config.sampler, "renormalise": settings.renormalise, "limit": settings.limit}
      return steer(key_path, x, self._times, guide(params), interpolant, scale=scale, keep=keep, **how)

    def sample(params, key, scale) -> dict[str, Any]:
      if self.name == "best_of_n":
        x, info = best_of_n(
          key, lambda key: path(params, key, scale)[0], reward, cond, n=settings.draws, decode=decode
        )
        return {"x1": x, "reward": info["reward"], "found": {"invalid": info["invalid"]}}
      x, info = path(params, key, scale)
      out = {"x1": x, "reward": reward(x if decode is None else decode(x), cond), "found": info["aux"]}
      return {**out, "path": info["path"]} if keep else out

    return sample

  def _cut(self, part: dict[str, Any], n: int) -> dict[str, Any]:
    """The first n samples of a block."""
    axes = {"x1": 0, "reward": 0, "found": 1, "path": 1}
    return {
      name: jax.tree.map(lambda array, axis=axes[name]: array[(slice(None),) * axis + (slice(n),)], leaf)
      for name, leaf in part.items()
    }

  def _check(self, part: dict[str, Any], first: int) -> None:
    """Raises at the first sample or reward that is not finite; `first` is the block's first sample."""
    invalid = part["found"].get("invalid")
    if invalid is not None and invalid.any():
      step, sample = np.argwhere(invalid)[0]
      where = f"step {step}, t = {self._times[step]:.4g}"
      if self.name == "best_of_n":
        where = f"candidate {step}"
      raise NotFiniteError(
        f"a reward must be finite; got {invalid[step, sample]} that are NaN or infinite for sample "
        f"{first + sample} of {self.name} at {where} (if the reward is sound, the sample has diverged before)"
      )
    for name, values in (("a steered sample", part["x1"]), ("a reward", part["reward"])):
      for i in np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1)):
        got = values[i].ravel()[:4]
        raise NotFiniteError(f"{name} must be finite; got {got} for sample {first + i} of {self.name}")
