"""The picture of inverse problems: truth, observation, posterior mean, its spread, and samples."""

import numpy as np

from mfm_jax import checks
from mfm_jax.viz import style
from mfm_jax.viz.grids import to_bytes
from mfm_jax.viz.panels import SPREAD_COLOURS

UNSEEN = (0.80, 0.86, 0.93)  # colour of what is not observed, told apart from every grey
_GAP, _GROUP, _HEADER, _FOOTER = 0.08, 0.3, 0.5, 0.75  # in units of one image


def inverse_panel(truth, observed, samples, *, shown: int = 4, most_std: float = 0.5, title: str = ""):
  """One row for each observation; images of any size fill their cell.

  Args:
    truth: (n, H, W, C) floats in [0, 1], C = 1 or 3; values outside are clipped in all three.
    observed: (n, h, w, C), NaN where nothing is seen.
    samples: (n, S, H, W, C), of the posterior: all count for mean and spread, the first `shown` are shown.
    shown: samples a row.
    most_std: end of the colour scale of the standard deviation (averaged over channels).
    title: above the picture.

  Returns:
    A Figure, its columns named at the top: truth, observed, mean, spread, posterior samples.

  Raises:
    ValueError: shapes that disagree, fewer than `shown` samples, no row, images that `to_bytes` refuses.
  """
  truth, observed, samples = np.asarray(truth), np.asarray(observed), np.asarray(samples)
  checks.shape("truth", truth, (None,) * 4)
  rows = len(truth)
  checks.at_least("the number of rows", rows, 1)
  checks.shape("observed", observed, (rows, None, None, truth.shape[3]))
  checks.shape("samples", samples, (rows, None, *truth.shape[1:]))
  checks.at_least("shown", shown, 1)
  checks.at_least("the number of samples", samples.shape[1], shown)
  in_range = np.clip(samples, 0.0, 1.0)
  unseen = np.isnan(observed).any(-1)
  pictures = [to_bytes(truth), to_bytes(np.where(np.isnan(observed), 0.0, observed))]
  pictures[1] = np.where(unseen[..., None], to_bytes(np.array(UNSEEN).reshape(1, 1, 3)), pictures[1])
  pictures.append(to_bytes(in_range.mean(1)))
  spread, drawn = in_range.std(1).mean(-1), to_bytes(samples[:, :shown])

  step = 1.0 + _GAP
  lefts = [0.0, step, 2 * step + _GROUP, 3 * step + _GROUP]
  x_samples = 4 * step + 2 * _GROUP
  width, bottom = x_samples + shown * step + _GAP, rows * step - _GAP
  header = _HEADER + (0.45 if title else 0.0)
  figure = style.new_figure(style.WIDTH * (bottom + header + _FOOTER) / width, layout=None)
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set_axis_off()

  def show(picture, x, y, **kwargs):
    axes.imshow(picture, extent=(x, x + 1, y + 1, y), interpolation="nearest", aspect="auto", **kwargs)

  colours = {"cmap": SPREAD_COLOURS, "vmin": 0.0, "vmax": most_std}
  for i in range(rows):
    for picture, left in zip(pictures, lefts[:3], strict=True):
      show(picture[i], left, i * step)
    show(spread[i], lefts[3], i * step, **colours)
    for j in range(shown):
      show(drawn[i, j], x_samples + j * step, i * step)
  names = ["truth", "observed", "mean", "spread"]
  heads = [*zip([left + 0.5 for left in lefts], names, strict=True)]
  heads.append((x_samples + (shown * step - _GAP) / 2, "posterior samples" if shown > 1 else "sample"))
  for x, name in heads:
    axes.text(x, -0.14, name, ha="center", va="bottom", **style.text())
  left, right = lefts[2], lefts[3] + 1.0
  show_scale = {"cmap": SPREAD_COLOURS, "aspect": "auto", "interpolation": "nearest"}
  axes.imshow(np.linspace(0, 1, 256)[None], extent=(left, right, bottom + 0.34, bottom + 0.2), **show_scale)
  for x, align, label in ((left, "left", "0"), (right, "right", f"{most_std:g}")):
    axes.text(x, bottom + 0.4, label, ha=align, va="top", **style.text(style.SMALL, style.MUTED))
  if title:
    axes.text(0.0, -header + 0.1, title, va="top", **style.text(style.TITLE, fontweight="bold"))
  axes.set(xlim=(-_GAP, width - _GAP), ylim=(bottom + _FOOTER, -header))
  return figure
