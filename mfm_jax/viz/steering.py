"""Charts of steered sampling: paths, value along the way, quality against cost, class proportions.

Each function returns a matplotlib Figure, as in `panels`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mfm_jax import checks
from mfm_jax.viz import style
from mfm_jax.viz.grids import to_bytes

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def path_panel(paths: Mapping[str, np.ndarray], times: Sequence[float] | np.ndarray):
  """Images on their way from noise to data: one row a sample, grouped by method, one column a time.

  Args:
    paths: method -> (T, n, H, W, C) floats in [0, 1] (clipped), the same n starts for all.
    times: (T,), in [0, 1].

  Returns:
    A Figure.

  Raises:
    ValueError: no method, shapes that disagree, times outside [0, 1].
  """
  checks.at_least("the number of methods", len(paths), 1)
  checks.in_interval("times", times)
  arrays = {name: np.asarray(path) for name, path in paths.items()}
  shape = next(iter(arrays.values())).shape
  for name, path in arrays.items():
    checks.shape(f"the path of {name!r}", path, (len(times), *shape[1:]))
  columns, n = len(times), shape[1]
  label, gap, group = 1.6, 0.08, 0.3
  block = n * (1 + gap) - gap
  width, height = label + columns * (1 + gap), len(arrays) * (block + group) - group + 0.6
  figure = style.new_figure(style.WIDTH * height / width, layout=None)
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set_axis_off()
  for j, t in enumerate(times):
    x = label + j * (1 + gap)
    axes.text(x + 0.5, -0.12, f"t = {t:.2g}", ha="center", va="bottom", **style.text(style.SMALL))
  for i, (name, path) in enumerate(arrays.items()):
    top = i * (block + group)
    axes.text(0.05, top + block / 2, name, va="center", **style.text())
    pictures = to_bytes(path)
    for j in range(columns):
      for k in range(n):
        x, y = label + j * (1 + gap), top + k * (1 + gap)
        axes.imshow(pictures[j, k], extent=(x, x + 1, y + 1, y), interpolation="nearest", aspect="auto")
  axes.set(xlim=(0, width), ylim=(height - 0.5, -0.5))
  return figure


def value_curves(
  values: Mapping[str, tuple[np.ndarray, np.ndarray]],
  *,
  y_label: str = "value",
  order: Sequence[str] = (),
):
  """Mean over the samples of the value along their way, with two standard errors as a band.

  Args:
    values: method -> its times (T,), and the values there (T, n), n >= 2.
    y_label: of the vertical axis.
    order: all methods of a report, so that each has the colour that it has in the other charts.

  Raises:
    ValueError: no method, shapes that disagree, values that are not finite.
  """
  checks.at_least("the number of methods", len(values), 1)
  figure = style.new_figure(3.4)
  axes = figure.add_subplot()
  style.tidy(axes, grid=True)
  order = list(order or values)
  for name, (times, rows) in values.items():
    rows = np.asarray(rows, np.float64)
    checks.shape(f"values of {name!r}", rows, (len(times), None))
    checks.at_least(f"the number of samples of {name!r}", rows.shape[1], 2)
    if not np.isfinite(rows).all():
      raise ValueError(f"values of {name!r} must be finite; got {rows[~np.isfinite(rows)][0]}")
    mean, error = rows.mean(1), rows.std(1, ddof=1) / np.sqrt(rows.shape[1])
    colour = style.PALETTE[order.index(name) % len(style.PALETTE)]
    axes.plot(times, mean, color=colour, linewidth=1.5, label=name)
    axes.fill_between(times, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.15, linewidth=0)
  style.wide_range(axes, "y", [rows[-1].mean() for _, rows in values.values()])
  axes.set_xlim(0, 1)
  axes.set_xlabel("t", **style.text())
  axes.set_ylabel(y_label, **style.text())
  _legend(figure, len(values))
  return figure


def cost_chart(
  qualities: Mapping[str, Sequence[tuple[str, float, float, float | None]]],
  *,
  x_label: str,
  lines: Mapping[str, tuple[str, float]] | None = None,
):
  """Quality against cost, one chart a quality and in it one point a method, cost on a logarithmic axis.

  Args:
    qualities: name -> (method, cost > 0, quality, its standard error or None) of the same methods; drawn with
      two standard errors.
    x_label: of the costs.
    lines: name and height of a line across, such as what exact samples reach, by quality.

  Raises:
    ValueError: no quality, no point, a cost that is not positive.
  """
  from matplotlib.ticker import LogLocator, NullLocator

  checks.at_least("the number of qualities", len(qualities), 1)
  figure = style.new_figure(3.4)
  for axes, (quality, points) in zip(figure.subplots(1, len(qualities), squeeze=False)[0], qualities.items()):
    checks.at_least("the number of points", len(points), 1)
    style.tidy(axes, grid=True)
    for i, (name, cost, value, error) in enumerate(points):
      if not cost > 0:
        raise ValueError(f"cost of {name!r} must be positive; got {cost}")
      colour, marker = style.PALETTE[i % len(style.PALETTE)], MARKERS[i % len(MARKERS)]
      bar = None if error is None else 2 * error
      look = {"fmt": marker, "color": colour, "markersize": 6, "capsize": 3, "elinewidth": 1}
      axes.errorbar(cost, value, bar, label=name, **look)
    if lines and quality in lines:
      name, height = lines[quality]
      axes.axhline(height, color=style.MUTED, linewidth=1, linestyle=":", label=name)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if not style.wide_range(axes, "y", [value for _, _, value, _ in points]):
      low, high = axes.get_ylim()
      axes.set_ylim(min(low, 0.0), max(high, 0.0))
    axes.set_xlabel(x_label, **style.text())
    axes.set_title(quality, loc="left", pad=8, **style.text())
  handles = {
    label: handle
    for axes in figure.axes
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
  }
  _legend(figure, len(handles), handles.values(), handles.keys())
  return figure


def class_bars(frequencies: Mapping[str, np.ndarray], target: np.ndarray):
  """Class frequencies of each method as bars, the target as a line over each class.

  Args:
    frequencies: method -> (classes,).
    target: (classes,).

  Raises:
    ValueError: no method, shapes that disagree.
  """
  checks.at_least("the number of methods", len(frequencies), 1)
  classes = len(target)
  figure = style.new_figure(3.0)
  axes = figure.add_subplot()
  style.tidy(axes, grid=True)
  width = 0.8 / len(frequencies)
  for i, (name, row) in enumerate(frequencies.items()):
    checks.shape(f"frequencies of {name!r}", row, (classes,))
    left = np.arange(classes) - 0.4 + i * width
    axes.bar(left, row, width, align="edge", color=style.PALETTE[i % len(style.PALETTE)], label=name)
  axes.hlines(target, np.arange(classes) - 0.42, np.arange(classes) + 0.42, color=style.INK, label="target")
  axes.set_xticks(range(classes))
  axes.set_xlabel("class, by the judge", **style.text())
  axes.set_ylabel("share of samples", **style.text())
  _legend(figure, len(frequencies) + 1)
  return figure


def _legend(figure, entries: int, *handles) -> None:
  figure.legend(
    *handles,
    loc="outside lower center",
    ncols=-(-entries // -(-entries // 4)),  # rows of at most four, as even as they can be
    frameon=False,
    prop={"family": style.FONT, "size": style.SMALL},
  )
