"""Pieces that the networks share: time features, conditioning, modulation.

Initialisation keeps every input alive: no layer that an input must pass is zero, because two zero factors
in a row have zero gradients for ever (a zero embedder behind a closed gate never opens).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mfm_jax.types import Array, PyTree

MAX_FREQUENCY = 8.0  # radians per unit of time; see `time_features`
modulation_init = nn.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")
output_init = nn.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")


def time_features(t: Array, count: int) -> Array:
  """Cosines and sines of t at `count` / 2 geometric frequencies in [1, 8] rad: (B,) -> (B, count).

  The consistency objectives differentiate the network in time and put the derivative into their own
  targets. With the usual frequencies of 1000 rad and more that derivative is hundreds of times larger than
  the function; already at 32 rad the Eulerian objective diverged on the mixture, at 8 it is stable.
  """
  frequencies = jnp.geomspace(1.0, MAX_FREQUENCY, count // 2, dtype=t.dtype)
  angles = t[:, None] * frequencies[None]
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def output(net: nn.Module, params: PyTree, *inputs: Array | None) -> Any:
  """What `net` gives with these parameters, which change nothing and draw nothing."""
  return net.apply({"params": params}, *inputs)


class Conditioning(nn.Module):
  """One vector per example from the times, the label and the guidance scale: (B, width)."""

  width: int
  num_classes: int
  guided: bool
  features: int = 16
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, s: Array, u: Array, t: Array, label: Array | None, guidance: Array | None) -> Array:
    times = [time_features(time, self.features) for time in (s, u, u - s, t)]
    hidden = nn.Dense(self.width, dtype=self.dtype, name="times_in")(jnp.concatenate(times, -1))
    out = nn.Dense(self.width, dtype=self.dtype, name="times_out")(nn.silu(hidden))
    if self.num_classes:
      label = jnp.full(s.shape, self.num_classes) if label is None else label
      table = nn.Embed(
        self.num_classes + 1,
        self.width,
        embedding_init=nn.initializers.normal(1.0),
        dtype=self.dtype,
        name="label",
      )
      out = out + table(label)
    if self.guided:
      scale = jnp.ones_like(s) if guidance is None else guidance
      # log w is 0 at scale 1, so the unguided network is the one without this term.
      gain = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="guidance")
      out = out + gain(jnp.log(scale)[:, None])
    return nn.silu(out)


class Modulation(nn.Module):
  """`parts` vectors of `width` from the conditioning, small at first: (B, c) -> parts of (B, width)."""

  parts: int
  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, conditioning: Array) -> list[Array]:
    out = nn.Dense(self.parts * self.width, kernel_init=modulation_init, dtype=self.dtype, name="dense")(
      conditioning
    )
    return jnp.split(out, self.parts, axis=-1)


def modulate(x: Array, shift: Array, scale: Array) -> Array:
  """x (1 + scale) + shift; shift and scale broadcast like x."""
  return x * (1.0 + scale) + shift


def attention(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
  """softmax(q k / sqrt(d)) v over tokens: (B, L, heads, d), (B, M, heads, d) twice -> (B, L, heads, d).

  A mask, of the rank and broadcast like (B, heads, L, M), is True where a token of L sees one of M.

  Written out for XLA: the fused kernels refuse the forward-mode derivatives of the objectives, and jax.nn's
  own rounds float64 to float32. The softmax is in float32 at least.
  """
  dtype = jnp.promote_types(q.dtype, jnp.float32)
  logits = jnp.einsum("blhd,bmhd->bhlm", q, k, preferred_element_type=dtype)
  logits = logits * q.shape[-1] ** -0.5
  if mask is not None:
    logits = jnp.where(mask, logits, jnp.finfo(dtype).min)
  weights = jax.nn.softmax(logits).astype(v.dtype)
  return jnp.einsum("bhlm,bmhd->blhd", weights, v)


class LogWeight(nn.Module):
  """Learned log-variance W(s, u, t) of the loss, 0 at the start (MATH 4.9): three (B,) -> (B,)."""

  width: int = 64
  features: int = 16

  @nn.compact
  def __call__(self, s: Array, u: Array, t: Array) -> Array:
    times = [time_features(time, self.features) for time in (s, u, t)]
    hidden = nn.silu(nn.Dense(self.width, name="hidden")(jnp.concatenate(times, -1)))
    return nn.Dense(1, kernel_init=nn.initializers.zeros, name="out")(hidden)[:, 0]
