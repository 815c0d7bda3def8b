"""The exact flow map of Gaussian data as a skip connection around a network (MATH 9).

For data N(0, c^2 I) the posterior is N(m, k^2 I) and the inner map is linear. The wrapper returns that
map's mean velocity plus (k / sqrt D_s) times the network, which then only learns what is not Gaussian:
    v_{s,u} = m (b_u - b_s)/(u - s) + q (x_s - b_s m) + (k / sqrt D_s) net(s, u, z, t, m / c).
The network sees the context as m / c, so its sensitivity to x_t vanishes as t -> 0, and the state as
z = (x_s - b_s m) / sqrt D_s, which has unit variance whatever s and t are.
"""

import dataclasses

import jax.numpy as jnp

from mfm_jax.interpolants import Interpolant, Linear, Trigonometric
from mfm_jax.types import Array, Cond, Velocity, expand_like

K_SQUARED_MIN = 1e-6  # added to k^2: s = t = 1 is 0/0 otherwise
WEIGHT_OFFSET = 0.01  # bounds the weight of the loss where k^2 / D_s vanishes


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianSkip:
  """Moments of Gaussian data of standard deviation `data_std` (c) under `interpolant`."""

  interpolant: Interpolant
  data_std: float

  def __post_init__(self):
    if not self.data_std > 0:
      raise ValueError(f"data_std must be positive; got {self.data_std}")
    if not isinstance(self.interpolant, Linear | Trigonometric):
      raise ValueError(
        f"interpolant must be Linear or Trigonometric to be preconditioned; got {self.interpolant!r}"
      )

  def posterior(self, t: Array) -> tuple[Array, Array]:
    """(m / x_t, k^2): the posterior is N(m, k^2 I). Elementwise in t."""
    a, b, variance = self.interpolant.a(t), self.interpolant.b(t), self.data_std**2
    total = a**2 + b**2 * variance
    return b * variance / total, variance * a**2 / total + K_SQUARED_MIN

  def inner_variance(self, s: Array, k_squared: Array) -> Array:
    """D_s = a_s^2 + b_s^2 k^2, the variance of x_s about b_s m."""
    return self.interpolant.a(s) ** 2 + self.interpolant.b(s) ** 2 * k_squared

  def slopes(self, s: Array, u: Array, k_squared: Array) -> tuple[Array, Array]:
    """((b_u - b_s) / (u - s), (D_u - D_s) / (u - s)), without 0/0 at u = s."""
    if isinstance(self.interpolant, Linear):
      # (1 - u) + (1 - s), not 2 - u - s: its rounding is amplified by 1 / D_s, up to 1e6 near s = t = 1.
      return jnp.ones_like(s), (u + s) * k_squared - ((1.0 - u) + (1.0 - s))
    # sin(pi h / 2) / h with h = (u - s) / 2, and the same at h = u - s, through sinc(x) = sin(pi x)/(pi x).
    b_slope = 0.5 * jnp.pi * jnp.cos(0.25 * jnp.pi * (u + s)) * jnp.sinc(0.25 * (u - s))
    # sin(pi (u + s) / 2) as a sum of two terms >= 0, exactly 0 at u = s = 1 for the same reason.
    a, b = self.interpolant.a, self.interpolant.b
    sine = b(u) * a(s) + a(u) * b(s)
    return b_slope, (k_squared - 1.0) * 0.5 * jnp.pi * sine * jnp.sinc(0.5 * (u - s))

  def loss_weight(self, s: Array, t: Array) -> Array:
    """1 / (k^2 / D_s + 0.01): makes the weighted loss a loss of the network's own output (MATH 9)."""
    _, k_squared = self.posterior(t)
    return 1.0 / (k_squared / self.inner_variance(s, k_squared) + WEIGHT_OFFSET)


def precondition(net: Velocity, skip: GaussianSkip) -> Velocity:
  """The velocity of MATH 9.3 around `net`; both have the signature of a `Velocity`."""

  def velocity(s: Array, u: Array, x_s: Array, t: Array, x_t: Array, cond: Cond) -> Array:
    gain, k_squared = skip.posterior(t)
    root_s = jnp.sqrt(skip.inner_variance(s, k_squared))
    root_u = jnp.sqrt(skip.inner_variance(u, k_squared))
    b_slope, d_slope = skip.slopes(s, u, k_squared)
    q = d_slope / (root_s * (root_u + root_s))
    mean = expand_like(gain, x_t) * x_t
    centred = x_s - expand_like(skip.interpolant.b(s), x_s) * mean
    out = net(s, u, centred / expand_like(root_s, x_s), t, mean / skip.data_std, cond)
    return (
      expand_like(b_slope, x_s) * mean
      + expand_like(q, x_s) * centred
      + expand_like(jnp.sqrt(k_squared) / root_s, x_s) * out
    )

  return velocity
