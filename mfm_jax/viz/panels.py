"""Charts: posterior draws of images, scatters of two-dimensional samples, training curves.

Each function returns a matplotlib Figure; `figure_png` and `figure_array` turn it into a picture.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mfm_jax import checks
from mfm_jax.viz import style
from mfm_jax.viz.grids import to_bytes
from mfm_jax.viz.style import figure_array, figure_png

__all__ = [
  "curves",
  "figure_array",
  "figure_png",
  "multiples",
  "posterior_panel",
  "posterior_scatter",
  "scatter_panel",
]

MAX_SPREAD = 0.5  # the largest standard deviation of a pixel in [0, 1]
COLUMNS = 3  # charts of `multiples` in a row
SPREAD_COLOURS = "magma"  # perceptually uniform, readable in grey and with colour blindness
_MARGIN = 0.15  # of the range of the reference, around a scatter
# Widths of posterior_panel in units of one image.
_GAP, _GROUP, _TIMES, _HEADER, _FOOTER = 0.08, 0.3, 0.95, 0.5, 0.75


def posterior_panel(clean, noisy, draws, times: Sequence[float], *, title: str = ""):
  """For each test image and each t: the image, x_t, draws, their mean and their pixelwise spread.

  The spread is the standard deviation over the draws, averaged over channels, on a fixed colour
  scale from 0 to MAX_SPREAD, so that panels compare. Values outside [0, 1] are clipped beforehand.

  Args:
    clean: (n, H, W, C) floats in [0, 1].
    noisy: (n, T, H, W, C), x_t in the same units.
    draws: (n, T, D, H, W, C).
    times: (T,), the t of each column of `noisy`, in [0, 1].
    title: above the panel.

  Returns:
    A Figure: one row for each image and time, the columns named at the top.

  Raises:
    ValueError: shapes that disagree, images that `grids.to_bytes` refuses, times outside [0, 1].
  """
  clean, noisy, draws = np.asarray(clean), np.asarray(noisy), np.asarray(draws)
  checks.in_interval("times", times)
  checks.shape("clean", clean, (None,) * 4)
  examples, image = len(clean), clean.shape[1:]
  checks.shape("noisy", noisy, (examples, len(times), *image))
  checks.shape("draws", draws, (examples, len(times), None, *image))
  count = draws.shape[2]
  for name, number in (("images", examples), ("times", len(times)), ("draws", count)):
    checks.at_least(f"the number of {name}", number, 1)
  clean_bytes, noisy_bytes, draw_bytes = to_bytes(clean), to_bytes(noisy), to_bytes(draws)
  in_range = np.clip(draws, 0.0, 1.0)
  mean_bytes = to_bytes(in_range.mean(2))
  spread = in_range.std(2).mean(-1)

  x_clean = 0.0
  x_noisy = 1.0 + _TIMES
  x_draws = x_noisy + 1.0 + _GROUP
  x_mean = x_draws + count * (1.0 + _GAP) - _GAP + _GROUP
  x_spread = x_mean + 1.0 + _GAP
  block = len(times) * (1.0 + _GAP) - _GAP
  width = x_spread + 1.0 + 2 * _GAP  # a margin of _GAP on both sides
  bottom = examples * (block + _GROUP) - _GROUP
  header = _HEADER + (0.45 if title else 0.0)

  figure = style.new_figure(style.WIDTH * (bottom + header + _FOOTER) / width, layout=None)
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set_axis_off()
  aspect = image[0] / image[1]

  def show(picture, x, y, **kwargs):
    # Images fill the width of their cell; a tall one would spill over, so it is narrowed instead.
    w, h = (1.0, aspect) if aspect <= 1 else (1.0 / aspect, 1.0)
    left, top = x + (1.0 - w) / 2, y + (1.0 - h) / 2
    extent = (left, left + w, top + h, top)
    return axes.imshow(picture, extent=extent, interpolation="nearest", aspect="auto", **kwargs)

  def head(x, label):
    axes.text(x, -0.14, label, ha="center", va="bottom", **style.text())

  colours = {"cmap": SPREAD_COLOURS, "vmin": 0.0, "vmax": MAX_SPREAD}
  for i in range(examples):
    top = i * (block + _GROUP)
    show(clean_bytes[i], x_clean, top + (block - 1.0) / 2)
    for j, t in enumerate(times):
      y = top + j * (1.0 + _GAP)
      axes.text(x_noisy - 0.12, y + 0.5, f"t = {t:g}", ha="right", va="center", **style.text(style.SMALL))
      show(noisy_bytes[i, j], x_noisy, y)
      for k in range(count):
        show(draw_bytes[i, j, k], x_draws + k * (1.0 + _GAP), y)
      show(mean_bytes[i, j], x_mean, y)
      show(spread[i, j], x_spread, y, **colours)

  middle = x_draws + (count * (1.0 + _GAP) - _GAP) / 2
  head(x_clean + 0.5, "clean")
  head(x_noisy + 0.5, "noisy $x_t$")
  head(middle, "posterior draws" if count > 2 else "draws")
  head(x_mean + 0.5, "mean")
  head(x_spread + 0.5, "spread")
  _spread_scale(axes, x_mean, x_spread + 1.0, bottom + 0.2)
  if title:
    axes.text(x_clean, -header + 0.1, title, va="top", **style.text(style.TITLE, fontweight="bold"))
  axes.set(xlim=(-_GAP, width - _GAP), ylim=(bottom + _FOOTER, -header))
  return figure


def _spread_scale(axes, left: float, right: float, top: float) -> None:
  """The colour scale of the spread, with its ends written under it."""
  ramp = np.linspace(0.0, MAX_SPREAD, 256)[None]
  extent = (left, right, top + 0.14, top)
  axes.imshow(ramp, extent=extent, cmap=SPREAD_COLOURS, aspect="auto", interpolation="nearest")
  for x, align, label in ((left, "left", "0"), (right, "right", f"{MAX_SPREAD:g}")):
    axes.text(x, top + 0.2, label, ha=align, va="top", **style.text(style.SMALL, style.MUTED))


def titled(picture, title: str):
  """A picture, uint8 (h, w, 3), as a Figure with a title above it."""
  height, width = np.shape(picture)[:2]
  header = 0.4  # inches
  figure = style.new_figure(style.WIDTH * height / width + header, layout=None)
  share = header / figure.get_figheight()
  axes = figure.add_axes((0, 0, 1, 1 - share))
  axes.set_axis_off()
  axes.imshow(picture, interpolation="nearest", aspect="auto")
  figure.text(0.01, 1 - share / 2, title, va="center", **style.text(style.TITLE, fontweight="bold"))
  return figure


def scatter_panel(samples, reference, title: str, *, names: tuple[str, str] = ("samples", "reference")):
  """Two-dimensional samples beside a reference, on the same axes.

  The range is the reference's; how many samples lie outside it is written in the corner.

  Args:
    samples, reference: (n, 2), (m, 2).
    title: above both.
    names: of the two, in the same order.

  Returns:
    A Figure, reference at the left.

  Raises:
    ValueError: other shapes, an empty array, a value that is not finite.
  """
  samples, reference = _points("samples", samples), _points("reference", reference)
  limits = _limits(reference)
  figure = style.new_figure(3.9)
  figure.suptitle(title, x=0.02, ha="left", **style.text(style.TITLE, fontweight="bold"))
  left, right = figure.subplots(1, 2, sharex=True, sharey=True)
  for axes, points, name, colour in (
    (left, reference, names[1], style.MUTED),
    (right, samples, names[0], style.PALETTE[0]),
  ):
    style.tidy(axes)
    _dots(axes, points, colour)
    axes.set_title(f"{name} ({len(points):,})", loc="left", **style.text())
    axes.set(xlim=limits[0], ylim=limits[1], aspect="equal")
  right.tick_params(labelleft=False)
  outside = int((~_inside(samples, limits)).sum())
  if outside:
    right.text(
      0.98,
      0.02,
      f"{outside:,} outside",
      transform=right.transAxes,
      ha="right",
      va="bottom",
      **style.text(style.SMALL, style.PALETTE[1]),
    )
  return figure


def posterior_scatter(
  contexts, t, draws, exact, *, clean=None, title: str = "", names: tuple[str, str] = ("draws", "exact")
):
  """Posterior draws over exact ones for two-dimensional data, one small chart a context.

  Args:
    contexts: (c, 2), the states x_t, marked by a cross.
    t: a number or (c,), in [0, 1].
    draws, exact: (c, N, 2), (c, M, 2).
    clean: (c, 2), the points that the states were made from, marked by a plus; None where there are none.
    title: above all.
    names: of draws and exact, for the legend.

  Returns:
    A Figure, up to four charts a row, all on the same axes.

  Raises:
    ValueError: shapes that disagree, an empty array, a value that is not finite, t outside [0, 1].
  """
  contexts = _points("contexts", contexts)
  count = len(contexts)
  draws, exact = np.asarray(draws), np.asarray(exact)
  checks.shape("draws", draws, (count, None, 2))
  checks.shape("exact", exact, (count, None, 2))
  if np.ndim(t):
    checks.shape("t", t, (count,))
  checks.in_interval("t", t)
  if clean is not None:
    clean = _points("clean", clean)
    checks.shape("clean", clean, (count, 2))
  times = np.broadcast_to(np.asarray(t, np.float64), (count,))
  _points("draws", draws.reshape(-1, 2))
  limits = _limits(np.concatenate([_points("exact", exact.reshape(-1, 2)), contexts]))

  columns = min(4, count)
  rows = -(-count // columns)
  side = style.WIDTH / max(columns, 2)
  figure = style.new_figure(rows * (side + 0.1) + 0.4 + (0.3 if title else 0.0))
  if title:
    figure.suptitle(title, x=0.02, ha="left", **style.text(style.TITLE, fontweight="bold"))
  grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
  for i, axes in enumerate(grid):
    if i >= count:
      axes.set_axis_off()
      continue
    style.tidy(axes)
    axes.locator_params(nbins=4, integer=True)
    # The axes of an incomplete last row leave those above them without numbers.
    axes.tick_params(labelbottom=i + columns >= count)
    _dots(axes, exact[i], style.REFERENCE, size=16.0, label=names[1])
    _dots(axes, draws[i], style.PALETTE[0], label=names[0])
    axes.plot(*contexts[i], "x", color=style.PALETTE[1], markersize=8, markeredgewidth=2, label="$x_t$")
    if clean is not None:
      axes.plot(*clean[i], "+", color=style.INK, markersize=10, markeredgewidth=2, label="$x_1$")
    axes.set_title(f"t = {times[i]:g}", loc="left", pad=3, **style.text(style.SMALL))
    axes.set(xlim=limits[0], ylim=limits[1], aspect="equal")
  legend = figure.legend(
    *grid[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=4,
    frameon=False,
    prop={"family": style.FONT, "size": style.SMALL},
  )
  for handle in legend.legend_handles[:2]:
    handle.set(alpha=1.0, sizes=[18.0])
  return figure


def curves(metrics: Mapping[str, tuple], *, title: str = "", x_label: str = "step", y_label: str = ""):
  """Curves in one chart, with a logarithmic y axis if all values are positive and differ threefold.

  Args:
    metrics: name -> (steps (n,), values (n,)); values that are not finite leave a gap.
    title, x_label, y_label: around the chart.

  Returns:
    A Figure.

  Raises:
    ValueError: no curve, an empty one, lengths that differ, a curve without a finite value.
  """
  data = _finite(metrics)
  figure = style.new_figure(3.4)
  axes = figure.add_subplot()
  style.tidy(axes, grid=True)
  for i, (name, (steps, values)) in enumerate(data.items()):
    # Beyond the palette the colours repeat with another dash.
    dash = ("-", "--", ":", "-.")[i // len(style.PALETTE) % 4]
    colour = style.PALETTE[i % len(style.PALETTE)]
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, values, dash, color=colour, linewidth=1.5, label=name, marker=marker)
  _scale_y(axes, data)
  axes.margins(x=0.01)
  axes.set_xlabel(x_label, **style.text())
  axes.set_ylabel(y_label, **style.text())
  axes.locator_params(axis="x", integer=True)
  axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
  if title:
    axes.set_title(title, loc="left", pad=8, **style.text(style.TITLE, fontweight="bold"))
  if len(data) > 1:
    figure.legend(
      loc="outside lower center",
      ncols=min(len(data), 4),
      frameon=False,
      prop={"family": style.FONT, "size": style.SMALL},
    )
  return figure


def multiples(charts: Mapping[str, Mapping[str, tuple]], *, rules: Mapping[str, float] | None = None):
  """Small charts of the same curves, up to COLUMNS a row, each with a scale of its own.

  Args:
    charts: title -> name of a curve -> (steps (n,), values (n,)), as `curves` takes them.
    rules: height of a dotted line across, by title.

  Returns:
    A Figure.

  Raises:
    ValueError: no chart; as `curves`.
  """
  checks.at_least("the number of charts", len(charts), 1)
  data = {title: _finite(metrics) for title, metrics in charts.items()}
  names = list(dict.fromkeys(name for metrics in data.values() for name in metrics))
  columns = 2 if len(data) == 4 else min(COLUMNS, len(data))
  rows = -(-len(data) // columns)
  figure = style.new_figure(1.9 * rows + (0.3 if len(names) > 1 else 0.0))
  grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
  for axes in grid[len(data) :]:
    axes.set_axis_off()
  handles = {}
  for i, (axes, (title, metrics)) in enumerate(zip(grid, data.items())):
    style.tidy(axes, grid=True)
    for name, (steps, values) in metrics.items():
      colour = style.PALETTE[names.index(name) % len(style.PALETTE)]
      marker = "o" if len(steps) <= 12 else None
      (handles[name],) = axes.plot(steps, values, color=colour, linewidth=1.5, marker=marker, markersize=3)
    if rules and title in rules:
      axes.axhline(rules[title], color=style.MUTED, linewidth=1, linestyle=":")
    _scale_y(axes, metrics)
    axes.set_title(title, loc="left", pad=6, **style.text())
    axes.locator_params(axis="x", nbins=3, integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    # The axes of an incomplete last row leave those above them without numbers.
    axes.tick_params(labelbottom=i + columns >= len(data))
  if len(names) > 1:
    text = {"family": style.FONT, "size": style.SMALL}
    figure.legend(
      handles.values(), handles, loc="outside lower center", ncols=len(names), frameon=False, prop=text
    )
  return figure


def _finite(metrics: Mapping[str, tuple]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Curves as arrays, what is not finite as a gap."""
  checks.at_least("the number of curves", len(metrics), 1)
  data = {}
  for name, (steps, values) in metrics.items():
    steps, values = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    checks.shape(f"steps of {name!r}", steps, (None,))
    checks.shape(f"values of {name!r}", values, steps.shape)
    if not np.isfinite(values).any():
      raise ValueError(f"values of {name!r} must hold a finite number; got {values[:5]}")
    data[name] = (steps, np.where(np.isfinite(values), values, np.nan))
  return data


