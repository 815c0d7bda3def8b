"""The picture of inverse problems shows the arrays that it was given, and refuses what it cannot show."""

import numpy as np
import pytest

from mfm_jax.viz import inverse, style

RNG = np.random.default_rng(0)
TRUTH, SAMPLES = RNG.uniform(size=(2, 4, 4, 1)), RNG.uniform(size=(2, 5, 4, 4, 1))
OBSERVED = np.where(np.arange(4)[:, None] < 2, TRUTH, np.nan)


def shown(figure):
  return [np.asarray(image.get_array()) for image in figure.axes[0].get_images()]


def count(pictures, wanted):
  return sum(p.shape == wanted.shape and np.allclose(p, wanted, atol=1e-6) for p in pictures)


def as_bytes(image):
  return np.broadcast_to(np.rint(255 * image), (*image.shape[:2], 3))


def test_each_array_is_shown_once():
  figure = inverse.inverse_panel(TRUTH, OBSERVED, SAMPLES, shown=3, title="A title")
  pictures = shown(figure)
  for i in range(2):
    assert count(pictures, as_bytes(TRUTH[i])) == 1
    assert count(pictures, as_bytes(SAMPLES[i].mean(0))) == 1
    assert count(pictures, SAMPLES[i].std(0)[..., 0]) == 1
    assert [count(pictures, as_bytes(sample)) for sample in SAMPLES[i]] == [1, 1, 1, 0, 0]
    observed = as_bytes(TRUTH[i]).copy()
    observed[:, 2:] = np.rint(255 * np.array(inverse.UNSEEN))
    assert count(pictures, observed) == 1
  assert len(pictures) == 2 * (4 + 3) + 1  # and the colour scale
  assert {t.get_text() for t in figure.axes[0].texts} == {
    "A title", "truth", "observed", "mean", "spread", "posterior samples", "0", "0.5"
  }  # fmt: skip
  assert style.figure_array(figure).shape[1] == style.WIDTH * style.DPI


def test_observations_of_another_size():
  small = RNG.uniform(size=(2, 2, 2, 1))
  assert count(shown(inverse.inverse_panel(TRUTH, small, SAMPLES)), as_bytes(small[0])) == 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"truth": TRUTH[0]}, r"truth must have shape \(any, any, any, any\)"),
    ({"truth": TRUTH[:0]}, "the number of rows must be at least 1; got 0"),
    ({"observed": OBSERVED[:1]}, r"observed must have shape \(2, any, any, 1\)"),
    ({"samples": SAMPLES[:, :, :2]}, r"samples must have shape \(2, any, 4, 4, 1\)"),
    ({"shown": 0}, "shown must be at least 1; got 0"),
    ({"shown": 6}, "the number of samples must be at least 6; got 5"),
    ({"truth": np.full_like(TRUTH, np.nan)}, "images must be finite"),
  ],
)
def test_bad_input(changes, message):
  arguments = {"truth": TRUTH, "observed": OBSERVED, "samples": SAMPLES} | changes
  with pytest.raises(ValueError, match=message):
    inverse.inverse_panel(**arguments)
