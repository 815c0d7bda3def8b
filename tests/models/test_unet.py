"""The UNet: its size for MNIST, its ways from input to output, double-precision derivatives, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import mnist, mnist_cpu
from mfm_jax.interpolants import Linear
from mfm_jax.models import ModelConfig, build, unet
from mfm_jax.precondition import GaussianSkip
from mfm_jax.training.config import RunConfig, from_dict

SKIP = GaussianSkip(interpolant=Linear(), data_std=0.5)
SHAPE, CLASSES, N = (8, 8, 2), 5, 2
BLOCKS = ("down_0_0", "down_1_0", "attention", "up_1_0", "up_0_0")


def net_of(dtype=jnp.float32):
  return unet.UNet(
    width=8, depth=1, heads=2, patch=2, multipliers=(1, 2), num_classes=CLASSES, guided=True, dtype=dtype
  )


def inputs(dtype=jnp.float32):
  """s, u, x_s, t, x_t, label, guidance."""
  rng = np.random.default_rng(0)
  s, t, u = np.sort(rng.uniform(size=(3, N)), axis=0)
  x, x_t = rng.normal(size=(2, N, *SHAPE))
  point = [jnp.asarray(value, dtype) for value in (s, u, x, t, x_t)]
  return [*point, jnp.arange(N), jnp.full(N, 2.5, dtype)]


@functools.cache
def params_of():
  return jax.jit(net_of().init)(jax.random.key(0), *inputs())["params"]


@functools.cache
def compiled():
  """(params, inputs) -> (N, 8, 8, 2)."""
  return jax.jit(lambda params, *point: net_of().apply({"params": params}, *point))


def without(params, *path):
  """`params` with zeros for all below `path`."""
  name, *rest = path
  part = without(params[name], *rest) if rest else jax.tree.map(jnp.zeros_like, params[name])
  return {**params, name: part}


def sizes(get_config, shape):
  config = from_dict(RunConfig, get_config().to_dict())
  scales = config.draws.guidance_scales
  model = build(config.model, shape=shape, num_classes=10, guidance_scales=scales, skip=SKIP)
  params = jax.eval_shape(model.init, jax.random.key(0))
  zeros = [jax.ShapeDtypeStruct((3, *rest), jnp.float32) for rest in ((), (), shape, (), shape)]
  out = jax.eval_shape(lambda params, *point: model.velocity(params)(*point, None), params, *zeros)
  return sum(leaf.size for leaf in jax.tree.leaves(params)), out.shape


def test_the_configurations_have_the_size_of_the_paper_and_one_for_a_cpu():
  count, shape = sizes(mnist.get_config, (32, 32, 1))
  assert 8e6 < count < 10e6  # "UNet (9M)"
  assert shape == (3, 32, 32, 1)
  count, shape = sizes(mnist_cpu.get_config, (32, 32, 1))
  assert 0.2e6 < count < 1e6
  assert shape == (3, 32, 32, 1)


def test_channels_and_blocks_follow_the_configuration():
  config = ModelConfig(name="unet", width=16, depth=2, patch=1, multipliers=(1, 3, 2), heads=4)
  model = build(config, shape=(8, 12, 3), skip=SKIP)
  net = jax.eval_shape(model.init, jax.random.key(0))["net"]
  names = {f"{way}_{level}_{i}" for way in ("down", "up") for level in range(3) for i in range(2)}
  assert {name for name in net if name.startswith(("down", "up"))} == names
  for level, channels in enumerate((16, 48, 32)):
    assert net[f"down_{level}_1"]["conv_in"]["kernel"].shape == (3, 3, channels, channels)
    # What is below and what the way down left, side by side.
    assert net[f"up_{level}_1"]["conv_in"]["kernel"].shape == (3, 3, 2 * channels, channels)
  assert net["shrink_2"]["kernel"].shape == (4 * 48, 32)
  assert net["grow_0"]["kernel"].shape == (48, 4 * 16)
  assert net["state"]["kernel"].shape == net["context"]["kernel"].shape == (3, 3, 3, 16)
  assert net["out"]["kernel"].shape == (3, 3, 16, 3 * 3)  # offset and two slopes


def test_fold_moves_squares_of_pixels_to_channels_and_unfold_brings_them_back():
  x = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
  folded = unet.fold(x, 2)
  assert folded.shape == (2, 2, 3, 12)
  np.testing.assert_array_equal(folded[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
  np.testing.assert_array_equal(unet.unfold(folded, 2), x)


def test_the_state_reaches_the_output_by_each_of_three_ways():
  """From below, over the skip of the finest resolution, and pixel by pixel; with all closed not at all."""
  velocity, (s, u, x, *rest) = compiled(), inputs()

  def effect(params):
    return float(jnp.abs(velocity(params, s, u, x, *rest) - velocity(params, s, u, x[::-1], *rest)).max())

  def no_skip(params):
    """The finest block on the way up reads what comes from below alone."""
    block, keep = params["up_0_0"], (jnp.arange(16) < 8)[:, None]
    kernels = {
      name: {**block[name], "kernel": block[name]["kernel"] * keep.reshape(shape)}
      for name, shape in (("conv_in", (1, 1, 16, 1)), ("skip", (16, 1)))
    }
    return {**params, "up_0_0": {**block, **kernels}}

  def no_pixels(params):
    """The output is the offset alone, of 8 channels: 2x2 pixels of 2."""
    keep = jnp.arange(24) < 8
    out = params["out"]
    out = {"kernel": out["kernel"] * keep.reshape(1, 1, 1, 24), "bias": out["bias"] * keep}
    return {**params, "out": out}

  def no_below(params):
    return without(params, "grow_0", "kernel")

  ways = (no_below, no_skip, no_pixels)
  for opened in ways:
    params = params_of()
    for close in ways:
      params = params if close is opened else close(params)
    assert effect(params) > 1e-2
    assert effect(opened(params)) == 0.0


@pytest.mark.parametrize("name", [*BLOCKS, "out"])
def test_the_conditioning_reaches_the_output_through_every_modulation_alone(name):
  params = params_of()
  places = {**{block: (block, "modulation") for block in BLOCKS}, "out": ("modulation_out",)}
  for other, place in places.items():
    if other != name:
      params = without(params, *place)
  velocity, point = compiled(), inputs()
  value = velocity(params, *point)
  for i, change in ((0, 0.1), (1, 0.1), (3, 0.1), (5, 1), (6, 1.0)):  # s, u, t, label, guidance
    changed = [v + change if i == k else v for k, v in enumerate(point)]
    assert jnp.abs(velocity(params, *changed) - value).max() > 1e-4
  params = without(params, *places[name])
  np.testing.assert_array_equal(
    velocity(params, *point[:5], point[5] + 1, point[6]), velocity(params, *point)
  )


def test_derivatives_are_those_of_finite_differences_in_double_precision(x64):
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params_of())
  *point, label, guidance = inputs(jnp.float64)
  rng = np.random.default_rng(1)
  direction = [jnp.asarray(rng.normal(size=value.shape)) for value in point]

  @jax.jit
  def velocity(*point):
    return net_of(jnp.float64).apply({"params": params}, *point, label, guidance)

  def ahead(h):
    return velocity(*(value + h * d for value, d in zip(point, direction)))

  value, slope = jax.jvp(velocity, tuple(point), tuple(direction))
  assert value.dtype == jnp.float64
  near, far = ((ahead(h) - ahead(-h)) / (2 * h) for h in (1e-3, 2e-3))
  # Richardson: the error is of order h^4; attention rounds its logits to float32, 1e-8 / h.
  np.testing.assert_allclose(slope, (4 * near - far) / 3, atol=5e-5 * jnp.abs(slope).max())


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"multipliers": ()}, "the number of model.multipliers must be at least 1; got 0"),
    ({"multipliers": (1, 0)}, "model.multipliers must be at least 1; got 0"),
    ({"width": 12}, "model.width must be a multiple of 8 for a unet; got 12"),
    (
      {"width": 16, "heads": 5},
      "model.heads must divide the channels of the coarsest resolution; got 32, heads 5",
    ),
  ],
)
def test_bad_sizes_of_a_unet_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    ModelConfig(name="unet", **changes)


@pytest.mark.parametrize(
  ("shape", "message"),
  [
    ((4,), r"model.name=unet needs images \(H, W, C\); got examples of shape \(4,\)"),
    ((7, 8, 1), r"model.patch must divide the image; got patch 2, examples of \(7, 8, 1\)"),
    (
      (28, 28, 1),
      r"model.patch times 2 for every multiplier but the first must divide the image; got 8, "
      r"examples of \(28, 28, 1\)",
    ),
  ],
)
def test_images_that_cannot_be_halved_are_refused(shape, message):
  with pytest.raises(ValueError, match=message):
    build(ModelConfig(name="unet", patch=2, multipliers=(1, 1, 1)), shape=shape, skip=SKIP)
