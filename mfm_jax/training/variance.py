"""How far estimates of grad V are from the truth, at equal draws: estimators against schemes (MATH 11)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks, interpolants, oracles
from mfm_jax.data import datasets
from mfm_jax.rewards.likelihoods import GaussianLikelihood
from mfm_jax.sampling import noise
from mfm_jax.steering import value
from mfm_jax.training.hoisted import compile_hoisted
from mfm_jax.training.reward_config import RewardConfig
from mfm_jax.training.subject import Subject
from mfm_jax.types import Array, PRNGKey, Reward

ESTIMATORS = ("mfm_gf", "mfm_g", "hybrid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VarianceConfig:
  """What is estimated, and how often.

  Attributes:
    rewards: each is compared on its own.
    draws: N.
    schemes: of `noise.SCHEMES`; the first, with MFM-GF, is what the others are compared with.
    times: t.
    states: x_t ~ p_t at each t.
    repeats: independent repetitions, states included; at least 2.
    reference: draws of the hybrid that stands for the truth where no closed form is known.
    chunk: draws per state that are held at a time.
  """

  rewards: tuple[RewardConfig, ...] = (
    RewardConfig(name="quadratic", centre=(2.0, 2.0), sigma=2.0),
    RewardConfig(),
  )
  draws: int = 8
  schemes: tuple[str, ...] = noise.SCHEMES
  times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
  states: int = 2048
  repeats: int = 4
  reference: int = 4096
  chunk: int = 1

  def __post_init__(self):
    checks.at_least("number of variance.rewards", len(self.rewards), 1)
    checks.at_least("variance.repeats", self.repeats, 2)
    checks.at_least("variance.states", self.states, 2)
    for name in ("draws", "reference"):
      checks.at_least(f"variance.{name}", getattr(self, name), 2)
    checks.at_least("variance.chunk", self.chunk, 1)
    for scheme in self.schemes:
      checks.one_of("variance.schemes", scheme, noise.SCHEMES)
    checks.in_interval("variance.times", self.times)


def gradient_errors(subject: Subject, reward: Reward, config: VarianceConfig, *, seed: int = 0):
  """Relative rms error of grad V, averaged over the times, for every estimator and scheme.

  Returns:
    Rows: estimator, scheme, error and its standard error over the repeats, ratio to the first scheme's MFM-GF
    with its standard error (of ratios within a repeat), NFE and backward passes a state, error at each t.
  """
  found: dict[tuple[str, str], np.ndarray] = {}
  evaluate = None
  draw = _states(subject, config)
  for i in range(config.repeats):
    for j, t in enumerate(config.times):
      key_state, key = jax.random.split(jax.random.fold_in(jax.random.key(seed), i * len(config.times) + j))
      t_B = jnp.full((config.states,), t)
      arguments = key, subject.params, t_B, draw(key_state, t_B)
      if evaluate is None:
        evaluate = compile_hoisted(functools.partial(_errors, subject, reward, config), *arguments)
      out = jax.device_get(evaluate(*arguments))
      for name, error in out.items():
        found.setdefault(name, np.zeros((config.repeats, len(config.times))))[i, j] = error
  base = found["mfm_gf", config.schemes[0]].mean(1)
  names = [(estimator, scheme) for estimator in ESTIMATORS for scheme in config.schemes]
  return [_row(name, found[name], base, config) for name in names]


def _row(
  name: tuple[str, str], errors: np.ndarray, base: np.ndarray, config: VarianceConfig
) -> dict[str, Any]:
  estimator, scheme = name
  means = errors.mean(1)

  def scatter(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))

  backwards = config.draws if estimator != "mfm_gf" else 0
  return {
    "estimator": estimator,
    "scheme": scheme,
    "error": float(means.mean()),
    "error_se": scatter(means),
    "ratio": float((means / base).mean()),
    "ratio_se": scatter(means / base),
    "nfe": 2 * config.draws + 2 * backwards,
    "backwards": backwards,
    "errors": {f"{t:g}": float(error) for t, error in zip(config.times, errors.mean(0), strict=True)},
  }


def _errors(subject: Subject, reward: Reward, config: VarianceConfig, key: PRNGKey, params, t, x_t) -> dict:
  """(estimator, scheme) -> relative rms error at one time."""
  interpolant, cond = subject.interpolant, subject.cond(config.states)
  velocity = subject.velocity(params, differentiable=True)
  rest = t, x_t, reward, cond
  common: dict[str, Any] = {"chunk": config.chunk, "decode": subject.decode}
  key_reference, *keys = jax.random.split(key, 1 + len(config.schemes))
  if subject.mixture is not None and isinstance(reward, GaussianLikelihood):
    tilt = reward.matrix, reward.observed, reward.sigma
    exact = oracles.grad_value(subject.mixture, interpolant, t, x_t, *tilt)
  else:
    how = {"draws": config.reference, **common}
    exact = value.value_and_grad_hybrid(key_reference, velocity, interpolant, *rest, **how)[1]
  out = {}
  for scheme, key in zip(config.schemes, keys, strict=True):
    # The same draws for all estimators.
    e = noise.normals(key, x_t, draws=config.draws, scheme=scheme)
    how = {"noise": e, "draws": config.draws, **common}
    gf = value.value_and_grad_gf(None, velocity, interpolant, *rest, **how)[1]
    g = value.value_and_grad_g(None, velocity, *rest, **how)[1]
    hybrid = value.value_and_grad_hybrid(None, velocity, interpolant, *rest, **how)[1]
    for name, gradient in zip(ESTIMATORS, (gf, g, hybrid), strict=True):
      out[name, scheme] = _rms(gradient - exact) / _rms(exact)
  return out


def _states(subject: Subject, config: VarianceConfig):
  """(key, t_B) -> x_t ~ p_t, from the mixture or from held-out examples."""
  mixture, run = subject.mixture, subject.run
  if mixture is not None:
    draw = lambda key: oracles.sample(key, mixture, config.states)  # noqa: E731
  else:
    assert run is not None  # closed forms are of a mixture
    test = datasets.load(run.config.data).test
    held_out = jnp.asarray(test.take(np.arange(min(len(test), 4096)))["x1"])
    draw = lambda key: jax.random.choice(key, held_out, (config.states,))  # noqa: E731

  def states(key: PRNGKey, t: Array) -> Array:
    key_data, key_noise = jax.random.split(key)
    x1 = draw(key_data)
    return interpolants.interpolate(subject.interpolant, t, jax.random.normal(key_noise, x1.shape), x1)

  return states


def _rms(x: Array) -> Array:
  return jnp.sqrt((x.reshape(len(x), -1) ** 2).sum(1).mean())
