"""A residual multi-layer perceptron for vectors."""

import flax.linen as nn
import jax.numpy as jnp

from mfm_jax.models import layers
from mfm_jax.types import Array


class MLP(nn.Module):
  """State and context are concatenated; times, label and guidance modulate every block.

  Any shape of example is accepted and flattened.
  """

  width: int
  depth: int
  num_classes: int = 0
  guided: bool = False
  dtype: jnp.dtype = jnp.float32

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
    batch, size = x_s.shape[0], x_s[0].size
    c = layers.Conditioning(self.width, self.num_classes, self.guided, dtype=self.dtype, name="conditioning")(
      s, u, t, label, guidance
    )

    def dense(width, name, **kwargs):
      return nn.Dense(width, dtype=self.dtype, name=name, **kwargs)

    state = dense(self.width, "state")(x_s.reshape(batch, size))
    h = state + dense(self.width, "context")(x_t.reshape(batch, size))
    for i in range(self.depth):
      shift, scale = layers.Modulation(2, self.width, self.dtype, name=f"modulation_{i}")(c)
      y = layers.modulate(dense(self.width, f"in_{i}")(h), shift, scale)
      h = h + dense(self.width, f"out_{i}")(nn.silu(y))
    out = dense(size, "out", kernel_init=layers.output_init)(nn.silu(h))
    return out.reshape(x_s.shape).astype(x_s.dtype)
