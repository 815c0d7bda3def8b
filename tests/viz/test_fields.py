"""Maps of values and tables of scatters, and how a notebook shows them."""

import numpy as np
import pytest
from PIL import Image

from mfm_jax.viz import fields, notebook, style

RNG = np.random.default_rng(0)
X, Y = np.linspace(-1, 1, 5), np.linspace(0, 3, 7)


def field(scale=1.0):
  value = scale * (X[None] + Y[:, None] ** 2)
  return value, np.stack([np.full((7, 5), scale), 2 * scale * np.broadcast_to(Y[:, None], (7, 5))], -1)


def test_value_maps_share_a_scale_and_arrows_point_up_the_gradient():
  figure = fields.value_maps(X, Y, {"a": field(), "b": field(10.0)})
  left, right, bar = figure.axes
  assert [axes.get_title(loc="left") for axes in (left, right)] == ["a", "b"]
  colours = [axes.collections[0] for axes in (left, right)]
  # From the largest value of both down to 12 nats below it.
  assert colours[0].get_clim() == colours[1].get_clim() == (10 * (1 + 9) - 12, 10 * (1 + 9))
  np.testing.assert_allclose(colours[1].get_array().max(), 100.0)
  arrows = right.collections[1]
  np.testing.assert_allclose(arrows.V / arrows.U, (2 * Y[:, None] * np.ones(5)).ravel(), rtol=1e-6)
  norm = 10 * np.sqrt(1 + 4 * Y[-1] ** 2)
  assert np.hypot(arrows.U[-1], arrows.V[-1]) == pytest.approx(np.log1p(norm))
  assert bar.get_ylim() == (88.0, 100.0)


def test_scatters_stand_in_rows_over_their_reference():
  points = {name: RNG.normal(size=(9, 2)) for name in ("one", "two", "below")}
  table = {"r": {"N = 2": points["one"], "N = 8": points["two"]}, "s": dict.fromkeys("ab", points["below"])}
  figure = fields.scatter_table(table, {"r": RNG.normal(size=(20, 2)), "s": RNG.normal(size=(30, 2))})
  assert [axes.get_title(loc="left") for axes in figure.axes] == ["r, N = 2", "r, N = 8", "s, a", "s, b"]
  np.testing.assert_allclose(figure.axes[1].collections[1].get_offsets(), points["two"])
  assert [len(axes.collections[0].get_offsets()) for axes in figure.axes] == [20, 20, 30, 30]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: fields.value_maps(X, Y, {}), "the number of fields must be at least 1; got 0"),
    (lambda: fields.value_maps(Y, X, {"a": field()}), r"value of 'a' must have shape \(5, 7\)"),
    (lambda: fields.value_maps(X, Y, {"a": (field()[0],) * 2}), "gradient of 'a' must have shape"),
    (lambda: fields.value_maps(X, Y, {"a": field(np.nan)}), "gradients of 'a' must be finite"),
    (lambda: fields.scatter_table({}, {}), "the number of rows must be at least 1; got 0"),
    (
      lambda: fields.scatter_table({"a": {"x": np.ones((2, 2))}, "b": {}}, {"a": np.ones((2, 2))}),
      "the number of charts of 'b' must be 1; got 0",
    ),
    (
      lambda: fields.scatter_table({"a": {"x": np.ones((2, 3))}}, {"a": np.ones((2, 2))}),
      "x of 'a' must have shape",
    ),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_a_script_leaves_pictures_in_a_folder_or_draws_nothing(tmp_path, monkeypatch):
  figure = style.new_figure(1.0)
  monkeypatch.delenv(notebook.FOLDER, raising=False)
  notebook.show(figure, "a")
  monkeypatch.setenv(notebook.FOLDER, str(tmp_path / "figures"))
  notebook.show(figure, "a")
  notebook.show(style.figure_png(figure), "b")
  assert {path.name: Image.open(path).size for path in (tmp_path / "figures").iterdir()} == {
    "a.png": (1400, 200),
    "b.png": (1400, 200),
  }
  assert not notebook.in_notebook()
