"""Python functions that tests name as rewards."""

import numpy as np


def black_box(x: np.ndarray) -> np.ndarray:
  """Minus the squared distance to the middle component of the paper's mixture."""
  return -(x**2).sum(1)


def broken(x: np.ndarray) -> np.ndarray:
  """Raises."""
  raise RuntimeError("no such luck")
