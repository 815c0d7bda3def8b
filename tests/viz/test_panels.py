"""Charts: each shows the numbers that it was given, and refuses what it cannot show."""

import io
import re
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from mfm_jax.viz import panels, style

RNG = np.random.default_rng(0)
TIMES = (0.25, 0.75)


def texts(figure):
  import matplotlib.text

  return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def posterior(channels=1, draws=3, examples=2):
  shape = (4, 4, channels)
  return (
    RNG.uniform(size=(examples, *shape)),
    RNG.uniform(size=(examples, len(TIMES), *shape)),
    RNG.uniform(size=(examples, len(TIMES), draws, *shape)),
  )


@pytest.mark.parametrize("channels", [1, 3])
def test_posterior_panel_shows_each_image_once_and_the_moments_of_the_draws(channels):
  clean, noisy, draws = posterior(channels)
  figure = panels.posterior_panel(clean, noisy, draws, TIMES, title="A title")
  shown = [np.asarray(image.get_array()) for image in figure.axes[0].get_images()]

  def count(picture):
    return sum(s.shape == picture.shape and np.allclose(s, picture, atol=1e-6) for s in shown)

  def as_bytes(image):
    return np.broadcast_to(np.rint(255 * image), (4, 4, 3))

  for i in range(2):
    assert count(as_bytes(clean[i])) == 1
    for j in range(2):
      assert count(as_bytes(noisy[i, j])) == 1
      assert count(as_bytes(draws[i, j].mean(0))) == 1
      assert count(draws[i, j].std(0).mean(-1)) == 1
      assert all(count(as_bytes(d)) == 1 for d in draws[i, j])
  assert len(shown) == 2 * (1 + 2 * (1 + 3 + 2)) + 1  # and the colour scale
  labels = texts(figure)
  for label in ("A title", "clean", "noisy $x_t$", "posterior draws", "mean", "spread", "0.5"):
    assert label in labels
  assert labels.count("t = 0.25") == labels.count("t = 0.75") == 2


def test_posterior_panel_rows_follow_the_times_and_columns_the_kinds():
  clean, noisy, draws = posterior(examples=1)
  images = panels.posterior_panel(clean, noisy, draws, TIMES).axes[0].get_images()

  def place(image):
    target = np.broadcast_to(np.rint(255 * image), (4, 4, 3))
    (found,) = [i for i in images if i.get_array().shape == (4, 4, 3) and (i.get_array() == target).all()]
    left, right, bottom, top = found.get_extent()
    return (left + right) / 2, (bottom + top) / 2

  assert place(noisy[0, 0])[1] < place(noisy[0, 1])[1]
  row = [place(i)[0] for i in (clean[0], noisy[0, 0], *draws[0, 0], draws[0, 0].mean(0))]
  assert row == sorted(row)
  assert len({place(i)[1] for i in (noisy[0, 1], *draws[0, 1], draws[0, 1].mean(0))}) == 1


def test_spread_has_a_fixed_scale_so_that_panels_compare():
  clean, noisy, draws = posterior()
  images = panels.posterior_panel(clean, noisy, 0.1 * draws, TIMES).axes[0].get_images()
  scales = {i.get_clim() for i in images if i.get_array().ndim == 2 and i.get_array().shape[0] > 1}
  assert scales == {(0.0, panels.MAX_SPREAD)}


def test_figures_are_pixels_and_png_of_the_display_width_and_not_global():
  figure = panels.posterior_panel(*posterior(), TIMES)
  array = panels.figure_array(figure)
  assert array.dtype == np.uint8
  assert array.shape[1:] == (int(style.WIDTH * style.DPI), 3)
  assert array.min() < 50
  assert (array[0] == 255).all()
  png = Image.open(io.BytesIO(panels.figure_png(figure)))
  assert png.size == array.shape[1::-1]
  pyplot = sys.modules.get("matplotlib.pyplot")  # another module may have imported it
  assert pyplot is None or not pyplot.get_fignums()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"times": (0.5,)}, r"noisy must have shape \(2, 1, 4, 4, 1\); got \(2, 2, 4, 4, 1\)"),
    ({"times": (0.5, 1.5)}, r"times must lie in \[0.0, 1.0\]; got 1.5"),
    ({"draws": np.zeros((2, 2, 0, 4, 4, 1))}, "number of draws must be at least 1; got 0"),
    ({"draws": np.zeros((3, 2, 3, 4, 4, 1))}, r"draws must have shape \(2, 2, any, 4, 4, 1\)"),
    ({"clean": np.full((2, 4, 4, 1), np.inf)}, "images must be finite; got inf"),
  ],
)
def test_posterior_panel_refuses_what_does_not_fit(change, message):
  clean, noisy, draws = posterior()
  arguments = {"clean": clean, "noisy": noisy, "draws": draws, "times": TIMES, **change}
  with pytest.raises(ValueError, match=message):
    panels.posterior_panel(**arguments)


