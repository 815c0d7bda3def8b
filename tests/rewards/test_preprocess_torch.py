"""The pipelines themselves, those of torchvision, open_clip, transformers and HPSv2."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from test_preprocess import STEP, pictures  # noqa: F401

from mfm_jax.rewards.preprocess import MEAN, STD, Preprocess

torch = pytest.importorskip("torch", reason="needs PyTorch, the extra `torch`")
transforms = pytest.importorskip("torchvision.transforms", reason="needs torchvision")
BICUBIC = transforms.InterpolationMode.BICUBIC


def ours(picture, **options):
  return np.asarray(Preprocess(**options)(picture[None] / np.float32(255)))[0]


def as_torchvision(x):
  return transforms.Compose([transforms.Resize(224, BICUBIC), transforms.CenterCrop(224)])(x)


def as_hpsv2(x):
  """The longer side to 224, black around the rest: HPSv2's evaluation, which resizes tensors."""
  functional = transforms.functional
  scale = 224 / max(x.shape[1:])
  size = [round(n * scale) for n in x.shape[1:]]
  high, wide = (224 - n for n in size)
  black = [wide // 2, high // 2, wide - wide // 2, high - high // 2]
  return functional.pad(functional.resize(x, size, BICUBIC), black)


@pytest.mark.parametrize(("resize", "fit"), [(as_torchvision, "shortest"), (as_hpsv2, "longest")])
def test_what_is_resized_as_a_tensor_is_the_same(pictures, resize, fit):  # noqa: F811
  """In float64: PyTorch's weights of float32 are 5e-5 off themselves."""
  worst = 0.0
  for picture in pictures:
    x = resize(torch.from_numpy(picture.transpose(2, 0, 1) / 255))
    expected = transforms.Normalize(MEAN, STD)(x).numpy().transpose(1, 2, 0)
    worst = max(worst, np.abs(expected - ours(picture, fit=fit)).max())
  print(f"{fit} {worst:.1e}")
  assert worst <= 1e-5


def open_clip_pipeline(picture):
  library = pytest.importorskip("open_clip.transform", reason="needs open_clip")
  return library.image_transform(224, is_train=False)(Image.fromarray(picture)).numpy()


def transformers_pipeline(picture):
  library = pytest.importorskip("transformers", reason="needs transformers")
  return library.CLIPImageProcessor()(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]


@pytest.mark.parametrize(
  ("pipeline", "crop"), [(open_clip_pipeline, "round"), (transformers_pipeline, "floor")]
)
def test_what_is_resized_in_8_bits_differs_by_the_rounding(pictures, pipeline, crop):  # noqa: F811
  """Half a step in the mean; a crop that is a pixel off differs by tens of steps."""
  found = [pipeline(picture).transpose(1, 2, 0) - ours(picture, crop=crop) for picture in pictures]
  steps = np.array([np.abs(difference * np.array(STD)).mean() / STEP for difference in found])
  print(f"{crop}: steps of 8 bits {steps.mean():.3f}, worst picture {steps.max():.3f}")
  assert steps.mean() <= 0.5


def test_the_crop_of_an_odd_rest_differs():
  """One of the photographs at a size whose rest is 3: a pixel lies between torchvision and transformers."""
  picture = load_sample_images().images[0][:224, :227]
  round_, floor = (ours(picture, crop=crop) for crop in ("round", "floor"))
  np.testing.assert_allclose(round_[:, :-1], floor[:, 1:], atol=1e-5)
