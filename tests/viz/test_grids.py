"""Image grids: what lands where, rounding, bad input, files."""

import io

import numpy as np
import pytest
from PIL import Image

from mfm_jax.viz import files, grids


def test_image_k_lands_in_its_cell_scaled_and_padded():
  images = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3)) / 255.0
  grid = grids.image_grid(images, columns=3, scale=2, pad=3)
  assert grid.dtype == np.uint8
  assert grid.shape == (3 * 13 + 3, 3 * 11 + 3, 3)
  covered = np.zeros(grid.shape[:2], bool)
  for k, image in enumerate(images):
    top, left = 3 + 13 * (k // 3), 3 + 11 * (k % 3)
    cell = grid[top : top + 10, left : left + 8]
    covered[top : top + 10, left : left + 8] = True
    for offset in ((0, 0), (0, 1), (1, 0), (1, 1)):
      np.testing.assert_array_equal(cell[offset[0] :: 2, offset[1] :: 2], np.rint(image * 255))
  assert (grid[~covered] == grids.BACKGROUND).all()


def test_a_single_row_is_no_wider_than_its_images():
  assert grids.image_grid(np.zeros((2, 8, 8, 1)), columns=10).shape == (34, 67, 3)


@pytest.mark.parametrize(
  ("value", "byte"),
  [(0.0, 0), (1.0, 255), (254.6 / 255, 255), (0.4 / 255, 0), (-3.0, 0), (1.7, 255)],
)
def test_bytes_are_rounded_and_clipped(value, byte):
  assert (grids.to_bytes(np.full((1, 2, 2, 1), value)) == byte).all()


def test_every_byte_survives_the_round_trip_in_float32():
  values = (np.arange(256, dtype=np.float32) / 255).reshape(1, 16, 16, 1)
  np.testing.assert_array_equal(grids.to_bytes(values)[0, ..., 1].ravel(), np.arange(256, dtype=np.uint8))


def test_saved_png_holds_the_pixels_and_makes_its_folder(tmp_path):
  array = np.random.default_rng(1).integers(0, 256, (9, 11, 3), dtype=np.uint8)
  path = tmp_path / "new" / "grid.png"
  grids.save_png(path, array)
  np.testing.assert_array_equal(np.asarray(Image.open(path)), array)
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(grids.png_bytes(array)))), array)


def test_an_interrupted_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
  path = tmp_path / "file"
  files.write_atomically(path, b"old")

  def fail(*_):
    raise OSError("no room")

  monkeypatch.setattr(files.os, "replace", fail)
  with pytest.raises(OSError, match="no room"):
    files.write_atomically(path, b"new")
  assert [p.name for p in tmp_path.iterdir()] == ["file"]
  assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
  ("images", "columns", "message"),
  [
    (np.zeros((1, 2, 2, 1), np.uint8), 1, r"images must be floats in \[0, 1\]; got uint8"),
    (np.zeros((1, 2, 2, 2)), 1, r"H, W, 1 or 3\); got \(1, 2, 2, 2\)"),
    (np.zeros((2, 2, 1)), 1, r"images must have shape \(any, any, any, any\); got \(2, 2, 1\)"),
    (np.full((1, 2, 2, 1), np.nan), 1, "images must be finite; got nan"),
    (np.zeros((1, 2, 2, 1)), 0, "columns must be at least 1; got 0"),
    (np.zeros((0, 2, 2, 1)), 1, "the number of images must be at least 1; got 0"),
  ],
)
def test_bad_images_are_refused(images, columns, message):
  with pytest.raises(ValueError, match=message):
    grids.image_grid(images, columns=columns)


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (np.zeros((2, 2, 3)), "element type of array must be one of uint8; got 'float64'"),
    (np.zeros((2, 2), np.uint8), r"array must have shape \(any, any, 3\); got \(2, 2\)"),
  ],
)
def test_png_takes_bytes_of_three_channels_only(array, message):
  with pytest.raises(ValueError, match=message):
    grids.png_bytes(array)