def offsets(axes):
  return [np.asarray(c.get_offsets()) for c in axes.collections]


def test_scatter_panel_shows_both_samples_and_counts_those_outside():
  reference = RNG.normal(size=(50, 2))
  samples = np.concatenate([reference[:40], [[90.0, 0.0], [0.0, -90.0]]])
  figure = panels.scatter_panel(samples, reference, "Title", names=("drawn", "held out"))
  left, right = figure.axes
  np.testing.assert_allclose(offsets(left)[0], reference)
  np.testing.assert_allclose(offsets(right)[0], samples)
  assert left.get_xlim() == right.get_xlim()
  assert left.get_xlim()[0] < reference[:, 0].min() < reference[:, 0].max() < left.get_xlim()[1]
  assert {"Title", "drawn (42)", "held out (50)", "2 outside"} <= set(texts(figure))


def test_scatter_panel_of_equal_samples_says_nothing_of_outside():
  points = RNG.normal(size=(10, 2))
  assert not [t for t in texts(panels.scatter_panel(points, points, "")) if "outside" in t]
  panels.figure_array(panels.scatter_panel(points[:1], points[:1], "one point"))


@pytest.mark.parametrize(
  ("samples", "message"),
  [
    (np.zeros((5, 3)), r"samples must have shape \(any, 2\); got \(5, 3\)"),
    (np.zeros((0, 2)), "number of samples must be at least 1; got 0"),
    (np.full((5, 2), np.nan), "samples must be finite; got nan"),
  ],
)
def test_scatter_panel_refuses_what_it_cannot_place(samples, message):
  with pytest.raises(ValueError, match=message):
    panels.scatter_panel(samples, np.zeros((4, 2)), "")


def test_posterior_scatter_has_a_chart_for_each_context():
  contexts, t = RNG.normal(size=(5, 2)), np.linspace(0.1, 0.9, 5)
  draws, exact = RNG.normal(size=(5, 20, 2)), RNG.normal(size=(5, 30, 2))
  clean = RNG.normal(size=(5, 2))
  figure = panels.posterior_scatter(contexts, t, draws, exact, clean=clean, title="T")
  charts = [axes for axes in figure.axes if axes.collections]
  assert len(charts) == 5
  for i, axes in enumerate(charts):
    np.testing.assert_allclose(offsets(axes)[0], exact[i])
    np.testing.assert_allclose(offsets(axes)[1], draws[i])
    np.testing.assert_allclose(np.ravel(axes.lines[0].get_data()), contexts[i])
    np.testing.assert_allclose(np.ravel(axes.lines[1].get_data()), clean[i])
    assert axes.get_title("left") == f"t = {t[i]:g}"
  assert {"exact", "draws", "$x_t$", "$x_1$", "T"} <= set(texts(figure))
  panels.figure_array(figure)


def test_posterior_scatter_takes_one_time_for_all_and_refuses_others():
  contexts, points = np.zeros((2, 2)), RNG.normal(size=(2, 4, 2))
  figure = panels.posterior_scatter(contexts, 0.5, points, points)
  assert [a.get_title("left") for a in figure.axes] == ["t = 0.5"] * 2
  with pytest.raises(ValueError, match=r"t must have shape \(2,\); got \(3,\)"):
    panels.posterior_scatter(contexts, [0.1, 0.2, 0.3], points, points)
  with pytest.raises(ValueError, match=r"t must lie in \[0.0, 1.0\]; got -0.1"):
    panels.posterior_scatter(contexts, -0.1, points, points)