def _scale_y(axes, data: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
  """A logarithmic axis if all values are positive and differ threefold."""
  from matplotlib.ticker import LogLocator, NullLocator

  low = min(np.nanmin(values) for _, values in data.values())
  high = max(np.nanmax(values) for _, values in data.values())
  if not (low > 0 and high >= 3 * low):
    return
  ratio = high / low
  axes.set_yscale("log")
  # 1, 2, 5 fill up to two decades; over more they would crowd.
  axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 100 else (1.0,)))
  axes.yaxis.set_minor_locator(NullLocator())
  axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _dots(axes, points, colour, size: float = 4.0, **more) -> None:
  # A few points may be dark; thousands must stay translucent to show density.
  alpha = 0.35 if len(points) > 500 else 0.6
  axes.scatter(*points.T, s=size, c=colour, alpha=alpha, linewidths=0, rasterized=True, **more)


def _points(name, points) -> np.ndarray:
  points = np.asarray(points, np.float64)
  checks.shape(name, points, (None, 2))
  checks.at_least(f"the number of {name}", len(points), 1)
  if not np.isfinite(points).all():
    raise ValueError(f"{name} must be finite; got {points[~np.isfinite(points)][0]}")
  return points


def _limits(points) -> np.ndarray:
  """(2, 2): low and high of each coordinate, with a margin, of one extent for square axes."""
  low, high = points.min(0), points.max(0)
  half = 0.5 * (high - low).max() * (1.0 + 2.0 * _MARGIN) or 1.0
  middle = 0.5 * (low + high)
  return np.stack([middle - half, middle + half], 1)


def _inside(points, limits) -> np.ndarray:
  return ((points >= limits[:, 0]) & (points <= limits[:, 1])).all(1)
