"""The autoencoder: sizes, the ways to decode, gradients, errors."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vae_case

from mfm_jax.models import autoencoder
from mfm_jax.models.autoencoder import AutoencoderConfig, Moments

CONFIG = vae_case.CONFIG


def latents(*shape):
  return jnp.asarray(np.random.default_rng(1).standard_normal(shape, np.float32))


@functools.cache
def gradient(**options):
  """z -> (images, gradient of a function of them in z)."""

  def loss(z, params):
    x = autoencoder.decode(CONFIG, params, z, **options)
    return jnp.sum(jnp.sin(x)), x

  return jax.jit(jax.grad(loss, has_aux=True))


def test_the_published_autoencoder_has_its_size():
  config = AutoencoderConfig()
  assert (config.reduction, config.scale) == (8, 0.18215)
  params = jax.eval_shape(lambda: autoencoder.init(jax.random.key(0), config))
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 83_653_863  # as diffusers counts sd-vae-ft-mse
  x = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
  moments = jax.eval_shape(functools.partial(autoencoder.encode, config), params, x)
  assert moments.mean.shape == moments.log_variance.shape == (2, 32, 32, 4)
  assert jax.eval_shape(functools.partial(autoencoder.decode, config), params, moments.mean).shape == x.shape


def test_slices_and_rematerialisation_change_nothing():
  params, z = vae_case.params(), latents(3, 4, 6, 4)
  expected, image = gradient()(z, params)
  assert image.shape == (3, 8, 12, 3)
  assert float(jnp.abs(expected).min(axis=(1, 2)).min()) > 0
  found, same = gradient(sliced=True, remat=True)(z, params)
  np.testing.assert_allclose(same, image, atol=2e-5)
  np.testing.assert_allclose(found, expected, atol=2e-5 * float(jnp.abs(expected).max()))


def test_products_are_in_float32_on_every_device():
  """Accelerators round them otherwise; also in the gradient."""
  z, params = latents(1, 2, 2, 4), vae_case.params()

  def both(z):
    x, pull = jax.vjp(lambda z: autoencoder.decode(CONFIG, params, z, sliced=True, remat=True), z)
    return pull(x), autoencoder.encode(CONFIG, params, x)

  text = jax.jit(both).lower(z).as_text()
  products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", text)
  assert len(products) > 20
  assert [line for line in products if line.count("HIGHEST") != 2] == []


def test_tiles_are_blended_linearly(monkeypatch):
  """Of a decoder that sees a pixel alone tiles are exact; of any other, the seams go over linearly."""
  nearest = lambda z: jnp.repeat(jnp.repeat(z, 2, 1), 2, 2)  # noqa: E731
  z = latents(2, 11, 13, 4)
  np.testing.assert_allclose(autoencoder._tiled(nearest, z, 4, 2), nearest(z), atol=1e-6)
  counter = iter(range(100))
  constant = lambda z: jnp.full_like(nearest(z), next(counter))  # noqa: E731
  monkeypatch.setattr(jax.lax, "map", lambda run, tiles: jnp.stack([run(tile) for tile in tiles]))
  row = autoencoder._tiled(constant, jnp.zeros((1, 4, 16, 4)), 8, 2)[0, 0, :, 0]
  # Tiles of 16 pixels from 0, 12, 24, of which 12 are kept and 4 overlap.
  np.testing.assert_allclose(row[:12], 0)
  np.testing.assert_allclose(row[12:16], [0, 0.25, 0.5, 0.75])
  np.testing.assert_allclose(row[16:24], 1)


def test_draws_have_the_moments():
  mean, log_variance = latents(1, 2, 2, 4), latents(1, 2, 2, 4)
  moments = Moments(*(jnp.broadcast_to(part, (20_000, 2, 2, 4)) for part in (mean, log_variance)))
  drawn = autoencoder.sample(jax.random.key(0), moments)
  std = np.exp(0.5 * np.asarray(log_variance[0]))
  assert (np.abs(drawn.mean(0) - mean[0]) < 4 * std / 20_000**0.5).all()
  assert (np.abs(drawn.std(0) / std - 1) < 4 / 40_000**0.5).all()


def test_the_log_variance_is_clipped():
  params = vae_case.params()
  bias = jnp.asarray([0.0] * 4 + [1e3, -1e3, 0.0, 0.0])
  layers = params["encoder"]
  params["encoder"] = {**layers, "moments": {**layers["moments"], "bias": bias}}
  encode = jax.jit(functools.partial(autoencoder.encode, CONFIG))
  found = encode(params, jnp.zeros((1, 8, 8, 3))).log_variance
  np.testing.assert_array_equal(found[..., 0], 20.0)
  np.testing.assert_array_equal(found[..., 1], -30.0)
  assert float(jnp.abs(found[..., 2:]).max()) < 20


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"channels": ()}, "number of channels must be at least 1; got 0"),
    ({"channels": (8, 12), "groups": 8}, r"channels must be multiples of groups=8; got \(8, 12\)"),
    ({"blocks": 0}, "blocks must be at least 1; got 0"),
    ({"scale": 0.0}, r"scale must be above 0; got 0\.0"),
  ],
)
def test_sizes_that_cannot_be(changes, message):
  with pytest.raises(ValueError, match=message):
    AutoencoderConfig(**changes)


def test_inputs_that_do_not_fit():
  with pytest.raises(ValueError, match=r"the sides of images must be multiples of 2; got \(8, 7\)"):
    autoencoder.encode(CONFIG, {}, jnp.zeros((1, 8, 7, 3)))
  with pytest.raises(ValueError, match=r"z must have shape \(any, any, any, 4\); got \(1, 4, 4, 3\)"):
    autoencoder.decode(CONFIG, {}, jnp.zeros((1, 4, 4, 3)))
  for tile in (2, 6):
    with pytest.raises(
      ValueError, match=f"tile must be a multiple of 4, so that a quarter is whole; got {tile}"
    ):
      autoencoder.decode(CONFIG, {}, jnp.zeros((1, 8, 8, 4)), tile=tile)


@pytest.mark.slow
def test_four_pictures_and_their_gradient_fit_into_eight_gigabytes():
  config = AutoencoderConfig()
  params = jax.eval_shape(lambda: autoencoder.init(jax.random.key(0), config))

  def loss(z, params):
    return jnp.sum(autoencoder.decode(config, params, z, sliced=True, remat=True) ** 2)

  z = jax.ShapeDtypeStruct((4, 32, 32, 4), jnp.float32)
  memory = jax.jit(jax.value_and_grad(loss)).lower(z, params).compile().memory_analysis()
  assert memory.temp_size_in_bytes + memory.argument_size_in_bytes < 8e9
