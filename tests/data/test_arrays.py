"""Folders of a user's own arrays and of strips of pictures."""

import numpy as np
import pytest
from PIL import Image

from mfm_jax.data import arrays, datasets, sources
from mfm_jax.data.datasets import DataConfig

RNG = np.random.default_rng(0)


def write_arrays(folder, **changes):
  for split, n in (("train", 6), ("test", 4)):
    found = {"x1": RNG.normal(size=(n, 2, 2, 3)).astype(np.float32), "label": np.arange(n) % 3, **changes}
    np.savez(folder / f"{split}.npz", **{name: value for name, value in found.items() if value is not None})
  return folder


def write_strips(folder, n=5, width=4, strips=2):
  pixels = RNG.integers(256, size=(strips, n, width, width, 3), dtype=np.uint8)
  for split in ("train", "test"):
    for i, strip in enumerate(pixels):
      Image.fromarray(strip.reshape(n * width, width, 3)).save(folder / f"{split}-{i:02d}.png")
    np.save(folder / f"{split}-labels.npy", np.arange(strips * n) % 3)
  return pixels.reshape(-1, width, width, 3)


def test_arrays_are_taken_as_they_are(tmp_path):
  write_arrays(tmp_path)
  data = datasets.load(DataConfig(name="arrays", path=str(tmp_path), classes=3, shape=(2, 2, 3)))
  stored = np.load(tmp_path / "train.npz")
  taken = data.train.take(np.arange(6))
  np.testing.assert_array_equal(taken["x1"], stored["x1"])
  np.testing.assert_array_equal(taken["label"], stored["label"])
  assert (data.shape, data.num_classes, len(data.test)) == ((2, 2, 3), 3, 4)
  unlabelled = arrays.array_folder(write_arrays(tmp_path, label=None), "test", labelled=False)
  assert unlabelled.num_classes == 0


@pytest.mark.parametrize(
  ("changes", "config", "message"),
  [
    ({"x1": None}, {}, r"train.npz must hold the arrays x1, label; got label"),
    ({"label": np.full(6, 3)}, {}, r"label must lie in 0..2; got 3 at index 0 in .*train.npz"),
    ({}, {"shape": (2, 2, 4)}, r"an example of the train split .* must have shape \(2, 2, 4\)"),
    ({}, {"path": "nowhere"}, r"data.path must be a folder with train.npz and test.npz; got no nowhere"),
    ({}, {"path": ""}, r"data.path must name a folder with train.npz and test.npz .*; got ''"),
  ],
)
def test_bad_arrays_are_refused(tmp_path, changes, config, message):
  write_arrays(tmp_path, **changes)
  with pytest.raises(ValueError, match=message):
    datasets.load(DataConfig(name="arrays", **{"path": str(tmp_path), "classes": 3, **config}))


def test_a_damaged_file_is_refused(tmp_path):
  write_arrays(tmp_path)
  for content in (b"PK\x03\x04 and no more", b""):
    (tmp_path / "train.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"train.npz must be a readable .npz file"):
      arrays.array_folder(tmp_path, "train")


def test_strips_are_cut_into_pictures(tmp_path):
  pixels = write_strips(tmp_path)
  source = arrays.strip_folder(tmp_path, "train", num_classes=3)
  np.testing.assert_array_equal(source.x1, pixels)
  np.testing.assert_array_equal(source.label, np.arange(10) % 3)
  assert source.take(np.array([3]))["x1"].max() <= 1.0


def test_bad_strips_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"data.path must be a folder with train-00.png, ...; got none in"):
    arrays.strip_folder(tmp_path, "train")
  write_strips(tmp_path)
  np.save(tmp_path / "train-labels.npy", np.arange(3))
  with pytest.raises(ValueError, match=r"x1 and label must have one length; .* in the train split"):
    arrays.strip_folder(tmp_path, "train")
  (tmp_path / "train-labels.npy").unlink()
  with pytest.raises(ValueError, match=r"train-labels.npy must be a readable .npy file"):
    arrays.strip_folder(tmp_path, "train")
  Image.fromarray(np.zeros((9, 4, 3), np.uint8)).save(tmp_path / "train-00.png")
  with pytest.raises(ValueError, match=r"height of .*train-00.png must be a multiple of its width; got 9x4"):
    arrays.strip_folder(tmp_path, "train")
  (tmp_path / "test-01.png").write_bytes(b"not a picture")
  with pytest.raises(ValueError, match=r"test-01.png must be a readable picture"):
    arrays.strip_folder(tmp_path, "test")


def test_the_cifar_strips(mfm_data_dir):
  data = datasets.load(DataConfig(name="strips", path=str(mfm_data_dir / "cifar10-subset")))
  assert (len(data.train), len(data.test), data.shape) == (20_000, 5_000, (32, 32, 3))
  np.testing.assert_array_equal(np.bincount(data.train.label), np.full(10, 2000))


def test_noise_is_standard_normal_and_its_splits_differ():
  data = datasets.load(
    DataConfig(name="noise", shape=(4, 4, 2), classes=3, train_size=500, test_size=500, seed=3)
  )
  x, y = data.train.x1, data.test.x1
  assert x.shape == (500, 4, 4, 2)
  assert abs(x.mean()) < 4 / np.sqrt(x.size)
  assert abs(x.std() - 1) < 4 / np.sqrt(2 * x.size)
  assert abs((x * y).mean()) < 4 / np.sqrt(x.size)
  assert set(data.train.label) == {0, 1, 2}
  with pytest.raises(ValueError, match=r"number of axes of data.shape must be at least 1; got 0"):
    sources.noise((), 5, 0)
