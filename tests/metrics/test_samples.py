"""Balanced labels, bytes, sample batches as ADM writes and reads them."""

import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.data.sources import scale_pixels, to_pixels
from mfm_jax.metrics import samples

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), np.uint8)
LABELS = np.arange(7)


@pytest.mark.parametrize(("num", "classes"), [(50, 10), (53, 10), (13, 20)])
def test_labels_are_balanced_and_in_random_order(num, classes):
  labels = samples.balanced_labels(num, classes)
  counts = np.bincount(labels, minlength=classes)
  assert labels.dtype == np.int32
  assert counts.sum() == num
  assert counts.max() - counts.min() == (num % classes > 0)
  assert (np.diff(labels) < 0).any()
  np.testing.assert_array_equal(labels, samples.balanced_labels(num, classes))
  assert (labels != samples.balanced_labels(num, classes, seed=1)).any()


def test_bytes_that_became_floats_come_back():
  levels = np.arange(256, dtype=np.uint8)
  for rounding in samples.ROUNDINGS:
    for x in (to_pixels(scale_pixels(levels)), jnp.asarray(to_pixels(scale_pixels(levels)))):
      np.testing.assert_array_equal(samples.to_bytes(x, rounding), levels)


def test_rounding_and_clipping():
  x = np.array([-0.1, 0.4, 0.5, 1.5, 2.5, 2.6, 254.9, 300.0]) / 255.0
  assert samples.to_bytes(x).tolist() == [0, 0, 0, 2, 2, 3, 255, 255]  # ties to the even one
  assert samples.to_bytes(x, "truncate").tolist() == [0, 0, 0, 1, 2, 2, 254, 255]


@pytest.mark.parametrize("labels", [None, LABELS])
def test_a_batch_is_read_as_it_was_written(labels, tmp_path):
  path = tmp_path / "new" / "batch.npz"
  samples.write_samples(path, np.split(PIXELS, [3, 4]), 7, labels)
  with np.load(path) as file:  # as NumPy and so ADM's evaluator see it
    np.testing.assert_array_equal(file["arr_0"], PIXELS)
    assert sorted(file.files) == ["arr_0", "arr_1"][: 1 if labels is None else 2]
  found = samples.open_samples(path)
  assert len(found) == 7
  np.testing.assert_array_equal(found.labels, labels)
  for num, parts in ((0, [2, 2, 2, 1]), (3, [2, 1])):
    batches = list(found.batches(2, num=num))
    assert [len(batch) for batch in batches] == parts
    np.testing.assert_array_equal(np.concatenate(batches), PIXELS[: sum(parts)])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_batch_that_numpy_wrote_is_read(save, tmp_path):
  save(tmp_path / "batch.npz", PIXELS, LABELS)
  found = samples.open_samples(tmp_path / "batch.npz")
  np.testing.assert_array_equal(np.concatenate(list(found.batches(4))), PIXELS)
  np.testing.assert_array_equal(found.labels, LABELS)


def test_an_interrupted_batch_leaves_nothing(tmp_path):
  def broken():
    yield PIXELS[:2]
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    samples.write_samples(tmp_path / "batch.npz", broken(), 7)
  assert list(tmp_path.iterdir()) == []


def saved(path, **arrays):
  np.savez(path, **arrays)
  return path


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda p: samples.balanced_labels(0, 3), "num must be at least 1; got 0"),
    (lambda p: samples.balanced_labels(3, 0), "classes must be at least 1; got 0"),
    (lambda p: samples.to_bytes(np.zeros(2), "up"), "rounding must be one of nearest, truncate; got 'up'"),
    (lambda p: samples.write_samples(p / "a.zip", [PIXELS], 7), r"must end in \.npz; got .*a\.zip"),
    (lambda p: samples.write_samples(p / "a.npz", [PIXELS], 8), r"as it says \(8\); got 7"),
    (lambda p: samples.write_samples(p / "a.npz", [PIXELS], 7, LABELS[1:]), r"labels must have shape \(7,\)"),
    (lambda p: samples.write_samples(p / "a.npz", [PIXELS / 2], 7), "must be uint8 .* got float64"),
    (
      lambda p: samples.write_samples(p / "a.npz", [PIXELS[:1], PIXELS[:, 1:]], 8),
      r"must have shape \(any, 4, 5, 3\); got \(7, 3, 5, 3\)",
    ),
    (lambda p: samples.open_samples(p / "none.npz"), r"an \.npz file with arr_0; got no file"),
    (lambda p: samples.open_samples(saved(p / "a.npz", x1=PIXELS)), r"with arr_0; got it holds x1\.npy"),
    (lambda p: samples.open_samples(saved(p / "a.npz", arr_0=PIXELS[0])), "arr_0 of .* must be uint8 "),
    (
      lambda p: samples.open_samples(saved(p / "a.npz", arr_0=PIXELS, arr_1=LABELS / 2)),
      "arr_1 of .* must be integers; got float64",
    ),
    (
      lambda p: samples.open_samples(saved(p / "a.npz", arr_0=PIXELS, arr_1=LABELS[1:])),
      r"arr_1 of .* must have shape \(7,\); got \(6,\)",
    ),
  ],
)
def test_mistakes(call, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    call(tmp_path)


def test_damaged_files(tmp_path):
  path = tmp_path / "a.npz"
  path.write_bytes(b"no archive")
  with pytest.raises(ValueError, match=r"a\.npz must be a readable \.npz file with arr_0"):
    samples.open_samples(path)
  with zipfile.ZipFile(path, "w") as file, file.open("arr_0.npy", "w") as array:
    header = {"descr": "|u1", "fortran_order": False, "shape": PIXELS.shape}
    np.lib.format.write_array_header_1_0(array, header)
    array.write(PIXELS[:3].tobytes())
  with pytest.raises(ValueError, match="must hold 7 pictures; it ends early"):
    list(samples.open_samples(path).batches(2))
