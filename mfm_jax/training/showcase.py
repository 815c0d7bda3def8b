"""What the entry points show of samples: labels in turn, the .npz, and a picture beside it."""

import pathlib

import jax
import numpy as np

from mfm_jax import checks, oracles
from mfm_jax.data.sources import to_pixels
from mfm_jax.training import decoding
from mfm_jax.training.run import Run
from mfm_jax.types import Decode
from mfm_jax.viz import grids, panels
from mfm_jax.viz.files import write_atomically, write_npz
from mfm_jax.viz.style import figure_png


def labels(run: Run, num: int, label: int = -1) -> np.ndarray | None:
  """(num,) labels: all `label`, or the classes in turn for -1; None for a run without labels.

  Raises:
    ValueError: a label that the run does not have.
  """
  classes = run.info.num_classes
  if not classes:
    if label >= 0:
      raise ValueError(f"label must be absent for a run without labels; got {label}")
    return None
  if label < 0:
    return np.arange(num) % classes
  checks.in_interval("label", label, 0, classes)
  return np.full(num, label)


def write(
  out: pathlib.Path, arrays: dict[str, np.ndarray], run: Run, decode: Decode | None = None
) -> pathlib.Path | None:
  """Writes the .npz and, where the data can be drawn, a picture beside it; returns the picture's path.

  `decode`, of a run on latents, adds the array "image": `x1` as bytes.
  """
  if decode is not None:
    arrays = {**arrays, "image": grids.to_bytes(decoding.pictures(decode, arrays["x1"]))}
  write_npz(out, arrays)
  png = picture(arrays, run, decode)
  if png is None:
    return None
  write_atomically(out.with_suffix(".png"), png)
  return out.with_suffix(".png")


def picture(arrays: dict[str, np.ndarray], run: Run, decode: Decode | None = None) -> bytes | None:
  """A PNG of marginal samples ("x1") or of posterior draws ("x1", "x_t", "t").

  Of latents with their `decode`, and "image" among the arrays.

  None for other data, and for posterior draws of a fine-tuned mixture, whose exact law is not known.
  """
  x1 = arrays["x1"]
  if decode is not None:
    return grids.png_bytes(_decoded_grid(arrays, decode))
  if "x_t" not in arrays:
    if run.info.image:
      columns = max(run.info.num_classes, 10)
      return grids.png_bytes(grids.image_grid(to_pixels(x1[: 8 * columns]), columns=columns))
    if run.info.shape == (2,):
      title = "Fine-tuned samples and data" if run.finetuned else "Samples and data"
      return figure_png(panels.scatter_panel(x1, _reference(run, len(x1)), title))
    return None
  if run.info.image:
    return grids.png_bytes(_posterior_grid(arrays))
  if run.info.shape == (2,) and not run.finetuned:
    return figure_png(_posterior_scatter(arrays, run))
  return None


def _reference(run, n):
  return np.asarray(oracles.sample(jax.random.key(1), run.config.mixture.build(), n))


def _posterior_grid(arrays, draws: int = 15) -> np.ndarray:
  """One row a context: x_t, then draws."""
  x1 = arrays["x1"][:, :draws]
  rows = np.concatenate([arrays["x_t"][:, None], x1], axis=1)
  return grids.image_grid(to_pixels(rows.reshape(-1, *rows.shape[2:])), columns=rows.shape[1])


def _decoded_grid(arrays, decode, draws: int = 7, rows: int = 8) -> np.ndarray:
  """The first samples; or one row a context: x_t, decoded as it is, then draws."""
  image = arrays["image"][: rows * (draws + 1)] / np.float32(255)
  if "x_t" in arrays:
    context = decoding.pictures(decode, arrays["x_t"][:rows])
    image = np.concatenate([context[:, None], image[:rows, :draws]], axis=1)
  columns = image.shape[1] if "x_t" in arrays else draws + 1
  return grids.image_grid(image.reshape(-1, *image.shape[-3:]), columns=columns, scale=grids.scale_of(image))


def _posterior_scatter(arrays, run, contexts: int = 8):
  """Draws over exact draws for the first contexts."""
  t, x_t, x1 = (arrays[name][:contexts] for name in ("t", "x_t", "x1"))
  mixture = run.config.mixture.build()
  exact = oracles.posterior_sample(jax.random.key(1), mixture, run.interpolant, t, x_t, x1.shape[1])
  return panels.posterior_scatter(x_t, t, x1, np.asarray(exact))
