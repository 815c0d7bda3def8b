"""The published networks of the golden files as ours, and the comparison that their README asks for."""

import functools

import jax.numpy as jnp
import numpy as np

from mfm_jax import convert, flow_map
from mfm_jax.interpolants import Linear
from mfm_jax.models import ModelConfig, build
from mfm_jax.models.dit import DiTConfig
from mfm_jax.precondition import GaussianSkip
from mfm_jax.types import expand_like


def nhwc(x):
  """(..., C, H, W) -> (..., H, W, C)."""
  return jnp.moveaxis(jnp.asarray(x), -3, -1)


def error(ours, theirs):
  """Largest difference over the largest value."""
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
  return np.abs(ours - theirs).max() / np.abs(theirs).max()


def model_config(golden, variant):
  """The configuration of a variant, in compatibility mode: guidance in the encoder alone."""
  published = golden.json("configs")[variant]
  sizes = published["dit"]
  return ModelConfig(
    name="dit",
    width=sizes["hidden_size"],
    depth=sizes["depth"],
    heads=sizes["num_heads"],
    patch=sizes["patch_size"],
    precondition=False,
    dit=DiTConfig(
      encoder_depth=sizes["encoder_depth"],
      joint_attention=sizes.get("use_joint_attention", False),
      qk_norm=sizes.get("qk_norm", False),
      preserve_at_zero=sizes.get("preserve_t_cond_0", False),
      reverse_time=sizes["is_zero_data"],
      residual_context=published["use_parametrization"],
      guidance_decoder=False,
    ),
  )


@functools.cache
def model(golden, variant, weights=""):
  """(Model, parameters) of a variant, at the weights of another where these are named."""
  config, sizes = model_config(golden, variant), golden.json("configs")[variant]["dit"]
  built = build(
    config,
    shape=(sizes["input_size"], sizes["input_size"], sizes["in_channels"]),
    num_classes=sizes["label_dim"],
    guidance_scales=tuple(sizes["model_guidance_class_ws"]),
    skip=GaussianSkip(interpolant=Linear(), data_std=1.0),
  )
  state, _ = convert.strip_prefix(golden(f"A_{weights or variant}_weights"), "mfm")
  params, _ = convert.to_params(state, "mfm", config.dit)
  return built, {"net": params}


def velocity(golden, variant, weights=""):
  """The network as a Velocity."""
  built, params = model(golden, variant, weights)
  return built.velocity(params)


def teacher(golden):
  """The network that the files use wherever a second one is needed: base, at other weights."""
  return velocity(golden, "base", "parametrization")


def marginal_teacher(golden):
  """Its marginal velocity, at guidance scale 1."""
  return flow_map.marginal_velocity(teacher(golden))


def condition(labels, scale):
  """The conditioning of arrays of labels and guidance scales."""
  label = jnp.asarray(labels, jnp.int32)
  return {"label": label, "guidance": jnp.broadcast_to(jnp.asarray(scale, jnp.float32), label.shape)}


def published_default_scale(golden):
  """What the published samplers draw at: they ask for 2.5 and round to the nearest trained scale."""
  trained = np.array([1.0, *golden.json("configs")["base"]["dit"]["model_guidance_class_ws"]])
  return float(trained[np.abs(trained - 2.5).argmin()])


def rewards(file):
  """{"quad", "tanh"}: the rewards of a file as ours, of images NHWC."""
  centre = nhwc(file["reward_a"])
  out = {"quad": lambda x, cond: -0.5 * ((x - centre[None]) ** 2).mean((1, 2, 3))}
  if "reward_W" in file:
    matrix, offset = jnp.asarray(file["reward_W"]), jnp.asarray(file["reward_b"])[None]

    def flat(x):
      return jnp.moveaxis(x, -1, 1).reshape(len(x), -1)  # the published order C, H, W

    out["tanh"] = lambda x, cond: jnp.tanh(flat(x) @ matrix.T + offset).sum(-1)
  return out


def published_gain(interpolant, t, clip=25.0):
  """sigma^2 / 2 with the clip of the published steering, (1 - t) / t at most `clip`."""
  del interpolant
  return jnp.minimum(1.0 / (t + 1e-8) - 1.0, clip)


def published_inner_velocity(teacher, interpolant, s, x_s, t, x_t, cond):
  """GLASS with the published clamp on its denominator (golden README, convention 17)."""
  assert isinstance(interpolant, Linear)
  s, t = (expand_like(time, x_s) for time in (s, t))
  d = jnp.maximum(t**2 * (1 - s) ** 2 + (1 - t) ** 2 * s**2, 1e-6)
  p = (1 - t) ** 2 / d
  r = jnp.sqrt(p)
  time = 1 / (1 + (1 - s) * r)
  x = time * ((1 - s) ** 2 * t / d * x_t + s * p * x_s)
  inner = teacher(time.reshape(-1), x, cond)
  own = ((1 - t) ** 2 * (1 + s) - t**2 * (1 - s)) / d - p - r
  return time * ((1 - s) * t / d * x_t + own * x_s + r * inner)


def check_gradients(golden, file, gradients):
  """Gradients of the parameters of `base` against the recorded norms and tensors."""
  sizes = golden.json("configs")["base"]["dit"]
  how = {"patch": sizes["patch_size"], "grid": sizes["input_size"] // sizes["patch_size"]}
  state = convert.to_state(gradients["net"], "mfm", model_config(golden, "base").dit, **how)
  norms = [np.linalg.norm(state[str(name).split("dit.")[1]].ravel()) for name in file["param_names"]]
  assert error(norms, file["param_grad_norms"]) <= 5e-5
  for key in file:
    if key.startswith("grad__"):
      assert error(state[key.removeprefix("grad__")], file[key]) <= 5e-5, key
