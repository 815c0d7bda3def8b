"""The head of ImageReward and of the LAION aesthetic predictor."""

import flax.linen as nn

from mfm_jax.types import Array

WIDTHS = (1024, 128, 64, 16, 1)


class ScoreHead(nn.Module):
  """Features (B, D) -> scores (B,): five layers without an activation, as both were published.

  The product is linear; it is kept in its factors because the weights are published so.
  """

  @nn.compact
  def __call__(self, features: Array) -> Array:
    for i, width in enumerate(WIDTHS):
      features = nn.Dense(width, name=f"layer_{i}")(features)
    return features[:, 0]
