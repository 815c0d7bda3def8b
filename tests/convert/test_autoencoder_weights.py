"""Weights of the autoencoder: both generations of names, and what is refused."""

import json

import numpy as np
import pytest
import vae_case

from mfm_jax import convert
from mfm_jax.convert import autoencoder as conversion
from mfm_jax.models.autoencoder import AutoencoderConfig

CONFIG = vae_case.CONFIG
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
QUERY = "encoder.mid_block.attentions.0.to_q.weight"


def state_of():
  return conversion.to_state(vae_case.params(), CONFIG)


def same(found, expected):
  assert [path for path, _ in _leaves(found)] == [path for path, _ in _leaves(expected)]
  for (path, left), (_, right) in zip(_leaves(found), _leaves(expected), strict=True):
    np.testing.assert_array_equal(left, right, err_msg=str(path))


def _leaves(tree, path=()):
  if not isinstance(tree, dict):
    return [(path, tree)]
  return [leaf for name in sorted(tree) for leaf in _leaves(tree[name], (*path, name))]


def test_a_folder_is_read_as_it_was_written(tmp_path):
  vae_case.write_vae(tmp_path)
  for path in (tmp_path, tmp_path / conversion.FILE):
    config, params = convert.read_autoencoder(path)
    assert config == CONFIG
    same(params, vae_case.params())
  with pytest.raises(ValueError, match="weights must go to a new file"):
    vae_case.write_vae(tmp_path)


@pytest.mark.parametrize("square", [False, True])
def test_the_names_and_shapes_of_the_first_checkpoints(square):
  old = {}
  for name, value in state_of().items():
    for new, before in OLD.items():
      if f"attentions.0.{new}." in name:
        name = name.replace(new, before)
        value = value[:, :, None, None] if square and value.ndim == 2 else value
    old[name] = value
  assert any("proj_attn" in name for name in old)
  same(conversion.to_params(old, CONFIG), vae_case.params())


def test_every_tensor_is_named():
  names = [entry.names[0] for entry in conversion.entries(AutoencoderConfig())]
  assert len(set(names)) == len(names) == 248  # of sd-vae-ft-mse
  for name in ("quant_conv.bias", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight", QUERY):
    assert name in names


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda s: s.pop(QUERY), r"1 missing: encoder\.mid_block\.attentions\.0\.to_q\.weight \(8, 8\)"),
    (
      lambda s: s.update({"first.bias": np.zeros(3)}),
      r"must have its \d+ tensors; 1 unknown: first\.bias \(3,\)",
    ),
    (
      lambda s: s.update({"quant_conv.bias": np.zeros(4)}),
      r"1 of another shape: quant_conv\.bias \(4,\), not \(8,\)",
    ),
    (lambda s: s.clear(), r"missing: .* and \d+ more"),
  ],
)
def test_tensors_that_do_not_fit_are_listed(change, message):
  state = state_of()
  change(state)
  with pytest.raises(ValueError, match=message):
    conversion.to_params(state, CONFIG)


def test_files_that_are_missing_say_where_they_are_published(tmp_path):
  where = (
    r"diffusion_pytorch_model\.safetensors, .* as published at huggingface\.co/stabilityai/sd-vae-ft-mse"
  )
  for path in (tmp_path, tmp_path / "vae.safetensors"):
    with pytest.raises(ValueError, match=where):
      convert.read_autoencoder(path)


def test_files_that_are_of_something_else_are_named(tmp_path):
  vae_case.write_vae(tmp_path)
  config = tmp_path / conversion.CONFIG
  stored = json.loads(config.read_text())
  for changes, message in (
    ({"act_fn": "relu"}, "act_fn must be silu for an autoencoder; got relu in .*config.json"),
    ({"latents_mean": [0.0]}, "latents_mean must be None"),
    (
      {"layers_per_block": 2},
      r"safetensors must hold the weights of diffusion_pytorch.*, as published at .*missing: ",
    ),
    (
      {"norm_num_groups": 3},
      "must have the sizes of an autoencoder; got channels must be multiples of groups=3",
    ),
    ({"layers_per_block": "2"}, "must have the sizes of an autoencoder"),
  ):
    config.write_text(json.dumps({**stored, **changes}))
    with pytest.raises(ValueError, match=message):
      convert.read_autoencoder(tmp_path)
  config.write_text("{")
  with pytest.raises(ValueError, match=r"config\.json must be JSON"):
    convert.read_autoencoder(tmp_path)
  config.unlink()  # then it must have the published sizes
  with pytest.raises(ValueError, match=r"channels \(128, 256, 512, 512\) must have its 248 tensors"):
    convert.read_autoencoder(tmp_path)
  (tmp_path / conversion.FILE).write_bytes(b"junk")
  with pytest.raises(ValueError, match="must be a safetensors file"):
    convert.read_autoencoder(tmp_path)
