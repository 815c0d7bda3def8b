"""Grids of images as arrays of bytes, and PNG files. NumPy; Pillow only to encode."""

import io
import os

import numpy as np

from mfm_jax import checks
from mfm_jax.viz.files import write_atomically

BACKGROUND = 255  # byte of padding and of empty cells, in each channel


def to_bytes(images) -> np.ndarray:
  """Floats in [0, 1] to bytes of three channels, rounded to the nearest byte.

  Args:
    images: floats (..., H, W, C), C = 1 (grey) or 3. Values outside [0, 1] are clipped, since
      samples overshoot.

  Returns:
    uint8 (..., H, W, 3).

  Raises:
    ValueError: no floats (bytes would all clip to white), another C, an empty image, a value that
      is not finite.
  """
  images = np.asarray(images)
  if not np.issubdtype(images.dtype, np.floating):
    raise ValueError(f"images must be floats in [0, 1]; got {images.dtype}")
  if images.ndim < 3 or images.shape[-1] not in (1, 3) or 0 in images.shape[-3:]:
    raise ValueError(f"images must have shape (..., H, W, 1 or 3); got {images.shape}")
  if not np.isfinite(images).all():
    bad = images[~np.isfinite(images)][0]
    raise ValueError(f"images must be finite; got {bad}")
  # float32 holds every byte / 255 closely enough, and half the memory of float64.
  pixels = np.rint(np.clip(images, 0.0, 1.0).astype(np.float32) * 255.0).astype(np.uint8)
  return np.broadcast_to(pixels, (*pixels.shape[:-1], 3))


def image_grid(images, *, columns: int, scale: int = 4, pad: int = 1) -> np.ndarray:
  """Images in reading order, row by row.

  Args:
    images: (n, H, W, C) floats, as `to_bytes` takes them.
    columns: number of columns; the last row may be partly empty.
    scale: each pixel becomes scale x scale pixels.
    pad: width in pixels, after scaling, of the lines around and between the images.

  Returns:
    uint8 (h, w, 3), h = rows (H scale + pad) + pad and w likewise.

  Raises:
    ValueError: as `to_bytes`, no images, columns or scale < 1, pad < 0.
  """
  checks.at_least("columns", columns, 1)
  checks.at_least("scale", scale, 1)
  checks.at_least("pad", pad, 0)
  images = np.asarray(images)
  checks.shape("images", images, (None, None, None, None))
  checks.at_least("the number of images", len(images), 1)
  pixels = to_bytes(images).repeat(scale, axis=1).repeat(scale, axis=2)
  n, height, width, _ = pixels.shape
  columns = min(columns, n)
  rows = -(-n // columns)
  cells = np.full((rows * columns, height + pad, width + pad, 3), BACKGROUND, np.uint8)
  cells[:n, :height, :width] = pixels
  cells = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
  grid = cells.reshape(rows * (height + pad), columns * (width + pad), 3)
  return np.pad(grid, ((pad, 0), (pad, 0), (0, 0)), constant_values=BACKGROUND)


def scale_of(images) -> int:
  """The `scale` at which images (..., H, W, C) are seen: 4 of small ones, 1 of a side of 64 or more."""
  return 4 if np.shape(images)[-3] < 64 else 1


def png_bytes(array) -> bytes:
  """The PNG file of a picture, uint8 (h, w, 3).

  Raises:
    ValueError: another shape or element type.
  """
  from PIL import Image

  array = np.asarray(array)
  checks.shape("array", array, (None, None, 3))
  checks.one_of("the element type of array", array.dtype.name, ["uint8"])
  buffer = io.BytesIO()
  Image.fromarray(np.ascontiguousarray(array)).save(buffer, format="PNG", optimize=True)
  return buffer.getvalue()


def save_png(path: str | os.PathLike, array) -> None:
  """Writes `png_bytes(array)` to `path`, atomically, making its folder."""
  write_atomically(path, png_bytes(array))
