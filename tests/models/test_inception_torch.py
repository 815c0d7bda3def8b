"""The Inception network of FID against pytorch-fid and torch-fidelity, random weights and batch statistics.

torch-fidelity's extractor is TensorFlow's pipeline (its resize, uint8 input), ADM's convention. Needs PyTorch
and both packages.
"""

import inception_case
import jax
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from mfm_jax.convert import inception as convert
from mfm_jax.models import inception

torch = pytest.importorskip("torch", reason="needs PyTorch, the extra `torch`")
fid = pytest.importorskip("pytorch_fid.inception", reason="needs pytorch-fid")
fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="needs torch-fidelity")


def relative(found, expected) -> float:
  return np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
  """Parameters of ours, pytorch-fid's network, torch-fidelity's and its spatial features (a list)."""
  state = inception_case.state()
  tensors = {name: torch.from_numpy(value) for name, value in state.items()}
  with pytest.MonkeyPatch.context() as patch:  # the constructor downloads
    patch.setattr(fid, "load_state_dict_from_url", lambda *args, **kwargs: tensors)
    blocks = fid.InceptionV3().eval()
  path = tmp_path_factory.mktemp("weights") / convert.FILE
  torch.save(tensors, path)
  names = ["2048", "logits", "logits_unbiased"]
  whole = fidelity.FeatureExtractorInceptionV3("fid", names, feature_extractor_weights_path=str(path))
  spatial = []
  whole.Mixed_6d.branch1x1.register_forward_hook(lambda module, given, out: spatial.append(out))
  return convert.read_inception(path), blocks, whole, spatial


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32), (427, 331)])
def test_features_are_those_of_both_packages(networks, size):
  params, blocks, whole, spatial = networks
  china = load_sample_image("china.jpg")[: size[0], : size[1]]
  noise = np.random.default_rng(0).integers(0, 256, china.shape, np.uint8)
  pixels = np.stack([china, noise])
  tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
  features = jax.jit(inception.features, static_argnums=2)
  with torch.no_grad():
    pool, logits, unbiased = (value.numpy() for value in whole(tensor))
    half_pixel = blocks(tensor.float() / 255.0)[0][..., 0, 0].numpy()
  found = features(params, pixels, "adm")
  around = spatial[-1][:, :7].permute(0, 2, 3, 1).reshape(2, -1).numpy()
  for ours, theirs in zip(found, (pool, around, unbiased, logits), strict=True):
    assert relative(ours, theirs) <= 1e-4
  assert relative(features(params, pixels, "pytorch_fid").pool, half_pixel) <= 1e-4
  assert relative(half_pixel, pool) > 1e-3  # the conventions differ
