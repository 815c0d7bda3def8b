"""Maps of a value function of the plane and of its gradient; scatters in a table of settings."""

from collections.abc import Mapping

import numpy as np

from mfm_jax import checks
from mfm_jax.viz import style

_ARROWS = 13  # at most, along a side
_FLOOR = 12.0  # nats below the largest value that the colours reach down to


def value_maps(x, y, fields: Mapping[str, tuple[np.ndarray, np.ndarray]]):
  """Values as colours and directions of gradients as arrows, one map beside the other on one scale.

  Colours end _FLOOR nats below the largest value. Arrows have the direction of a gradient, and a length that
  grows like the logarithm of its norm.

  Args:
    x, y: (W,), (H,), the grid.
    fields: title -> value (H, W) and gradient (H, W, 2).

  Returns:
    A Figure.

  Raises:
    ValueError: no field, shapes that disagree, values that are not finite.
  """
  checks.at_least("the number of fields", len(fields), 1)
  shape = (len(y), len(x))
  for title, (value, gradient) in fields.items():
    checks.shape(f"value of {title!r}", value, shape)
    checks.shape(f"gradient of {title!r}", gradient, (*shape, 2))
    if not (np.isfinite(value).all() and np.isfinite(gradient).all()):
      raise ValueError(f"values and gradients of {title!r} must be finite")
  high = max(np.max(value) for value, _ in fields.values())
  low = max(min(np.min(value) for value, _ in fields.values()), high - _FLOOR)
  side = style.WIDTH / max(len(fields), 2)
  figure = style.new_figure(0.95 * side)
  charts = figure.subplots(1, len(fields), sharex=True, sharey=True, squeeze=False)[0]
  every = -(-max(shape) // _ARROWS)
  at = (slice(every // 2, None, every),) * 2
  for axes, (title, (value, gradient)) in zip(charts, fields.items(), strict=True):
    style.tidy(axes)
    colours = axes.pcolormesh(
      x, y, np.maximum(value, low), vmin=low, vmax=high, cmap="viridis", shading="nearest", rasterized=True
    )
    norm = np.linalg.norm(gradient, axis=-1, keepdims=True)
    arrow = (gradient / np.maximum(norm, 1e-12) * np.log1p(norm))[at]
    across, up = np.meshgrid(x[at[1]], y[at[0]])
    axes.quiver(across, up, arrow[..., 0], arrow[..., 1], color="white", width=0.006, pivot="mid")
    axes.set_title(title, loc="left", **style.text())
    axes.set_aspect("equal")
  bar = figure.colorbar(colours, ax=list(charts), fraction=0.04, pad=0.01, shrink=0.85)
  bar.ax.tick_params(labelsize=style.SMALL, labelfontfamily=style.FONT, colors=style.MUTED)
  bar.outline.set_visible(False)
  return figure


def scatter_table(samples: Mapping[str, Mapping[str, np.ndarray]], reference: Mapping[str, np.ndarray]):
  """Samples of the plane over a reference: one row a setting, in it one column for each of another.

  Args:
    samples: title of a row -> title of a chart -> (n, 2).
    reference: title of a row -> (m, 2), which the axes are made for.

  Returns:
    A Figure.

  Raises:
    ValueError: no row, rows of different lengths, other shapes.
  """
  checks.at_least("the number of rows", len(samples), 1)
  columns = len(next(iter(samples.values())))
  for title, row in samples.items():
    if len(row) != columns:
      raise ValueError(f"the number of charts of {title!r} must be {columns}; got {len(row)}")
    for name, points in {"reference": reference[title], **row}.items():
      checks.shape(f"{name} of {title!r}", points, (None, 2))
  every = np.concatenate([np.asarray(points) for points in reference.values()])
  middle, half = (every.max(0) + every.min(0)) / 2, 0.55 * (every.max(0) - every.min(0)).max()
  side = style.WIDTH / max(columns, 2)
  figure = style.new_figure(len(samples) * side)
  grid = figure.subplots(len(samples), columns, sharex=True, sharey=True, squeeze=False)
  for charts, (title, row) in zip(grid, samples.items(), strict=True):
    for axes, (name, points) in zip(charts, row.items(), strict=True):
      style.tidy(axes)
      for cloud, colour, size in ((reference[title], style.REFERENCE, 9.0), (points, style.PALETTE[0], 4.0)):
        axes.scatter(*np.asarray(cloud).T, s=size, c=colour, alpha=0.5, linewidths=0, rasterized=True)
      axes.set_title(f"{title}, {name}" if title and name else title or name, loc="left", **style.text())
      low, high = middle - half, middle + half
      axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
  return figure