def test_curves_are_the_values_and_logarithmic_where_that_is_possible():
  steps = np.arange(10)
  figure = panels.curves({"loss": (steps, 10.0 ** -(steps / 3)), "other": (steps[:2], [1.0, 2.0])})
  axes = figure.axes[0]
  assert axes.get_yscale() == "log"
  np.testing.assert_allclose(axes.lines[0].get_ydata(), 10.0 ** -(steps / 3))
  assert {"loss", "other", "step"} <= set(texts(figure))
  panels.figure_array(figure)
  for values in ([1.0, -1.0, 5.0], [1.0, 0.0, 5.0], [0.9, 1.0, 0.95]):
    assert panels.curves({"loss": (steps[:3], values)}).axes[0].get_yscale() == "linear"


def test_curves_leave_gaps_and_tell_more_curves_than_colours_apart():
  many = {f"m{i}": ([0, 1, 2], [1.0, np.nan, np.inf if i == 1 else 2.0]) for i in range(9)}
  lines = panels.curves(many).axes[0].lines
  assert np.isnan(lines[1].get_ydata()[1:]).all()
  assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9


@pytest.mark.parametrize(
  ("metrics", "message"),
  [
    ({}, "number of curves must be at least 1; got 0"),
    ({"a": ([0, 1], [1.0])}, r"values of 'a' must have shape \(2,\); got \(1,\)"),
    ({"a": ([0], [np.nan])}, "values of 'a' must hold a finite number"),
  ],
)
def test_curves_refuse_nothing_to_show(metrics, message):
  with pytest.raises(ValueError, match=message):
    panels.curves(metrics)


def test_small_multiples_share_colours_and_have_scales_of_their_own():
  steps = np.arange(1.0, 41.0)
  charts = {
    "wide": {"training": (steps, 1 / steps), "held out": ([10, 40], [0.2, np.nan])},
    "narrow": {"held out": (steps, 2 + 0.01 * steps)},
  }
  figure = panels.multiples(charts, rules={"narrow": 2.2})
  wide, narrow = figure.axes
  assert [axes.get_title(loc="left") for axes in figure.axes] == ["wide", "narrow"]
  assert (wide.get_yscale(), narrow.get_yscale()) == ("log", "linear")
  assert wide.lines[1].get_color() == narrow.lines[0].get_color() == style.PALETTE[1]
  np.testing.assert_array_equal(narrow.lines[1].get_ydata(), [2.2, 2.2])
  assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training", "held out"]
  assert len(panels.multiples(dict.fromkeys("abcde", charts["wide"])).axes) == 6
  with pytest.raises(ValueError, match="the number of charts must be at least 1; got 0"):
    panels.multiples({})
  with pytest.raises(ValueError, match="values of 'a' must hold a finite number"):
    panels.multiples({"x": {"a": ([1.0], [np.inf])}})


def test_a_chart_as_svg_has_the_colours_of_its_page_and_ids_of_its_own():
  def draw(name):
    return style.figure_svg(panels.curves({"a": ([1, 2], [3, 4]), "b": ([1, 2], [5, 6])}), name)

  text = draw("x")
  assert text == draw("x")
  assert text.startswith("<svg ")
  assert text.endswith("</svg>")
  xml.etree.ElementTree.fromstring(text.replace("<svg ", '<svg xmlns:xlink="x" ', 1))
  for variable in ("--ink", "--muted", "--line", "--chart-0", "--chart-1"):
    assert f"var({variable})" in text
  assert not re.search("|".join([style.INK, style.MUTED, *style.PALETTE]), text)
  assert "http" not in text
  assert "<style" not in text
  ids = re.findall(r' id="([^"]+)"', text)
  assert len(set(ids)) == len(ids)
  assert set(ids) == set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
  assert set(ids).isdisjoint(re.findall(r' id="([^"]+)"', draw("y")))


def test_one_value_that_would_press_the_others_together_stretches_the_axis():
  def axes(values):
    axes = style.new_figure(2.0).add_subplot()
    axes.plot(range(len(values)), values)
    return axes

  near, far = [-0.3, -0.5, -0.9], [-0.3, -0.5, None, -0.9, -38.0]
  assert not style.wide_range(axes(near), "y", near)
  stretched = axes([value or np.nan for value in far])
  assert style.wide_range(stretched, "y", far)
  assert stretched.get_yscale() == "asinh"
  assert list(stretched.get_yticks()) == [-10.0, -1.0]
