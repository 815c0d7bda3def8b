"""The figure of a benchmark: what it draws and what it refuses."""

import numpy as np
import pytest

from mfm_jax.viz import style
from mfm_jax.viz.benchmark import error_curves, reward_curves

PANEL = {
  "base": [(0, 250, 1.9, 0.02)],
  "mfm_gf": [(2, 1250, 0.6, 0.05), (8, 4250, 0.3, None)],
}


def test_two_charts_a_panel_with_a_line_across_for_a_method_without_draws():
  figure = error_curves({"ODE": PANEL, "SDE": PANEL}, y_label="error", floor=0.1, order=["dps", *PANEL])
  assert len(figure.axes) == 4
  draws, cost = figure.axes[:2]
  flat = [line for line in draws.lines if np.ptp(line.get_ydata()) == 0 and line.get_label() == "base"]
  assert [line.get_ydata()[0] for line in flat] == [1.9]
  assert ((1250, 4250), (0.6, 0.3)) in {
    (tuple(line.get_xdata()), tuple(line.get_ydata())) for line in cost.lines
  }
  assert flat[0].get_color() == style.PALETTE[1]  # its place among all methods
  assert (style.figure_array(figure) < 255).any()


@pytest.mark.parametrize(
  ("panels", "message"),
  [
    ({}, "the number of panels must be at least 1; got 0"),
    ({"ODE": {}}, "the number of methods of 'ODE' must be at least 1; got 0"),
    ({"ODE": {"base": [(0, 250, 0.0, None)]}}, "error of 'base' must be positive; got 0.0"),
    ({"ODE": {"base": [(0, 0, 1.0, None)]}}, "cost of 'base' must be positive; got 0.0"),
  ],
)
def test_bad_arguments(panels, message):
  with pytest.raises(ValueError, match=message):
    error_curves(panels, y_label="error")


def test_a_chart_of_rewards_for_each_panel():
  points = {"base": [(250, 0.1, 0.02)], "mfm_g": [(4250, 0.9, None), (1250, 0.7, 0.1), (9, None, None)]}
  figure = reward_curves({"λ = 1": points, "λ = 5": points}, order=["dps", "base", "mfm_g"])
  lines = {(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in figure.axes[1].lines}
  assert ((1250, 4250), (0.7, 0.9)) in lines
  assert figure.axes[0].get_xscale() == "log"
  with pytest.raises(ValueError, match="cost of 'base' must be positive; got 0"):
    reward_curves({"": {"base": [(0, 1.0, None)]}})
