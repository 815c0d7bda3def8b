"""The autoencoder against diffusers' AutoencoderKL with random weights. Needs torch and diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import convert
from mfm_jax.convert import autoencoder as conversion
from mfm_jax.models import autoencoder
from mfm_jax.models.autoencoder import AutoencoderConfig

torch = pytest.importorskip("torch", reason="needs PyTorch, the extra `torch`")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers")

TINY = AutoencoderConfig(channels=(8, 16, 16), blocks=1, groups=4, latent_channels=4)
TILE = 16


def reference(config):
  """diffusers' module with random weights (its own initialisation; norms and biases moved off theirs)."""
  levels = len(config.channels)
  torch.manual_seed(0)
  module = diffusers.AutoencoderKL(
    block_out_channels=config.channels,
    down_block_types=("DownEncoderBlock2D",) * levels,
    up_block_types=("UpDecoderBlock2D",) * levels,
    layers_per_block=config.blocks,
    norm_num_groups=config.groups,
    latent_channels=config.latent_channels,
    sample_size=TILE * config.reduction,
  )
  with torch.no_grad():
    for value in module.parameters():
      if value.ndim == 1:
        value.add_(0.1 * torch.randn_like(value))
  return module.eval().requires_grad_(False)


def params_of(module, config):
  return conversion.to_params({name: value.numpy() for name, value in module.state_dict().items()}, config)


def nchw(x):
  return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def check(found, expected, tolerance=1e-4):
  expected = expected.detach().numpy().transpose(0, 2, 3, 1)
  assert found.shape == expected.shape
  assert np.abs(np.asarray(found) - expected).max() < tolerance * np.abs(expected).max()


def check_both_ways(config, images, latents):
  rng = np.random.default_rng(0)
  module = reference(config)
  params = params_of(module, config)
  x, z = (rng.standard_normal(shape, np.float32) for shape in (images, latents))
  moments, posterior = autoencoder.encode(config, params, x), module.encode(nchw(x)).latent_dist
  check(moments.mean, posterior.mean)
  check(moments.log_variance, posterior.logvar)
  check(autoencoder.decode(config, params, z), module.decode(nchw(z)).sample)
  return module, params, z


def test_encoding_and_decoding_are_those_of_diffusers():
  module, params, z = check_both_ways(TINY, (2, 20, 28, 3), (2, 26, 38, 4))
  # 26 and 38 rows: full tiles, and short ones of 14, 2 and 14, 2.
  check(autoencoder.decode(TINY, params, z, tile=TILE, sliced=True), module.tiled_decode(nchw(z)).sample)


def test_the_gradient_through_the_decoder_is_that_of_pytorch():
  module, rng = reference(TINY), np.random.default_rng(0)
  params, z = params_of(module, TINY), rng.standard_normal((2, 6, 5, 4), np.float32)
  theirs = nchw(z).requires_grad_()
  module.decode(theirs).sample.sin().sum().backward()

  def loss(z):
    return jnp.sum(jnp.sin(autoencoder.decode(TINY, params, z, sliced=True, remat=True)))

  check(jax.grad(loss)(jnp.asarray(z)), theirs.grad, 1e-3)


def test_a_folder_that_is_written_is_read_by_diffusers_and_back(tmp_path):
  module = reference(TINY)
  convert.write_autoencoder(tmp_path / "ours", TINY, params_of(module, TINY))
  again = diffusers.AutoencoderKL.from_pretrained(tmp_path / "ours")
  for name, value in module.state_dict().items():
    np.testing.assert_array_equal(again.state_dict()[name], value, err_msg=name)
  module.save_pretrained(tmp_path / "theirs")
  config, params = convert.read_autoencoder(tmp_path / "theirs")
  assert config == TINY
  np.testing.assert_array_equal(
    params["decoder"]["up_1"]["bias"], params_of(module, TINY)["decoder"]["up_1"]["bias"]
  )


@pytest.mark.slow
def test_the_published_size_is_that_of_diffusers():
  module, params, z = check_both_ways(AutoencoderConfig(), (1, 64, 64, 3), (1, 8, 8, 4))
  z = np.tile(z, (1, 3, 3, 1))
  check(autoencoder.decode(AutoencoderConfig(), params, z, tile=TILE), module.tiled_decode(nchw(z)).sample)
