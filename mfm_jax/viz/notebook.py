"""Pictures in a notebook, and of the same cells when they run as a plain script."""

import os
import pathlib
import sys

from mfm_jax.viz.files import write_atomically
from mfm_jax.viz.style import figure_png

FOLDER = "MFM_FIGURES"  # environment variable: where a script leaves its pictures


def show(picture, name: str) -> None:
  """Shows a picture under the cell of a notebook.

  Args:
    picture: a matplotlib Figure, or the bytes of a PNG file.
    name: as a plain script writes it, <name>.png in the folder $MFM_FIGURES; without that nothing is drawn.
  """
  if in_notebook():
    from IPython.display import Image, display

    display(Image(_png(picture), width=700))
  elif os.environ.get(FOLDER):
    write_atomically(pathlib.Path(os.environ[FOLDER]) / f"{name}.png", _png(picture))


def in_notebook() -> bool:
  """Whether a notebook runs this."""
  ipython = sys.modules.get("IPython")
  return ipython is not None and ipython.get_ipython() is not None


def _png(picture) -> bytes:
  return picture if isinstance(picture, bytes) else figure_png(picture)
