"""The Meta Flow Map transformer: a latent DiT with two inner times and a context (arXiv 2601.14430).

Computes what the published network computes, parameter by parameter (convert/ maps the names). In short:
    tokens = embed(x_s) + embed(x_t) (1 + scale(t)) + shift(t) + positions
    blocks of attention and MLP, modulated by c = times + label (+ guidance), final modulated linear layer.
The first `encoder_depth` blocks and the rest have embeddings of s and u of their own, and share t and label.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.models import layers
from mfm_jax.models.vit import patches, unpatch
from mfm_jax.types import Array

SIZES = {  # width, depth, heads, encoder depth
  "S": (384, 12, 6, 8),
  "B": (768, 12, 12, 8),
  "L": (1024, 24, 16, 16),
  "XL": (1152, 28, 16, 20),
}
INITS = ("live", "published")
GUIDANCES = ("table", "continuous")
REMATS = ("none", "dots", "full")
TIME_FEATURES = 256
EPSILON = 1e-6  # of the layer and RMS norms


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig:
  """What a DiT has beside width, depth, heads and patch."""

  encoder_depth: int = 0  # blocks that see the first pair of time embeddings; 0: two thirds of the depth
  joint_attention: bool = False  # every block also attends to tokens of the context
  qk_norm: bool = False  # RMS norm of queries and keys
  preserve_at_zero: bool = False  # the context is shut off at t = 0
  reverse_time: bool = False  # SiT weights: inner times 1 - s, 1 - u and the output's sign reversed
  residual_context: bool = False  # v = (1 - t) net + t (x_t - x_s) / (1 - s); singular at s = 1
  learn_sigma: bool = False  # SiT weights: twice the output channels, of which the second half is not used
  guidance: str = "table"  # one vector a trained scale, or "continuous" in log w
  guidance_decoder: bool = True  # False, as published: the guidance is dropped after encoder_depth
  init: str = "live"  # "published" starts with a context without gradient, for weights to be loaded into
  remat: str = "none"  # what is computed again in the backward pass: "dots" all but products, "full" all
  unroll: bool = False  # blocks written out in the program instead of scanned

  def __post_init__(self):
    checks.at_least("model.dit.encoder_depth", self.encoder_depth, 0)
    checks.one_of("model.dit.guidance", self.guidance, GUIDANCES)
    checks.one_of("model.dit.init", self.init, INITS)
    checks.one_of("model.dit.remat", self.remat, REMATS)


class DiT(nn.Module):
  """The network, with the signature of the others in this folder.

  Attributes:
    width, depth, heads, patch: size; heads divide the width, 4 divides the width.
    num_classes: 0 without labels; the null label is num_classes.
    guidance_scales: trained scales in ascending order, 1 first; () without guidance.
    config: the rest.
    dtype: of the computation; parameters are float32.
  """

  width: int
  depth: int
  heads: int
  patch: int
  num_classes: int = 0
  guidance_scales: tuple[float, ...] = ()
  config: DiTConfig = DiTConfig()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    s: Array,
    u: Array,
    x_s: Array,
    t: Array,
    x_t: Array,
    label: Array | None,
    guidance: Array | None,
  ) -> Array:
    config, init = self.config, _Init(self.config.init)

    def embed_time(name, zero):
      return _TimeEmbedding(self.width, init.time, init.last_time(zero), name=name)

    start, end = (1.0 - s, 1.0 - u) if config.reverse_time else (s, u)
    time = embed_time("context_time", True)(t)
    encoder = embed_time("start", False)(start) + embed_time("end", True)(end) + time
    decoder = embed_time("start_decoder", True)(start) + embed_time("end_decoder", False)(end) + time
    if self.num_classes:
      label = jnp.full(s.shape, self.num_classes) if label is None else label
      embedding = self._table("label", self.num_classes + 1, init.embedding)(label)
      encoder, decoder = encoder + embedding, decoder + embedding
    if self.guidance_scales:
      embedding = self._guidance(jnp.ones_like(s) if guidance is None else guidance, init)
      encoder = encoder + embedding
      decoder = decoder + embedding if config.guidance_decoder else decoder
    encoder, decoder = (nn.silu(c)[:, None].astype(self.dtype) for c in (encoder, decoder))

    context = patches(x_t, self.patch)
    positions = sincos_positions(x_s.shape[1] // self.patch, x_s.shape[2] // self.patch, self.width)
    positions = jnp.asarray(positions, self.dtype)[None]
    h = self._dense("state", self.width, init.patch)(patches(x_s, self.patch))
    h = h + self._context(context, time, t, init) + positions

    block = _remat(Block, config.remat)
    blocks = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, *[nn.broadcast] * 4),
      length=self.depth,
      unroll=self.depth if config.unroll else 1,
    )(self.heads, config, self.dtype, name="blocks")
    in_decoder = jnp.arange(self.depth) >= (config.encoder_depth or 2 * self.depth // 3)
    h, _ = blocks(h, in_decoder, encoder, decoder, context, positions)

    shift, scale = jnp.split(self._dense("modulation_out", 2 * self.width, init.modulation)(decoder), 2, -1)
    channels = x_s.shape[-1]
    outputs = 2 * channels if config.learn_sigma else channels
    h = layers.modulate(_norm(self.dtype)(h), shift, scale)
    out = self._dense("out", self.patch**2 * outputs, init.output)(h)
    out = unpatch(out, self.patch, (*x_s.shape[:-1], outputs))[..., :channels].astype(x_s.dtype)
    out = -out if config.reverse_time else out
    if not config.residual_context:
      return out
    t, s = (time.reshape(-1, 1, 1, 1) for time in (t, s))
    return (1.0 - t) * out + t / (1.0 - s) * (x_t - x_s)

  def _dense(self, name, features, kernel_init, bias_init=nn.initializers.zeros):
    return nn.Dense(features, kernel_init=kernel_init, bias_init=bias_init, dtype=self.dtype, name=name)

  def _table(self, name, rows, init):
    return nn.Embed(rows, self.width, embedding_init=init, dtype=self.dtype, name=name)

  def _guidance(self, scale: Array, init: "_Init") -> Array:
    """(B, width) of the guidance scales (B,)."""
    if self.config.guidance == "continuous":  # log w is 0 at scale 1: the network without guidance
      gain = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="guidance")
      return gain(jnp.log(scale)[:, None])
    trained = jnp.asarray(self.guidance_scales)
    row = jnp.argmin(jnp.abs(scale[:, None] - trained[None]), -1)
    return self._table("guidance", len(self.guidance_scales), init.table)(row)

  def _context(self, context: Array, time: Array, t: Array, init: "_Init") -> Array:
    """What the context adds to the tokens."""
    embedded = self._dense("context", self.width, init.context)(context)
    modulation = self._dense("context_modulation", 2 * self.width, init.gate, init.gate_bias)
    shift, scale = jnp.split(modulation(nn.silu(time))[:, None], 2, -1)
    if self.config.preserve_at_zero:
      t = t.astype(self.dtype)[:, None, None]
      shift, scale = shift * t, scale * t - 1.0
    return layers.modulate(embedded, shift, scale)


class Block(nn.Module):
  """Attention and MLP with shift, scale and gate from the conditioning; the body of a scan over blocks."""

  heads: int
  config: DiTConfig
  dtype: Any

  @nn.compact
  def __call__(self, h: Array, in_decoder, encoder, decoder, context, positions) -> tuple[Array, None]:
    c = jnp.where(in_decoder, decoder, encoder)
    width, init = h.shape[-1], _Init(self.config.init)
    parts = 7 if self.config.joint_attention else 6
    modulation = nn.Dense(parts * width, kernel_init=init.modulation, dtype=self.dtype, name="modulation")(c)
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m, *value_gate = jnp.split(modulation, parts, -1)

    def dense(name, features):
      return nn.Dense(features, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype, name=name)

    def heads(x):
      return x.reshape(*x.shape[:2], self.heads, -1)

    def norm(name, x):
      return nn.RMSNorm(epsilon=EPSILON, dtype=self.dtype, name=name)(x) if self.config.qk_norm else x

    y = layers.modulate(_norm(self.dtype)(h), shift_a, scale_a)
    q, k, v = map(heads, jnp.split(dense("qkv", 3 * width)(y), 3, -1))
    q, k = norm("q_norm", q), norm("k_norm", k)
    if self.config.joint_attention:
      embed = nn.Dense(width, kernel_init=init.context, dtype=self.dtype, name="context")
      pair = dense("context_kv", 2 * width)(embed(context) + positions)
      context_k, context_v = map(heads, jnp.split(pair, 2, -1))
      k = jnp.concatenate([k, norm("context_k_norm", context_k)], 1)
      v = jnp.concatenate([v, context_v * heads(value_gate[0])], 1)
    y = layers.attention(q, k, v).reshape(h.shape)
    h = h + gate_a * dense("projection", width)(y)
    y = layers.modulate(_norm(self.dtype)(h), shift_m, scale_m)
    y = nn.gelu(dense("mlp_in", 4 * width)(y), approximate=True)
    return h + gate_m * dense("mlp_out", width)(y), None


class _TimeEmbedding(nn.Module):
  """Sinusoids of a time in [0, 1] and two layers: (B,) -> (B, width).

  Always in float32: the 8 bits of bfloat16 cannot tell .998 from 1.
  """

  width: int
  first_init: Any
  last_init: Any

  @nn.compact
  def __call__(self, time: Array) -> Array:
    hidden = nn.Dense(self.width, kernel_init=self.first_init, name="in")(time_features(time))
    return nn.Dense(self.width, kernel_init=self.last_init, name="out")(nn.silu(hidden))


class _Init:
  """Initialisations by name.

  The published one zeroes two factors in a row (the context's embedding and, through scale = -1, its gate),
  so that its context never gets a gradient unless pretrained weights are loaded over it. The live one has
  small values where that one has zeros, a context that is added as it is, and embeddings of order 1.
  """

  def __init__(self, kind: str):
    zeros, live = nn.initializers.zeros, kind == "live"
    self._zeros, self._live = zeros, live
    self.embedding = nn.initializers.normal(1.0 if live else 0.02)
    self.time = nn.initializers.lecun_normal() if live else self.embedding
    self.patch = nn.initializers.xavier_uniform()
    self.context = self.patch if live else zeros
    self.modulation = layers.modulation_init if live else zeros
    self.gate = layers.modulation_init if live else zeros
    self.gate_bias = zeros if live else _shut
    self.output = layers.output_init if live else zeros
    self.table = self.embedding if live else zeros

  def last_time(self, zero: bool):
    """Of the last layer of a time embedding; `zero`: the published one starts at zero."""
    return self._zeros if zero and not self._live else self.time


def _shut(key, shape, dtype=jnp.float32):
  """Shift 0 and scale -1."""
  return jnp.concatenate([jnp.zeros(shape[0] // 2, dtype), jnp.full(shape[0] // 2, -1.0, dtype)])


def _norm(dtype):
  return nn.LayerNorm(use_scale=False, use_bias=False, epsilon=EPSILON, dtype=dtype)


def _remat(block, policy: str):
  if policy == "none":
    return block
  saved = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if policy == "dots" else None
  return nn.remat(block, policy=saved, prevent_cse=False)


def with_context(params: dict, *, preserve_at_zero: bool = False) -> dict:
  """Parameters of a converted flow as a map's to start from: the same function, with a context that is alive.

  As the published training starts from a pretrained flow: the context is embedded as the state is, behind a
  gate that is shut (scale -1) but, unlike both factors at zero, has a gradient.
  """
  shut = {name: jnp.zeros_like(leaf) for name, leaf in params["context_modulation"].items()}
  width = params["state"]["bias"].shape[0]
  if not preserve_at_zero:  # which adds the -1 itself, at every t
    shut["bias"] = shut["bias"].at[width:].set(-1.0)
  return {**params, "context": dict(params["state"]), "context_modulation": shut}


def time_features(t: Array) -> Array:
  """Cosines, then sines, of t at 128 frequencies from 1 down to 1e-4 rad: (B,) -> (B, 256)."""
  half = TIME_FEATURES // 2
  frequencies = jnp.asarray(10_000.0 ** (-np.arange(half) / half), t.dtype)
  angles = t[:, None] * frequencies[None]
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def sincos_positions(rows: int, columns: int, width: int) -> np.ndarray:
  """The fixed table of positions (rows columns, width), float32: sines and cosines of column, then of row."""
  frequencies = 10_000.0 ** (-np.arange(width // 4) / (width / 4))

  def features(index):
    angles = np.outer(index, frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], 1)

  row, column = np.divmod(np.arange(rows * columns), columns)
  return np.concatenate([features(column), features(row)], 1).astype(np.float32)
