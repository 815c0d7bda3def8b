"""What became of samples beside the reward that was optimised, by method or by training step.

A reward that rises while a judge's score, diversity or closeness to the base falls is being exploited. Each
function returns a matplotlib Figure, as in `panels`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mfm_jax import checks
from mfm_jax.viz import style
from mfm_jax.viz.steering import MARKERS

_COLUMNS = 3  # charts of `by_step` in a row


def by_method(methods: Sequence[str], figures: Mapping[str, Sequence[tuple[float | None, float | None]]]):
  """One column of dots a figure, one line a method, with two standard errors; a rule at the first method.

  Args:
    methods: names, the first being what the others are compared with.
    figures: name -> (value, standard error) of each method, None for what is not known.

  Raises:
    ValueError: no method, no figure, another number of values than of methods.
  """
  checks.at_least("the number of methods", len(methods), 1)
  checks.at_least("the number of figures", len(figures), 1)
  figure = style.new_figure(0.75 + 0.27 * len(methods))
  charts = figure.subplots(1, len(figures), sharey=True, squeeze=False)[0]
  for axes, (name, values) in zip(charts, figures.items(), strict=True):
    checks.shape(f"values of {name!r}", np.empty((len(values), 0)), (len(methods), 0))
    style.tidy(axes)
    axes.grid(axis="y", color=style.FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    if values[0][0] is not None:
      axes.axvline(values[0][0], color=style.MUTED, linewidth=1, linestyle=":")
    for i, (value, error) in enumerate(values):
      if value is None:
        continue
      look = {"fmt": MARKERS[i % len(MARKERS)], "color": style.PALETTE[i % len(style.PALETTE)]}
      axes.errorbar(value, i, xerr=None if error is None else 2 * error, markersize=5, capsize=2, **look)
    axes.set_title(name, loc="left", pad=6, **style.text())
    axes.locator_params(axis="x", nbins=3)
    axes.margins(x=0.12)
  charts[0].set_yticks(range(len(methods)), methods)
  charts[0].set_ylim(len(methods) - 0.5, -0.5)
  return figure


def by_step(figures: Mapping[str, tuple[Sequence[float], Sequence[float]]], base: Mapping[str, float]):
  """One chart a figure over the training steps, with a rule at the value of the base.

  Args:
    figures: name -> (steps (n,), values (n,)).
    base: values of the base, by name; a figure may be missing.

  Raises:
    ValueError: no figure, steps and values of different lengths.
  """
  checks.at_least("the number of figures", len(figures), 1)
  columns = min(_COLUMNS, len(figures))
  rows = -(-len(figures) // columns)
  figure = style.new_figure(1.75 * rows + 0.3)
  charts = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
  for i, axes in enumerate(charts):
    if i >= len(figures):
      axes.set_axis_off()
      continue
    name = list(figures)[i]
    steps, values = figures[name]
    checks.shape(f"values of {name!r}", np.asarray(values), np.shape(steps))
    style.tidy(axes, grid=True)
    if name in base:
      axes.axhline(base[name], color=style.MUTED, linewidth=1, linestyle=":")
    # The optimised figure, the first, has a colour of its own.
    axes.plot(steps, values, "o-", color=style.PALETTE[min(i, 1)], linewidth=1.5, markersize=3)
    axes.set_title(name, loc="left", pad=6, **style.text())
    axes.locator_params(nbins=4)
    axes.tick_params(labelbottom=i + columns >= len(figures))
  return figure
