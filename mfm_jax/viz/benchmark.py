"""Error or reward against number of draws or cost, a curve a method: the figures of the paper's section 7."""

from collections.abc import Mapping, Sequence

import numpy as np

from mfm_jax import checks
from mfm_jax.viz import style
from mfm_jax.viz.steering import MARKERS

Rewards = Sequence[tuple[float, float | None, float | None]]  # cost, reward, its standard error
Points = Sequence[tuple[float, float, float, float | None]]  # draws, cost, error, its standard error


def error_curves(
  panels: Mapping[str, Mapping[str, Points]],
  *,
  y_label: str,
  floor: float | None = None,
  order: Sequence[str] = (),
):
  """One row of two charts for each panel: error against draws, and against cost, all axes logarithmic.

  Args:
    panels: title, such as "SDE" -> method -> its points; draws = 0 for a method that has none: a line across
      the first chart. Bars are two standard errors.
    y_label: name of the error.
    floor: error of exact samples, a line across all charts.
    order: all methods, so that each keeps its colour from figure to figure.

  Returns:
    A matplotlib Figure.

  Raises:
    ValueError: no panel, a panel without points, an error or cost that is not positive.
  """
  checks.at_least("the number of panels", len(panels), 1)
  order = list(order) or list(dict.fromkeys(name for methods in panels.values() for name in methods))
  figure = style.new_figure(3.2 * len(panels))
  charts = figure.subplots(len(panels), 2, squeeze=False, sharey="row")
  for row, (title, methods) in zip(charts, panels.items(), strict=True):
    checks.at_least(f"the number of methods of {title!r}", len(methods), 1)
    for axes in row:
      style.tidy(axes, grid=True)
      if floor is not None:
        axes.axhline(floor, color=style.MUTED, linewidth=1, linestyle=":", label="exact samples")
    for name, points in methods.items():
      table = np.asarray([[np.nan if value is None else value for value in point] for point in points], float)
      for label, column in (("cost", table[:, 1]), ("error", table[:, 2])):
        if not (column > 0).all():
          raise ValueError(f"{label} of {name!r} must be positive; got {column.min()}")
      colour = style.PALETTE[order.index(name) % len(style.PALETTE)]
      look = {"color": colour, "label": name, "linewidth": 1.5}
      if (table[:, 0] == 0).all():
        row[0].axhline(table[0, 2], linestyle="--", **look)
        shown = (row[1],)
      else:
        shown = row
      for axes in shown:
        x = table[:, 0] if axes is row[0] else table[:, 1]
        marks = {"marker": MARKERS[order.index(name) % len(MARKERS)], "markersize": 5, "capsize": 2}
        axes.errorbar(x, table[:, 2], 2.0 * np.nan_to_num(table[:, 3]), **look, **marks)
    for axes in row:
      axes.set(xscale="log", yscale="log")
    row[0].set_ylabel(f"{title}: {y_label}", **style.text())
  charts[-1, 0].set_xlabel("draws N", **style.text())
  charts[-1, 1].set_xlabel("passes for a sample (NFE)", **style.text())
  _legend(figure, charts)
  return figure


def reward_curves(panels: Mapping[str, Mapping[str, Rewards]], *, order: Sequence[str] = ()):
  """A chart for each panel: mean reward against cost, which is logarithmic.

  Args:
    panels: title -> method -> its points; bars are two standard errors, rewards that are None are left out.
    order: all methods, so that each keeps its colour from figure to figure.

  Returns:
    A matplotlib Figure.

  Raises:
    ValueError: no panel, a cost that is not positive.
  """
  checks.at_least("the number of panels", len(panels), 1)
  order = list(order) or list(dict.fromkeys(name for methods in panels.values() for name in methods))
  figure = style.new_figure(3.6)
  charts = figure.subplots(1, len(panels), squeeze=False, sharey="row")
  for axes, (title, methods) in zip(charts[0], panels.items(), strict=True):
    style.tidy(axes, grid=True)
    for name, points in methods.items():
      known = sorted((point for point in points if point[1] is not None), key=lambda point: point[0])
      table = np.asarray([[np.nan if value is None else value for value in point] for point in known], float)
      table = table.reshape(-1, 3)
      if not (table[:, 0] > 0).all():
        raise ValueError(f"cost of {name!r} must be positive; got {table[:, 0].min()}")
      i = order.index(name)
      look = {"color": style.PALETTE[i % len(style.PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
      bars = 2.0 * np.nan_to_num(table[:, 2])
      axes.errorbar(*table[:, :2].T, bars, **look, label=name, linewidth=1.5, markersize=5, capsize=2)
    axes.set_xscale("log")
    axes.set_xlabel("passes for a sample (NFE)", **style.text())
    axes.set_title(title, loc="left", pad=6, **style.text())
  charts[0, 0].set_ylabel("mean reward", **style.text())
  _legend(figure, charts)
  return figure


def _legend(figure, charts) -> None:
  handles = {
    label: handle
    for axes in charts.ravel()
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
  }
  figure.legend(
    handles.values(),
    handles.keys(),
    loc="outside lower center",
    ncols=min(len(handles), 5),
    frameon=False,
    prop={"family": style.FONT, "size": style.SMALL},
  )
