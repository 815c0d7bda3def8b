"""Stochastic interpolants I_t = a(t) I_0 + b(t) I_1 and the conversions that they define (MATH 1).

Times run from 0 (noise) to 1 (data). Every function here is finite on [0, 1]: where a formula divides
by a(t) (singular at t = 1) or b(t) (at t = 0) the divisor is clipped from below by `CLIP`. A sampler
that comes closer than CLIP to an end must use a form without the singularity, and says so.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.types import Array, expand_like

CLIP = 1e-4  # lower bound of a divisor a(t) or b(t); float32 resolves 1 - t to about 6e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interpolant(abc.ABC):
  """A pair of schedules a, b with a(0) = b(1) = 1 and a(1) = b(0) = 0; elementwise in t."""

  @abc.abstractmethod
  def a(self, t: Array) -> Array:
    """Coefficient of the noise."""

  @abc.abstractmethod
  def b(self, t: Array) -> Array:
    """Coefficient of the data."""

  @abc.abstractmethod
  def inverse_ratio(self, signal: Array, noise: Array) -> Array:
    """The time t at which b(t) : a(t) = signal : noise, both >= 0 and not both 0."""

  def da(self, t: Array) -> Array:
    """a'(t)."""
    return _derivative(self.a, t)

  def db(self, t: Array) -> Array:
    """b'(t)."""
    return _derivative(self.b, t)

  def w(self, t: Array) -> Array:
    """w = a b' - a' b (linear: 1; trigonometric: pi/2)."""
    return self.a(t) * self.db(t) - self.da(t) * self.b(t)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Interpolant):
  """a = 1 - t, b = t."""

  def a(self, t):
    return 1.0 - t

  def b(self, t):
    return 1.0 * t

  def inverse_ratio(self, signal, noise):
    return signal / (signal + noise)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trigonometric(Interpolant):
  """a = cos(pi t / 2), b = sin(pi t / 2)."""

  def a(self, t):
    # sin(pi (1 - t) / 2) is the same number and, unlike cos in floating point, exactly 0 at t = 1.
    return jnp.sin(0.5 * jnp.pi * (1.0 - t))

  def b(self, t):
    return jnp.sin(0.5 * jnp.pi * t)

  def inverse_ratio(self, signal, noise):
    return jnp.arctan2(signal, noise) / (0.5 * jnp.pi)


INTERPOLANTS = {"linear": Linear(), "trigonometric": Trigonometric()}


def get(name: str) -> Interpolant:
  """The interpolant called `name`; ValueError for an unknown one."""
  checks.one_of("interpolant", name, INTERPOLANTS)
  return INTERPOLANTS[name]


def _derivative(f, t):
  return jax.jvp(f, (t,), (jnp.ones_like(t),))[1]


def interpolate(interpolant: Interpolant, t: Array, x0: Array, x1: Array) -> Array:
  """I_t = a(t) x0 + b(t) x1; t (B,), x0 and x1 (B, ...)."""
  return expand_like(interpolant.a(t), x0) * x0 + expand_like(interpolant.b(t), x1) * x1


def interpolate_dot(interpolant: Interpolant, t: Array, x0: Array, x1: Array) -> Array:
  """dI_t/dt = a'(t) x0 + b'(t) x1; shapes as `interpolate`."""
  return expand_like(interpolant.da(t), x0) * x0 + expand_like(interpolant.db(t), x1) * x1


def velocity_from_denoiser(
  interpolant: Interpolant, t: Array, x: Array, denoised: Array, clip: float = CLIP
) -> Array:
  """v from D (MATH 1.1). Divides by a(t), clipped from below by `clip`."""
  a = jnp.maximum(interpolant.a(t), clip)
  value = expand_like(interpolant.da(t) / a, x) * x + expand_like(interpolant.w(t) / a, x) * denoised
  return value


def denoiser_from_velocity(interpolant: Interpolant, t: Array, x: Array, v: Array) -> Array:
  """D from v (MATH 1.2). No singularity."""
  w = interpolant.w(t)
  return expand_like(interpolant.a(t) / w, x) * v - expand_like(interpolant.da(t) / w, x) * x


def score_from_velocity(interpolant: Interpolant, t: Array, x: Array, v: Array, clip: float = CLIP) -> Array:
  """grad log p_t from v (MATH 1.3). Divides by a(t), clipped from below by `clip`."""
  aw = jnp.maximum(interpolant.a(t), clip) * interpolant.w(t)
  return expand_like(interpolant.b(t) / aw, x) * v - expand_like(interpolant.db(t) / aw, x) * x


def velocity_from_score(
  interpolant: Interpolant, t: Array, x: Array, score: Array, clip: float = CLIP
) -> Array:
  """v from the score (MATH 1.5). Divides by b(t), clipped from below by `clip`."""
  b = jnp.maximum(interpolant.b(t), clip)
  half = half_sigma_squared(interpolant, t, clip)
  return expand_like(interpolant.db(t) / b, x) * x + expand_like(half, x) * score


def half_sigma_squared(interpolant: Interpolant, t: Array, clip: float = CLIP) -> Array:
  """sigma_t^2 / 2 (MATH 1.4; paper Eq. 14), elementwise. Divides by b(t), clipped from below by `clip`.

  With the default the linear value at t = 0 is 1e4 instead of infinity.
  """
  a = interpolant.a(t)
  b = jnp.maximum(interpolant.b(t), clip)
  # (b' / b) a^2 - a' a = a w / b: one positive product instead of a difference.
  return a * interpolant.w(t) / b


def sde_drift_from_velocity(interpolant: Interpolant, t: Array, x: Array, v: Array) -> Array:
  """v + (sigma^2 / 2) score = 2 v - (b'/b) x, the drift of the sampling SDE (MATH 1; linear 2 v - x / t).

  b(t) is clipped from below by `CLIP`: start an SDE at t >= 1e-3.
  """
  b = jnp.maximum(interpolant.b(t), CLIP)
  return 2.0 * v - expand_like(interpolant.db(t) / b, x) * x
