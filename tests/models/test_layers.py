"""Time features, patches, modulation and the learned log-variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.models import layers, vit


@pytest.mark.usefixtures("x64")
def test_time_features_are_smooth():
  t = jnp.linspace(0.0, 1.0, 201)

  def features(t):
    return layers.time_features(t, 16)

  value, slope = jax.jvp(features, (t,), (jnp.ones_like(t),))
  assert value.shape == (201, 16)
  h = 1e-6
  np.testing.assert_allclose(slope, (features(t + h) - features(t - h)) / (2 * h), atol=1e-6)
  # No feature turns faster than the documented 8 radians a unit of time; the fastest does so.
  assert layers.MAX_FREQUENCY == 8
  assert 0.95 < jnp.abs(slope).max() / layers.MAX_FREQUENCY < 1 + 1e-9
  np.testing.assert_allclose(value[:, :8] ** 2 + value[:, 8:] ** 2, np.ones((201, 8)), atol=1e-12)


def test_time_features_tell_times_apart():
  """Both neighbours, by the fast features, and the two ends, by the slow ones."""
  features = np.asarray(layers.time_features(jnp.linspace(0.0, 1.0, 101), 16))
  distance = np.linalg.norm(features[:, None] - features[None], axis=-1)
  assert np.diagonal(distance, 1).min() > 0.1
  assert distance[~np.eye(101, dtype=bool)].min() > 0.1


@pytest.mark.parametrize(("size", "shape"), [(2, (3, 4, 6, 1)), (4, (2, 8, 8, 3)), (1, (2, 3, 2, 2))])
def test_unpatch_inverts_patches(size, shape):
  x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
  tokens = vit.patches(x, size)
  assert tokens.shape == (shape[0], shape[1] * shape[2] // size**2, size**2 * shape[3])
  np.testing.assert_array_equal(vit.unpatch(tokens, size, shape), x)


def test_patches_are_row_major_squares_of_the_image():
  x = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
  tokens = vit.patches(x, 2).reshape(2, 2, 3, 2, 2, 3)
  for row in range(2):
    for column in range(3):
      square = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
      np.testing.assert_array_equal(tokens[:, row, column], square)


def test_patches_must_divide_the_image():
  with pytest.raises(ValueError, match=r"patch must divide height and width; got patch 3, image \(1, 6, 4"):
    vit.patches(jnp.zeros((1, 6, 4, 1)), 3)


def test_modulation_is_nothing_at_shift_and_scale_zero():
  x = jnp.arange(6.0).reshape(2, 3)
  zero = jnp.zeros((2, 3))
  np.testing.assert_array_equal(layers.modulate(x, zero, zero), x)
  np.testing.assert_array_equal(layers.modulate(x, zero + 1.0, zero + 2.0), 3.0 * x + 1.0)


def test_log_weight_starts_at_zero_and_learns():
  net = layers.LogWeight()
  s, u, t = (jnp.asarray(np.random.default_rng(0).uniform(size=(3, 64)), jnp.float32)[i] for i in range(3))
  params = net.init(jax.random.key(0), s, u, t)
  np.testing.assert_array_equal(net.apply(params, s, u, t), np.zeros(64))
  target = 2.0 * u - t * s

  @jax.jit
  def descend(params):
    gradient = jax.grad(lambda p: jnp.mean((net.apply(p, s, u, t) - target) ** 2))(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

  for _ in range(200):
    params = descend(params)
  residual = net.apply(params, s, u, t) - target
  assert jnp.mean(residual**2) < 0.02 * jnp.var(target)
