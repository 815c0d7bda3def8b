"""The autoencoder of latent diffusion <-> the folder that diffusers publishes it as."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mfm_jax.convert import parameters
from mfm_jax.convert.files import read_state, write_state
from mfm_jax.convert.names import Entry
from mfm_jax.models import autoencoder
from mfm_jax.models.autoencoder import AutoencoderConfig
from mfm_jax.types import PyTree

FILE, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
PUBLISHED = "huggingface.co/stabilityai/sd-vae-ft-mse"
_LISTED = 8  # tensors that an error names
# Our layers -> theirs, the first that matches; {top} is the level counted from the coarsest.
_LAYERS = (
  (r"encoder/moments", "quant_conv"),
  (r"decoder/latent", "post_quant_conv"),
  (r"(.+)/conv_(in|out)", r"\1.conv_\2"),
  (r"(.+)/norm_out", r"\1.conv_norm_out"),
  (r"(.+)/middle_block_(\d)/(.+)", r"\1.mid_block.resnets.\2.\3"),
  (r"(.+)/middle_attention/norm", r"\1.mid_block.attentions.0.group_norm"),
  (r"(.+)/middle_attention/query", r"\1.mid_block.attentions.0.to_q"),
  (r"(.+)/middle_attention/key", r"\1.mid_block.attentions.0.to_k"),
  (r"(.+)/middle_attention/value", r"\1.mid_block.attentions.0.to_v"),
  (r"(.+)/middle_attention/projection", r"\1.mid_block.attentions.0.to_out.0"),
  (r"encoder/down_(\d+)", r"encoder.down_blocks.\1.downsamplers.0.conv"),
  (r"encoder/level_(\d+)_block_(\d+)/(.+)", r"encoder.down_blocks.\1.resnets.\2.\3"),
  (r"decoder/up_(\d+)", r"decoder.up_blocks.{top}.upsamplers.0.conv"),
  (r"decoder/level_(\d+)_block_(\d+)/(.+)", r"decoder.up_blocks.{top}.resnets.\2.\3"),
)
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_OLD = {
  "query": "to_q",
  "key": "to_k",
  "value": "to_v",
  "proj_attn": "to_out.0",
}  # names before diffusers 0.18
# Keys of config.json -> ours, and those that have one value here.
_KEYS = {
  "block_out_channels": "channels",
  "layers_per_block": "blocks",
  "norm_num_groups": "groups",
  "latent_channels": "latent_channels",
  "scaling_factor": "scale",
  "shift_factor": "shift",
}
_FIXED = {
  "in_channels": 3,
  "out_channels": 3,
  "act_fn": "silu",
  "latents_mean": None,
  "latents_std": None,
  "use_quant_conv": True,
  "use_post_quant_conv": True,
  "mid_block_add_attention": True,
}


def read_autoencoder(path: str | pathlib.Path) -> tuple[AutoencoderConfig, PyTree]:
  """Sizes and parameters from a folder as diffusers writes it, or from its .safetensors file alone.

  The sizes, scale and shift are those of the config.json beside the weights; without one the published ones.

  Raises:
    ValueError: no such file (the message says where it is published) or one that cannot be read; a
      config.json of another kind of autoencoder; tensors that are missing, unknown or of other shapes.
  """
  path = pathlib.Path(path)
  file = path / FILE if path.is_dir() else path
  if not file.is_file():
    raise ValueError(
      f"an autoencoder must be the folder of {FILE}, or this file, as published at {PUBLISHED}; got no {file}"
    )
  config = _read_config(file.with_name(CONFIG))
  try:
    return config, to_params(read_state(file), config)
  except ValueError as error:
    raise ValueError(
      f"{file} must hold the weights of {FILE}, as published at {PUBLISHED}: {error}"
    ) from error


def write_autoencoder(folder: str | pathlib.Path, config: AutoencoderConfig, params: PyTree) -> None:
  """Writes the folder that `read_autoencoder` and diffusers' AutoencoderKL.from_pretrained read.

  Raises:
    ValueError: weights that are there.
  """
  folder = pathlib.Path(folder)
  write_state(folder / FILE, to_state(params, config), {"format": "pt"})
  levels = len(config.channels)
  sizes = {theirs: getattr(config, ours) for theirs, ours in _KEYS.items()}
  kinds = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"] * levels,
    "up_block_types": ["UpDecoderBlock2D"] * levels,
  }
  (folder / CONFIG).write_text(json.dumps({**kinds, **sizes, **_FIXED}, indent=2) + "\n")


def to_params(state: Mapping[str, np.ndarray], config: AutoencoderConfig) -> PyTree:
  """Parameters of `models.autoencoder` from published tensors by name, every one used once.

  Raises:
    ValueError: tensors that are missing, unknown or of other shapes, with names and shapes.
  """
  state = {_new_name(name): _linear(name, value) for name, value in state.items()}
  like = _shapes(config)
  known = {entry.names[0]: entry for entry in entries(config)}
  expected = {
    name: _their_shape(parameters.take(like, entry.path).shape, entry.layout) for name, entry in known.items()
  }
  missing = [f"{name} {shape}" for name, shape in expected.items() if name not in state]
  unknown = [f"{name} {value.shape}" for name, value in state.items() if name not in expected]
  wrong = [
    f"{name} {state[name].shape}, not {shape}"
    for name, shape in expected.items()
    if name in state and state[name].shape != shape
  ]
  found = [("missing", missing), ("unknown", unknown), ("of another shape", wrong)]
  if any(names for _, names in found):
    listed = "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in found if names)
    raise ValueError(
      f"an autoencoder of channels {config.channels} must have its {len(known)} tensors; {listed}"
    )
  out: dict = {}
  for name, entry in known.items():
    parameters.put(out, entry.path, parameters.to_ours(np.asarray(state[name], np.float32), entry.layout))
  return out


def to_state(params: PyTree, config: AutoencoderConfig) -> parameters.State:
  """The inverse of `to_params`, under the names that diffusers writes now."""
  return {
    entry.names[0]: parameters.to_theirs(np.asarray(parameters.take(params, entry.path)), entry.layout)
    for entry in entries(config)
  }


def entries(config: AutoencoderConfig) -> list[Entry]:
  """Every tensor, in the order of our paths."""
  out = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(_shapes(config)):
    path = tuple(key.key for key in path)
    layout = {4: "conv", 2: "linear", 1: "same"}[leaf.ndim]
    name = f"{_their_layer('/'.join(path[:-1]), len(config.channels))}.{_LEAVES[path[-1]]}"
    out.append(Entry((name,), path, layout, False))
  return out


def _their_layer(layer: str, levels: int) -> str:
  for pattern, template in _LAYERS:
    found = re.fullmatch(pattern, layer)
    if found:
      name = found.expand(template).replace(".shortcut", ".conv_shortcut")
      return name.replace("{top}", str(levels - 1 - int(found[1]))) if "{top}" in name else name
  raise AssertionError(layer)  # a layer of ours without a name is a bug of this module


def _shapes(config: AutoencoderConfig) -> PyTree:
  return jax.eval_shape(lambda: autoencoder.init(jax.random.key(0), config))


def _their_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
  return (shape[3], shape[2], *shape[:2]) if layout == "conv" else shape[::-1]


def _new_name(name: str) -> str:
  layer, _, leaf = name.rpartition(".")
  before, _, last = layer.rpartition(".")
  return f"{before}.{_OLD[last]}.{leaf}" if before.endswith("attentions.0") and last in _OLD else name


def _linear(name: str, value: np.ndarray) -> np.ndarray:
  """The attention's matrices, which were convolutions of one pixel in the first checkpoints."""
  one_pixel = ".attentions.0." in name and value.ndim == 4 and value.shape[2:] == (1, 1)
  return value[:, :, 0, 0] if one_pixel else value


def _read_config(file: pathlib.Path) -> AutoencoderConfig:
  if not file.is_file():
    return AutoencoderConfig()
  try:
    stored: dict[str, Any] = json.loads(file.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"{file} must be JSON; got {error}") from None
  for key, value in _FIXED.items():
    if stored.get(key, value) != value:
      raise ValueError(f"{key} must be {value} for an autoencoder; got {stored[key]} in {file}")
  found = {ours: stored[theirs] for theirs, ours in _KEYS.items() if stored.get(theirs) is not None}
  try:
    return AutoencoderConfig(
      **{**found, "channels": tuple(found.get("channels", AutoencoderConfig().channels))}
    )
  except (TypeError, ValueError) as error:
    raise ValueError(f"{file} must have the sizes of an autoencoder; got {error}") from error


def _some(names: list[str]) -> str:
  more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
  return ", ".join(names[:_LISTED]) + more
