"""Checks of what a caller passes in: each raises a ValueError that states rule, name and value.

They look at concrete values only. A traced value cannot be inspected, so inside `jit` the functions
clip by documented constants instead; the checks guard the public entry points.
"""

from collections.abc import Collection, Iterable

import jax
import numpy as np
import numpy.typing as npt


def one_of(name: str, value: object, allowed: Iterable[object]) -> None:
  """Raises unless `value` is one of `allowed`."""
  allowed = list(allowed)
  if value not in allowed:
    raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")


def at_least(name: str, value: float, bound: float) -> None:
  """Raises unless `value >= bound` (NaN fails)."""
  if not value >= bound:
    raise ValueError(f"{name} must be at least {bound}; got {value}")


def in_interval(name: str, value: object, low: float = 0.0, high: float = 1.0) -> None:
  """Raises unless every entry of a concrete `value` lies in [low, high]; traced values pass."""
  if isinstance(value, jax.core.Tracer):
    return
  array = np.asarray(value)
  bad = ~((array >= low) & (array <= high))
  if bad.any():
    raise ValueError(f"{name} must lie in [{low}, {high}]; got {array[bad].ravel()[0]}")


def ordered(low_name: str, low: object, high_name: str, high: object) -> None:
  """Raises unless low <= high everywhere; traced values pass."""
  if isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer):
    return
  low, high = np.broadcast_arrays(np.asarray(low), np.asarray(high))
  bad = ~(low <= high)
  if bad.any():
    raise ValueError(
      f"{low_name} <= {high_name} must hold; got {low_name}={low[bad].ravel()[0]}, "
      f"{high_name}={high[bad].ravel()[0]}"
    )


def shape(name: str, array: npt.ArrayLike, expected: Collection[int | None]) -> None:
  """Raises unless the shape of `array` is `expected`; None matches any size."""
  actual = tuple(np.shape(array))
  expected = tuple(expected)
  fits = len(actual) == len(expected) and all(
    e is None or a == e for a, e in zip(actual, expected, strict=True)
  )
  if not fits:
    wanted = ", ".join("any" if e is None else str(e) for e in expected)
    comma = "," if len(expected) == 1 else ""  # as Python writes the tuple
    raise ValueError(f"{name} must have shape ({wanted}{comma}); got {actual}")
