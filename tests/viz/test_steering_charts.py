import numpy as np
import pytest

from mfm_jax.viz import steering, style

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
  figure = steering.value_curves(TIMES, values, order=["base", "dps", "mfm_gf"])
  lines = {line.get_label(): line for line in figure.axes[0].lines}
  np.testing.assert_allclose(lines["mfm_gf"].get_ydata(), values["mfm_gf"].mean(1))
  assert lines["mfm_gf"].get_color() == style.PALETTE[2]
  assert lines["base"].get_color() == style.PALETTE[0]
  band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
  error = values["mfm_gf"].std(1, ddof=1) / np.sqrt(50)
  assert band.max() == pytest.approx((values["mfm_gf"].mean(1) + 2 * error).max())


def test_cost_chart_has_a_logarithmic_cost_and_two_standard_errors():
  figure = steering.cost_chart(
    [("base", 32, 0.6, 0.02), ("dps", 128, 0.3, None)], x_label="NFE", y_label="L2"
  )
  axes = figure.axes[0]
  assert axes.get_xscale() == "log"
  assert (axes.get_xlabel(), axes.get_ylabel()) == ("NFE", "L2")
  segments = [
    c.get_segments()[0] for c in axes.collections if len(c.get_segments()) and len(c.get_segments()[0])
  ]
  np.testing.assert_allclose(segments[0][:, 1], [0.56, 0.64])


def test_class_bars_stand_side_by_side_with_the_target_over_them():
  frequencies = {"base": np.full(3, 1 / 3), "mfm_gf": np.array([0.6, 0.4, 0.0])}
  figure = steering.class_bars(frequencies, np.array([0.7, 0.3, 0.0]))
  assert [bar.get_height() for bar in figure.axes[0].patches[3:]] == [0.6, 0.4, 0.0]
  targets = figure.axes[0].collections[-1].get_segments()
  assert [segment[0, 1] for segment in targets] == [0.7, 0.3, 0.0]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: steering.path_panel({}, TIMES), "the number of methods must be at least 1; got 0"),
    (lambda: steering.path_panel(PATHS, TIMES[:3]), "the path of 'base' must have shape"),
    (lambda: steering.path_panel(PATHS, [0, 1, 2, 3]), "times must lie in"),
    (lambda: steering.value_curves(TIMES, {}), "the number of methods must be at least 1"),
    (lambda: steering.value_curves(TIMES, {"a": np.zeros((3, 5))}), "values of 'a' must have shape"),
    (lambda: steering.value_curves(TIMES, {"a": np.zeros((4, 1))}), "samples of 'a' must be at least 2"),
    (lambda: steering.value_curves(TIMES, {"a": np.full((4, 2), np.nan)}), "values of 'a' must be finite"),
    (lambda: steering.cost_chart([], x_label="", y_label=""), "the number of points must be at least 1"),
    (lambda: steering.cost_chart([("a", 0, 1, 1)], x_label="", y_label=""), "cost of 'a' must be positive"),
    (lambda: steering.class_bars({}, np.ones(2)), "the number of methods must be at least 1"),
    (lambda: steering.class_bars({"a": np.ones(3)}, np.ones(2)), "frequencies of 'a' must have shape"),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()
