"""Classifiers of clean data, for rewards: convolutions for images, a perceptron for vectors."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mfm_jax.models.convolution import SameConv
from mfm_jax.models.layers import output
from mfm_jax.types import Array, PRNGKey, PyTree


class ConvClassifier(nn.Module):
  """Two convolutions at every resolution down to 4 pixels, then a hidden layer: (B, H, W, C) -> logits.

  Smooth activations and no pooling by maximum: a reward is differentiated in its input.
  """

  width: int
  num_classes: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    h, features = 2.0 * x - 1.0, self.width
    h = nn.silu(SameConv(features, name="conv_in")(h))
    level = 0
    while min(h.shape[1:3]) > 4:
      features *= 2
      h = nn.silu(nn.Conv(features, (3, 3), strides=(2, 2), name=f"down_{level}")(h))
      h = h + nn.silu(SameConv(features, name=f"conv_{level}")(h))
      level += 1
    h = nn.silu(nn.Dense(4 * self.width, name="hidden")(h.reshape(h.shape[0], -1)))
    return nn.Dense(self.num_classes, name="out")(h)


class DenseClassifier(nn.Module):
  """Two hidden layers: (B, ...) -> logits (B, num_classes)."""

  width: int
  num_classes: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    h = x.reshape(x.shape[0], -1)
    for i in range(2):
      h = nn.silu(nn.Dense(4 * self.width, name=f"hidden_{i}")(h))
    return nn.Dense(self.num_classes, name="out")(h)


def build_classifier(
  *, shape: tuple[int, ...], num_classes: int, width: int
) -> tuple[Callable[[PRNGKey], PyTree], Callable[[PyTree, Array], Array]]:
  """`init(key) -> params` and `log_probs(params, x) -> (B, num_classes)`, float32.

  Args:
    shape: of one example in data space, images (H, W, C).
    num_classes: at least 2.
    width: channels of the first convolution; a quarter of the hidden layers.
  """
  kind = ConvClassifier if len(shape) == 3 else DenseClassifier
  net = kind(width=width, num_classes=num_classes)

  def init(key: PRNGKey) -> PyTree:
    return net.init(key, jnp.zeros((1, *shape)))["params"]

  def log_probs(params: PyTree, x: Array) -> Array:
    return jax.nn.log_softmax(output(net, params, x.astype(jnp.float32)))

  return init, log_probs
