"""The Inception network of FID: what it takes and gives. Parity with PyTorch: test_inception_torch.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.models import inception


def resized(x: np.ndarray, offset: float) -> np.ndarray:
  """Bilinear interpolation at (i + offset) H / 299 - offset, by its definition, pixel by pixel; float64."""
  height, width, _ = x.shape
  out = np.empty((299, 299, 3))
  for i in range(299):
    for j in range(299):
      y, z = (max((k + offset) * size / 299 - offset, 0.0) for k, size in ((i, height), (j, width)))
      top, left = int(y), int(z)
      bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
      a, b = y - top, z - left
      out[i, j] = (1 - a) * ((1 - b) * x[top, left] + b * x[top, right])
      out[i, j] += a * ((1 - b) * x[bottom, left] + b * x[bottom, right])
  return out


@pytest.mark.parametrize("shape", [(32, 32), (310, 45)])
def test_pictures_are_prepared_as_each_convention_says(shape):
  pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  adm = (resized(pixels.astype(np.float64), 0.0) - 128.0) / 128.0
  pytorch_fid = 2.0 * resized(pixels / 255.0, 0.5) - 1.0
  for convention, expected in (("adm", adm), ("pytorch_fid", pytorch_fid)):
    found = inception.prepare(jnp.asarray(pixels[None]), convention)[0]
    # Positions are float32, as in the originals: 1e-5 of a pixel, times the slope.
    np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.abs(adm - pytorch_fid).max() > 0.1


def test_a_picture_of_the_right_size_is_left_as_it_is():
  pixels = np.random.default_rng(0).integers(0, 256, (1, 299, 299, 3), np.uint8)
  for convention, expected in (("adm", pixels / 128.0 - 1.0), ("pytorch_fid", pixels / 127.5 - 1.0)):
    np.testing.assert_allclose(inception.prepare(jnp.asarray(pixels), convention), expected, atol=2e-4)


def test_shapes_of_the_features():
  x = jax.ShapeDtypeStruct((2, 64, 48, 3), jnp.uint8)
  params = jax.eval_shape(inception.Inception().init, jax.random.key(0), jnp.zeros((1, 299, 299, 3)))
  out = jax.eval_shape(lambda p, x: inception.features(p, x, "adm"), params["params"], x)
  assert [leaf.shape for leaf in out] == [(2, 2048), (2, 2023), (2, 1008), (2, 1008)]
  assert {leaf.dtype for leaf in out} == {jnp.dtype("float32")}


def test_mistakes():
  x = jnp.zeros((1, 8, 8, 3), jnp.uint8)
  with pytest.raises(ValueError, match="convention must be one of adm, pytorch_fid; got 'clean'"):
    inception.prepare(x, "clean")
  with pytest.raises(ValueError, match=r"pixels must have shape \(any, any, any, 3\); got \(1, 8, 8, 1\)"):
    inception.prepare(x[..., :1], "adm")
