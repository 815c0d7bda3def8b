"""idx folders: every spelling, padding, damaged files, and the real MNIST where it is at hand."""

import gzip
import os
import pathlib
import struct

import numpy as np
import pytest

from mfm_jax.data import datasets, idx
from mfm_jax.data.datasets import DataConfig


def idx_bytes(array: np.ndarray, code: int = 8) -> bytes:
  header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
  return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_folder(folder: pathlib.Path, *, mark="-", end="", size=(6, 5, 4), classes=3):
  rng = np.random.default_rng(0)
  written = {}
  for stem, count in (("train", size[0]), ("t10k", size[0] // 2)):
    images = rng.integers(0, 256, (count, *size[1:]), dtype=np.uint8)
    labels = (np.arange(count) % classes).astype(np.uint8)
    written[stem] = images, labels
    for kind, array in ((f"images{mark}idx3", images), (f"labels{mark}idx1", labels)):
      content = idx_bytes(array)
      path = folder / f"{stem}-{kind}-ubyte{end}"
      path.write_bytes(gzip.compress(content) if end else content)
  return written


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_idx_folder_reads_every_spelling(tmp_path, mark, end):
  written = write_folder(tmp_path, mark=mark, end=end)
  for split, stem in (("train", "train"), ("test", "t10k")):
    source = idx.idx_folder(tmp_path, split, num_classes=3)
    images, labels = written[stem]
    taken = source.take(np.arange(len(images)))
    assert source.shape == (5, 4, 1)
    np.testing.assert_allclose(taken["x1"][..., 0], images / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(taken["label"], labels)


def test_idx_size_pads_with_background_or_takes_the_border_away(tmp_path):
  images, _ = write_folder(tmp_path)["train"]

  def at(size):
    return idx.idx_folder(tmp_path, "train", num_classes=3, size=size)

  padded = at(8)
  assert padded.shape == (8, 8, 1)
  np.testing.assert_array_equal(padded.x1[:, 1:6, 2:6, 0], images)
  assert padded.x1.sum() == images.sum()
  np.testing.assert_array_equal(at(4).x1[..., 0], images[:, :4])
  np.testing.assert_array_equal(at(3).x1[..., 0], images[:, 1:4, :3])
  np.testing.assert_array_equal(at(5).x1[:, :, :4, 0], images)


def test_idx_reads_other_element_types(tmp_path):
  for code, dtype in ((8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")):
    array = np.array([[1, -2, 3], [100, 5, 6]]).astype(dtype)
    (tmp_path / "a").write_bytes(idx_bytes(array, code))
    found = idx.read_idx(tmp_path / "a")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.dtype(dtype)


def damaged(content: bytes) -> dict[str, tuple[bytes, str]]:
  """Name -> damaged file of the 24 + 12 bytes of a (3, 2, 2) array of bytes, and its message."""
  zipped = gzip.compress(content)
  return {
    "cut": (content[:-5], r"is cut short: .* 28 bytes for shape \(3, 2, 2\); got 23"),
    "long": (content + b"\0", r"is too long: .* 28 bytes .* got 29"),
    "empty": (b"", "must begin with 00 00.* got no bytes"),
    "magic": (b"PK\3\4" + content[4:], "must begin with 00 00.* got 50 4b 03 04"),
    "type": (b"\0\0\x0a\3" + content[4:], "must begin with 00 00.* got 00 00 0a 03"),
    "header": (content[:9], "its header must have 16 bytes; got 9"),
    "huge": (content[:4] + b"\xff" * 12 + content[16:], "cut short: .* got 28"),
    "zip cut": (zipped[:-12], "is cut short"),
    "zip unfinished": (zipped[:-4], "is cut short: its gzip stream"),
    "zip flipped": (
      zipped[:-8] + b"\0\0\0\0" + zipped[-4:],
      "readable plain or gzip file; got Error .* incorrect data check",
    ),
    "zip garbled": (zipped[:10] + b"\xff" * 20, "readable plain or gzip file; got Error"),
    "zip long": (gzip.compress(content + b"abc"), "is too long: .* 28 bytes .* got 31"),
  }


@pytest.mark.parametrize("name", damaged(b"\0" * 28))
def test_damaged_idx_files_are_named(tmp_path, name):
  content = idx_bytes(np.arange(12, dtype=np.uint8).reshape(3, 2, 2))
  data, message = damaged(content)[name]
  (tmp_path / "file").write_bytes(data)
  with pytest.raises(ValueError, match=message) as caught:
    idx.read_idx(tmp_path / "file")
  assert str(tmp_path / "file") in str(caught.value)


def test_idx_folder_refuses(tmp_path):
  with pytest.raises(ValueError, match=r"existing folder of idx files; got .*absent"):
    idx.idx_folder(tmp_path / "absent", "train")
  with pytest.raises(ValueError, match=r"one of train-images-idx3-ubyte, .*\.gz; got none"):
    idx.idx_folder(tmp_path, "train")
  write_folder(tmp_path)
  with pytest.raises(ValueError, match="split must be one of train, test; got 't10k'"):
    idx.idx_folder(tmp_path, "t10k")
  with pytest.raises(ValueError, match=r"label must lie in 0\.\.1; got 2 at index 2 in the train"):
    idx.idx_folder(tmp_path, "train", num_classes=2)
  labels = tmp_path / "train-labels-idx1-ubyte"
  labels.write_bytes(idx_bytes(np.zeros(5, np.uint8)))
  with pytest.raises(ValueError, match=r"match the images, \(6,\); got \(5,\)"):
    idx.idx_folder(tmp_path, "train")
  labels.unlink()
  assert idx.idx_folder(tmp_path, "train", labelled=False).num_classes == 0
  with pytest.raises(ValueError, match="must hold one of train-labels-idx1-ubyte"):
    idx.idx_folder(tmp_path, "train")
  (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((6, 4), np.uint8)))
  with pytest.raises(ValueError, match=r"bytes of shape \(N, H, W\); got uint8 \(6, 4\)"):
    idx.idx_folder(tmp_path, "train")


@pytest.mark.skipif(
  not (pathlib.Path(os.environ.get("MFM_DATA_DIR", "/nowhere")) / "mnist").is_dir(),
  reason="needs the MNIST idx files in $MFM_DATA_DIR/mnist",
)
def test_mnist_has_its_published_counts_and_moments():
  folder = datasets.data_path("", "mnist")
  train, test = (idx.idx_folder(folder, split) for split in ("train", "test"))
  assert (len(train), len(test)) == (60_000, 10_000)
  np.testing.assert_array_equal(
    np.bincount(train.label), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
  )
  np.testing.assert_array_equal(
    np.bincount(test.label), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
  )
  assert train.x1.mean(dtype=np.float64) / 255 == pytest.approx(0.1307, abs=5e-5)
  assert train.x1.std(dtype=np.float64) / 255 == pytest.approx(0.3081, abs=5e-5)


def test_load_idx_by_path_or_environment(tmp_path, monkeypatch):
  folder = tmp_path / "mnist"
  folder.mkdir()
  write_folder(folder)
  monkeypatch.setenv("MFM_DATA_DIR", str(tmp_path))
  data = datasets.load(DataConfig(name="idx", size=8, classes=3))
  assert (data.shape, data.num_classes, len(data.train), len(data.test)) == ((8, 8, 1), 3, 6, 3)
  monkeypatch.delenv("MFM_DATA_DIR")
  assert datasets.load(DataConfig(name="idx", path=str(folder))).shape == (5, 4, 1)
  with pytest.raises(
    ValueError, match=r"data\.path must name a folder, or \$MFM_DATA_DIR one .*; got neither"
  ):
    datasets.load(DataConfig(name="idx"))


def test_pooling_is_the_rounded_mean_of_squares(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 1), np.uint8)
  expected = [
    [images[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)) for j in range(3)] for i in range(2)
  ]
  np.testing.assert_array_equal(idx.pool_images(images, 2), np.rint(expected).transpose(2, 0, 1, 3))
  write_folder(tmp_path)
  pooled = datasets.load(DataConfig(name="idx", path=str(tmp_path), size=8, pool=4, classes=3))
  assert pooled.shape == (2, 2, 1)
  with pytest.raises(ValueError, match="pool must divide the image size 8x8; got 3"):
    datasets.load(DataConfig(name="idx", path=str(tmp_path), size=8, pool=3, classes=3))
  with pytest.raises(ValueError, match="pool must be at least 1; got 0"):
    datasets.load(DataConfig(name="idx", path=str(tmp_path), size=8, pool=0, classes=3))
  with pytest.raises(
    ValueError, match=r"data\.pool must be 1 for digits: only idx folders are pooled; got 2"
  ):
    datasets.load(DataConfig(name="digits", pool=2))


def test_load_refuses(tmp_path):
  known = "mixture, digits, idx, arrays, strips, images, latents, noise"
  known += ", tfds/mnist, tfds/cifar10, tfds/imagenet2012"
  with pytest.raises(ValueError, match=rf"data\.name must be one of {known}; got 'cifar'"):
    datasets.load(DataConfig(name="cifar"))
  with pytest.raises(ValueError, match=r"data\.size must be 0 for digits.*; got 32"):
    datasets.load(DataConfig(name="digits", size=32))
  with pytest.raises(ValueError, match=r"data\.size must be at least 0; got -1"):
    datasets.load(DataConfig(name="idx", size=-1))
  write_folder(tmp_path)
  (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((3, 6, 6), np.uint8)))
  with pytest.raises(ValueError, match=r"one shape; got \(5, 4, 1\) and \(6, 6, 1\)"):
    datasets.load(DataConfig(name="idx", path=str(tmp_path)))
  (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((0, 5, 4), np.uint8)))
  (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(0, np.uint8)))
  with pytest.raises(ValueError, match="test split of idx must hold at least 1 example; got 0"):
    datasets.load(DataConfig(name="idx", path=str(tmp_path)))
