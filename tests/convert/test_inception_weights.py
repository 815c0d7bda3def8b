"""Weights of the Inception network: strict reading, folded batch normalisation."""

import inception_case
import jax
import numpy as np
import pytest
import safetensors.numpy

from mfm_jax.convert import inception as convert
from mfm_jax.models.inception import Inception


@pytest.fixture(scope="module")
def state():
  return inception_case.state()


def test_the_parameters_are_those_of_the_network(state):
  fresh = jax.eval_shape(Inception().init, jax.random.key(0), np.zeros((1, 299, 299, 3), np.float32))
  found = convert.to_params({**state, "Mixed_5b.branch1x1.bn.num_batches_tracked": np.zeros(())})
  assert jax.tree.map(np.shape, found) == jax.tree.map(lambda leaf: leaf.shape, fresh["params"])


def test_batch_normalisation_is_folded(state):
  name = "Mixed_5b.branch1x1"
  conv, weight, bias, mean, variance = (
    state[f"{name}.{leaf}"].astype(np.float64)
    for leaf in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
  )
  x = np.random.default_rng(0).normal(size=192)
  expected = (conv[:, :, 0, 0] @ x - mean) / np.sqrt(variance + 1e-3) * weight + bias
  leaves = convert.to_params(state)["Mixed_5b"]["branch1x1"]["conv"]
  np.testing.assert_allclose(x @ leaves["kernel"][0, 0] + leaves["bias"], expected, rtol=1e-5, atol=1e-5)


def test_mistakes_name_the_tensor(state):
  name = "Conv2d_1a_3x3.conv.weight"
  less = {key: value for key, value in state.items() if key != name}
  with pytest.raises(ValueError, match=f"must hold {name}; got"):
    convert.to_params(less)
  with pytest.raises(ValueError, match=r"tensors alone; got AuxLogits\.fc\.bias"):
    convert.to_params({**state, "AuxLogits.fc.bias": np.zeros(2)})
  with pytest.raises(ValueError, match=rf"{name} must have shape \(32, 3, 3, 3\); got \(32, 3, 3\)"):
    convert.to_params({**state, name: state[name][..., 0]})


def test_a_missing_file_says_where_it_is_published(tmp_path):
  with pytest.raises(
    ValueError, match=r"pt_inception-2015-12-05-6726825d.pth of https://github.com/mseitzer"
  ):
    convert.read_inception(tmp_path / "no.pth")
  other = tmp_path / "other.safetensors"
  safetensors.numpy.save_file({"x": np.zeros(2)}, other)
  with pytest.raises(
    ValueError, match=r"other.safetensors must hold the weights of pt_inception.*Conv2d_1a_3x3"
  ):
    convert.read_inception(other)
