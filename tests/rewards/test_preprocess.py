"""The pipelines of the preference models: PIL's resize in floats and in 8 bits, crop, normalisation."""

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from mfm_jax.rewards import preprocess
from mfm_jax.rewards.preprocess import MEAN, STD, Preprocess

STEP = 1 / 255
# (H, W), all odd or uneven; shrunk and enlarged, upright and lying.
SIZES = ((31, 27), (32, 32), (29, 32), (225, 223), (427, 301), (243, 427), (256, 256), (399, 401))


@pytest.fixture(scope="module")
def pictures(mfm_data_dir):
  """32 pictures (H, W, 3) of 8 bits: 24 of CIFAR-10, of which 3 sizes, and 8 cuts of two photographs."""
  file = np.asarray(Image.open(mfm_data_dir / "cifar10-subset" / "test-00.png"))
  small = file.reshape(-1, 32, 32, 3)[:24]
  photographs = load_sample_images().images
  found = [picture[: SIZES[i % 3][0], : SIZES[i % 3][1]] for i, picture in enumerate(small)]
  for i, (height, width) in enumerate(SIZES):
    found.append(photographs[i % 2][-height:, -width:])
  return found


def normalised(x):
  return (x - np.array(MEAN)) / np.array(STD)


def pil_resize(picture, size):
  """Each channel in PIL's mode of 32-bit floats."""
  channels = [Image.fromarray(picture[..., c].astype(np.float32)) for c in range(3)]
  return np.stack([np.asarray(c.resize(size[::-1], Image.Resampling.BICUBIC)) for c in channels], -1)


@pytest.mark.parametrize(("crop", "size"), [("round", 224), ("floor", 96)])
def test_floats_are_those_of_pil(pictures, crop, size):
  """And 8 bits are the same matrices, rounded and clipped after either axis, the rows first."""
  worst, difference, wrong = 0.0, [], []
  for picture in pictures:
    height, width = picture.shape[:2]
    how = Preprocess(size=size, crop=crop)
    ours = np.asarray(how(picture[None] / np.float32(255)))[0]
    whole = size * height // min(height, width), size * width // min(height, width)
    rest = [n - size for n in whole]
    top, left = (n // 2 if crop == "floor" else round(n / 2) for n in rest)
    cut = slice(top, top + size), slice(left, left + size)
    worst = max(worst, np.abs(ours - normalised(pil_resize(picture / 255, whole)[cut])).max())
    bits = np.asarray(Image.fromarray(picture).resize(whole[::-1], Image.Resampling.BICUBIC))[cut]
    difference.append(np.abs(bits / 255 - (ours * np.array(STD) + np.array(MEAN))).mean() / STEP)
    vertical, horizontal = how.matrices(height, width)
    rows = np.einsum("jw,hwc->hjc", horizontal, picture).round().clip(0, 255)
    wrong.append((np.einsum("ih,hjc->ijc", vertical, rows).round().clip(0, 255) != bits).mean())
  assert len(pictures) == 32
  print(f"floats {worst:.1e}; 8 bits {np.mean(difference):.3f} steps, emulated but for {np.mean(wrong):.1e}")
  assert worst <= 1e-5
  assert np.mean(wrong) <= 0.01  # PIL's weights have 22 bits: halves may be rounded the other way
  assert np.mean(difference) <= 0.5


def test_the_longest_side_fits_and_black_is_added():
  x = np.random.default_rng(0).uniform(size=(1, 20, 41, 3)).astype(np.float32)
  out = np.asarray(Preprocess(size=32, fit="longest")(x))[0]
  black = normalised(np.zeros(3))
  rows = round(20 * 32 / 41)
  top = (32 - rows) // 2
  np.testing.assert_allclose(out[:top], np.broadcast_to(black, (top, 32, 3)), atol=1e-5)
  np.testing.assert_allclose(out[top + rows :], np.broadcast_to(black, (32 - top - rows, 32, 3)), atol=1e-5)
  np.testing.assert_allclose(out[top : top + rows], normalised(pil_resize(x[0], (rows, 32))), atol=1e-5)


def test_a_resize_that_does_nothing_and_one_of_a_constant():
  np.testing.assert_allclose(preprocess.resize_matrix(9, 9), np.eye(9), atol=1e-12)
  for old, new in ((7, 23), (23, 7)):
    np.testing.assert_allclose(preprocess.resize_matrix(old, new).sum(1), np.ones(new), atol=1e-12)


def test_the_gradient_passes_outside_of_the_unit_interval():
  x = np.array([-3.0, 0.5, 4.0], np.float32)[:, None, None, None] * np.ones((1, 8, 8, 3), np.float32)
  gradient = jax.grad(lambda x: Preprocess(size=8)(x).sum())(x)
  np.testing.assert_allclose(gradient, np.broadcast_to(1 / np.array(STD), x.shape), rtol=1e-5)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: Preprocess(size=0), "size must be at least 1; got 0"),
    (lambda: Preprocess(fit="squash"), "fit must be one of shortest, longest; got 'squash'"),
    (lambda: Preprocess(crop="up"), "crop must be one of round, floor; got 'up'"),
    (lambda: Preprocess()(np.zeros((2, 8, 8, 1))), r"must have shape \(B, H, W, 3\); got \(2, 8, 8, 1\)"),
    (lambda: preprocess.resize_matrix(0, 3), "old must be at least 1; got 0"),
    (lambda: preprocess.resize_matrix(3, 0), "new must be at least 1; got 0"),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()
