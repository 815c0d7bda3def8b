"""FID against steps beside published figures, and FID of posterior draws against t."""

from collections.abc import Mapping, Sequence

import numpy as np

from mfm_jax.viz import style
from mfm_jax.viz.steering import MARKERS

Points = Sequence[tuple[float, float]]  # steps or t, FID


def curves(samples: Points, posterior: Points, published: Mapping[str, Points]):
  """Two charts: samples against the number of steps with the published figures, and draws against t.

  Args:
    samples: (steps, FID) of ours.
    posterior: (t, FID) of ours.
    published: name -> (steps, FID).

  Returns:
    A matplotlib Figure; of a part without points there is no line.
  """
  figure = style.new_figure(3.4)
  left, right = figure.subplots(1, 2, width_ratios=(3, 2))
  for axes in (left, right):
    style.tidy(axes, grid=True)
  for i, (name, points) in enumerate(published.items()):
    x, y = np.transpose(sorted(points))
    mark = MARKERS[(i + 1) % len(MARKERS)]
    look = {"color": style.REFERENCE, "marker": mark, "markersize": 5, "linewidth": 0.8, "linestyle": ":"}
    left.plot(x, y, label=f"{name}, published", **look)
  ours = {"color": style.PALETTE[0], "marker": MARKERS[0], "markersize": 5, "linewidth": 1.5}
  for axes, points in ((left, samples), (right, posterior)):
    if points:
      axes.plot(*np.transpose(sorted(points)), label="this run", **ours)
  left.set(xscale="log", yscale="log")
  left.set_xlabel("steps", **style.text())
  left.set_ylabel("FID of samples", **style.text())
  right.set_xlabel("t of the noised picture", **style.text())
  right.set_ylabel("FID of posterior draws", **style.text())
  right.set_ylim(bottom=0)
  figure.legend(
    *left.get_legend_handles_labels(),
    loc="outside lower center",
    ncols=3,
    frameon=False,
    prop={"family": style.FONT, "size": style.SMALL},
  )
  return figure
