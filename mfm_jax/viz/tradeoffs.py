"""What became of samples beside the reward that was optimised, by method.

A reward that rises while a judge's score, diversity or closeness to the base falls is being exploited.
"""

from collections.abc import Mapping, Sequence

from mfm_jax import checks
from mfm_jax.viz import style
from mfm_jax.viz.steering import MARKERS


def by_method(methods: Sequence[str], figures: Mapping[str, Sequence[tuple[float | None, float | None]]]):
  """One column of dots a figure, one line a method, with two standard errors; a rule at the first method.

  Args:
    methods: names, the first being what the others are compared with.
    figures: name -> (value, standard error) of each method, None for what is not known.

  Returns:
    A matplotlib Figure.

  Raises:
    ValueError: no method, no figure, another number of values than of methods.
  """
  checks.at_least("the number of methods", len(methods), 1)
  checks.at_least("the number of figures", len(figures), 1)
  figure = style.new_figure(0.75 + 0.27 * len(methods))
  charts = figure.subplots(1, len(figures), sharey=True, squeeze=False)[0]
  for axes, (name, values) in zip(charts, figures.items(), strict=True):
    if len(values) != len(methods):
      raise ValueError(f"the number of values of {name!r} must be {len(methods)}; got {len(values)}")
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
    style.wide_range(axes, "x", [value for value, _ in values])
    axes.margins(x=0.12)
  charts[0].set_yticks(range(len(methods)), methods)
  charts[0].set_ylim(len(methods) - 0.5, -0.5)
  return figure
