"""Every loader of weights says, of a missing file or one of another network, which one is meant."""

import numpy as np
import pytest

from mfm_jax import convert
from mfm_jax.convert.inception import read_inception
from mfm_jax.convert.names import KINDS, PUBLISHED
from mfm_jax.rewards.published import HEAD, WEIGHTS, PreferenceConfig
from mfm_jax.training import converted
from mfm_jax.training.converted import Weights


def of_preference(name):
  def read(path):
    own = {"weights": str(path), "architecture": "tiny", "prompt": "A dog."}
    return PreferenceConfig(**own, head=str(path) if name == "aesthetic" else "").build(name)

  return read


LOADERS = {
  "autoencoder": (convert.read_autoencoder, "stabilityai/sd-vae-ft-mse"),
  "inception": (read_inception, "mseitzer/pytorch-fid"),
  "aesthetic": (of_preference("aesthetic"), WEIGHTS["aesthetic"]),
  **{
    kind: (lambda path, kind=kind: converted.read(path, Weights(kind=kind)), PUBLISHED[kind])
    for kind in KINDS
  },
}


@pytest.mark.parametrize("name", LOADERS)
def test_missing_and_foreign_weights(name, tmp_path):
  read, source = LOADERS[name]
  path = tmp_path / "weights.safetensors"
  with pytest.raises(ValueError, match=r"weights\.safetensors") as missing:
    read(path)
  convert.write_state(path, {"head.weight": np.zeros((2, 2), np.float32)}, {})
  with pytest.raises(ValueError, match=r"weights\.safetensors") as foreign:
    read(path)
  for error in (missing, foreign):
    assert source in str(error.value)


def test_the_head_of_the_aesthetic_predictor(tmp_path):
  with pytest.raises(ValueError, match="head must name") as error:
    PreferenceConfig(weights=__file__, head=str(tmp_path / "head.pth")).check("aesthetic")
  assert HEAD in str(error.value)
