"""Pictures of latents while a run trains: decoded, or said to be latents."""

import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.data.sources import ArraySource
from mfm_jax.interpolants import Linear
from mfm_jax.training import pictures
from mfm_jax.types import expand_like
from mfm_jax.viz import panels


def painter(**changes) -> pictures.Painter:
  """Of a map whose draws show the label."""

  def velocity(s, u, x_s, t, x_t, cond):
    shown = expand_like(0.1 * cond["label"].astype(jnp.float32), x_s)
    return jnp.broadcast_to(shown, x_s.shape) - x_s

  rng = np.random.default_rng(0)
  test = ArraySource(x1=rng.normal(size=(8, 4, 4, 4)), label=np.arange(8) % 4, num_classes=20)
  own = {"num_classes": 20, "image": False, "guided": False, "is_map": True, **changes}
  return pictures.Painter(velocity=lambda params: velocity, interpolant=Linear(), test=test, **own)


@pytest.fixture
def titles(monkeypatch):
  """Of the figures that are drawn."""
  found = []
  for name in ("titled", "posterior_panel"):
    real = getattr(panels, name)

    def keep(*args, real=real, **kwargs):
      found.append(kwargs.get("title", args[1] if len(args) == 2 else ""))
      return real(*args, **kwargs)

    monkeypatch.setattr(panels, name, keep)
  return found


def test_latents_that_cannot_be_decoded_say_so(titles):
  drawn = painter().pictures({})
  assert set(drawn) == {"samples", "posterior"}
  assert titles == [pictures.LATENTS] * 2


def test_latents_are_decoded(titles):
  def decode(x):
    return 0.5 + 0.1 * jnp.repeat(jnp.repeat(x[..., :3], 2, 1), 2, 2)

  own = painter(decode=decode)
  drawn = own.pictures({})
  assert titles == [""]  # of the posterior
  side, columns = 8 * 4 + 1, pictures.COLUMNS
  assert drawn["samples"].shape == (8 * side + 1, columns * side + 1, 3)
  # Ten of the twenty classes, every second one, brighter from column to column.
  row = drawn["samples"][side // 2, side // 2 :: side, 0].astype(int)
  np.testing.assert_allclose(row, np.rint(255 * (0.5 + 0.02 * np.arange(columns))), atol=1)
