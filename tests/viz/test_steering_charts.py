import numpy as np
import pytest

from mfm_jax.viz import steering, style, tradeoffs

RNG = np.random.default_rng(0)
PATHS = {name: RNG.uniform(size=(4, 2, 8, 8, 1)) for name in ("base", "mfm_gf")}
TIMES = [0.0, 0.3, 0.6, 1.0]


def texts(figure):
  return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_path_panel_shows_every_state_and_names_rows_and_columns():
  figure = steering.path_panel(PATHS, TIMES)
  assert len(figure.axes[0].images) == 2 * 4 * 2
  assert {"base", "mfm_gf", "t = 0.3", "t = 1"} <= set(texts(figure))
  assert style.figure_array(figure).std() > 0


def test_value_curves_are_means_with_a_band_in_the_colours_of_the_order():
  values = {"mfm_gf": RNG.normal(size=(4, 50)), "base": RNG.normal(size=(4, 50))}
  timed = {name: (TIMES, rows) for name, rows in values.items()}
  figure = steering.value_curves(timed, order=["base", "dps", "mfm_gf"])
  lines = {line.get_label(): line for line in figure.axes[0].lines}
  np.testing.assert_allclose(lines["mfm_gf"].get_ydata(), values["mfm_gf"].mean(1))
  assert lines["mfm_gf"].get_color() == style.PALETTE[2]
  assert lines["base"].get_color() == style.PALETTE[0]
  band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
  error = values["mfm_gf"].std(1, ddof=1) / np.sqrt(50)
  assert band.max() == pytest.approx((values["mfm_gf"].mean(1) + 2 * error).max())


def test_cost_charts_have_a_logarithmic_cost_and_two_standard_errors():
  points = {"L2": [("base", 32, 0.6, 0.02), ("dps", 128, 0.3, None)], "reward": [("base", 32, -2.0, 0.1)]}
  figure = steering.cost_chart(points, x_label="NFE", lines={"L2": ("floor", 0.1)})
  left, right = figure.axes
  assert [axes.get_title(loc="left") for axes in figure.axes] == ["L2", "reward"]
  assert {axes.get_xscale() for axes in figure.axes} == {"log"}
  assert left.get_xlabel() == "NFE"
  segments = [
    c.get_segments()[0] for c in left.collections if len(c.get_segments()) and len(c.get_segments()[0])
  ]
  np.testing.assert_allclose(segments[0][:, 1], [0.56, 0.64])
  assert left.get_ylim()[0] == 0.0
  assert right.get_ylim()[1] == 0.0
  assert [text.get_text() for text in figure.legends[0].get_texts()] == ["floor", "base", "dps"]


def test_class_bars_stand_side_by_side_with_the_target_over_them():
  frequencies = {"base": np.full(3, 1 / 3), "mfm_gf": np.array([0.6, 0.4, 0.0])}
  figure = steering.class_bars(frequencies, np.array([0.7, 0.3, 0.0]))
  assert [bar.get_height() for bar in figure.axes[0].patches[3:]] == [0.6, 0.4, 0.0]
  targets = figure.axes[0].collections[-1].get_segments()
  assert [segment[0, 1] for segment in targets] == [0.7, 0.3, 0.0]


def test_trade_offs_stand_in_lines_of_methods_with_a_rule_at_the_first():
  figures = {"reward": [(-2.0, 0.1), (1.0, None)], "judge": [(0.5, 0.01), (None, None)]}
  figure = tradeoffs.by_method(["base", "mfm_gf"], figures)
  left, right = figure.axes
  assert [axes.get_title(loc="left") for axes in figure.axes] == ["reward", "judge"]
  assert [label.get_text() for label in left.get_yticklabels()] == ["base", "mfm_gf"]
  rule = left.lines[0].get_xdata()
  np.testing.assert_array_equal(rule, [-2.0, -2.0])
  np.testing.assert_allclose(left.collections[0].get_segments()[0][:, 0], [-2.2, -1.8])
  marks = [line.get_xdata()[0] for line in left.lines[1:] if line.get_marker() in ("o", "s")]
  assert marks == [-2.0, 1.0]
  assert not [line for line in right.lines if line.get_marker() == "s"]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: steering.path_panel({}, TIMES), "the number of methods must be at least 1; got 0"),
    (lambda: steering.path_panel(PATHS, TIMES[:3]), "the path of 'base' must have shape"),
    (lambda: steering.path_panel(PATHS, [0, 1, 2, 3]), "times must lie in"),
    (lambda: steering.value_curves({}), "the number of methods must be at least 1"),
    (lambda: steering.value_curves({"a": (TIMES, np.zeros((3, 5)))}), "values of 'a' must have shape"),
    (lambda: steering.value_curves({"a": (TIMES, np.zeros((4, 1)))}), "samples of 'a' must be at least 2"),
    (lambda: steering.value_curves({"a": (TIMES, np.full((4, 2), np.nan))}), "values of 'a' must be finite"),
    (lambda: steering.cost_chart({"q": []}, x_label=""), "the number of points must be at least 1"),
    (lambda: steering.cost_chart({}, x_label=""), "the number of qualities must be at least 1"),
    (lambda: steering.cost_chart({"q": [("a", 0, 1, 1)]}, x_label=""), "cost of 'a' must be positive"),
    (lambda: tradeoffs.by_method([], {"a": []}), "the number of methods must be at least 1"),
    (lambda: tradeoffs.by_method(["base"], {}), "the number of figures must be at least 1"),
    (lambda: tradeoffs.by_method(["base"], {"a": []}), "the number of values of 'a' must be 1; got 0"),
    (lambda: steering.class_bars({}, np.ones(2)), "the number of methods must be at least 1"),
    (lambda: steering.class_bars({"a": np.ones(3)}, np.ones(2)), "frequencies of 'a' must have shape"),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()
