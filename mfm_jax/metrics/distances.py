"""Distances between samples, in NumPy (MATH 8): on a CPU its sorting is faster than XLA's.

Inputs are anything that NumPy converts, of shape (n, d) or (n, ...), flattened. Work is in float64
and in blocks, so memory is linear in the number of samples.
"""

from collections.abc import Callable

import numpy as np

from mfm_jax import checks

BANDWIDTHS = (0.2, 0.5, 1.0, 2.0, 5.0)  # h of MATH 8, in the units of the data
BLOCK = 1024  # rows of a distance matrix that are held at a time


def sliced_w2(x, y, *, directions: int = 256, seed: int = 0) -> float:
  """Sliced 2-Wasserstein distance of two equally large samples, in the units of the data.

  The root of the mean, over fixed random unit directions and sorted pairs, of the squared
  difference.

  Args:
    x, y: (n, ...).
    directions: number of directions, drawn uniformly on the sphere.
    seed: of the directions; figures compare only at the same seed and number.

  Raises:
    ValueError: shapes that differ, values that are not finite, directions < 1.
  """
  x, y = _pair(x, y)
  checks.shape("y", y, x.shape)
  checks.at_least("directions", directions, 1)
  return float(np.sqrt(_mean_square(x, y, _unit_directions(directions, x.shape[1], seed))))


def relative_posterior_sw2(draws, exact, std, *, directions: int = 64, seed: int = 0) -> float:
  """Mean over contexts of S-W2(draws, exact) / std (MATH 8, Metrics).

  Args:
    draws, exact: (C, N, d), posterior draws and exact ones of the same C contexts.
    std: (C,), root of the mean coordinate variance of each exact posterior, positive.
    directions, seed: as `sliced_w2`.

  Raises:
    ValueError: shapes that disagree, values that are not finite, std not positive.
  """
  draws, exact, std = (np.asarray(array, np.float64) for array in (draws, exact, std))
  checks.shape("draws", draws, (None, None, None))
  checks.shape("exact", exact, draws.shape)
  checks.shape("std", std, draws.shape[:1])
  if not (std > 0).all():
    raise ValueError(f"std must be positive; got {std.min()}")
  checks.at_least("directions", directions, 1)
  unit = _unit_directions(directions, draws.shape[2], seed)
  squares = [_mean_square(*_pair(x, y), unit) for x, y in zip(draws, exact)]
  return float(np.mean(np.sqrt(squares) / std))


def mmd_squared(x, y, bandwidths=BANDWIDTHS) -> float:
  """Unbiased squared maximum mean discrepancy; may be slightly negative where the laws agree.

  The kernel is the mean over h in `bandwidths` of exp(-d^2 / (2 h^2)) (MATH 8).

  Args:
    x, y: (n, ...), (m, ...), n and m at least 2.
    bandwidths: positive, in the units of the data.

  Raises:
    ValueError: fewer than 2 samples, other shapes, values that are not finite, a bandwidth that is
      not positive.
  """
  bandwidths = np.atleast_1d(np.asarray(bandwidths, np.float64))
  if bandwidths.size == 0 or not (bandwidths > 0).all():
    raise ValueError(f"bandwidths must be positive; got {bandwidths}")

  def kernel(square):
    return np.mean([np.exp(-square / (2.0 * h**2)) for h in bandwidths], axis=0)

  return _two_sample(x, y, kernel, 1.0)


def energy_distance(x, y) -> float:
  """2 E|x - y| - E|x - x'| - E|y - y'|, the squared form, in the units of the data.

  Unbiased: pairs of a point with itself are left out, so where the laws agree the mean is 0 for any
  sample sizes, and a value may be slightly negative.

  Args:
    x, y: (n, ...), (m, ...), n and m at least 2.

  Raises:
    ValueError: fewer than 2 samples, other shapes, values that are not finite.
  """
  return -_two_sample(x, y, np.sqrt, 0.0)


def mean_distance(x) -> float:
  """E|x - x'| over pairs of different samples, (n, ...) with n at least 2, in the units of the data.

  Raises:
    ValueError: fewer than 2 samples, another shape, values that are not finite.
  """
  return float(_within("x", _pair(x, x)[0], np.sqrt, 0.0))


def _two_sample(x, y, kernel: Callable[[np.ndarray], np.ndarray], diagonal: float) -> float:
  """E k(x, x') + E k(y, y') - 2 E k(x, y) without self-pairs; `diagonal` is k at distance 0."""
  x, y = _pair(x, y)
  own = [_within(name, sample, kernel, diagonal) for name, sample in (("x", x), ("y", y))]
  across = _kernel_sum(x, y, kernel, None) / (len(x) * len(y))
  return float(sum(own) - 2.0 * across)


def _within(name: str, sample, kernel, diagonal: float) -> float:
  """E k(x, x') over pairs of different samples."""
  n = len(sample)
  checks.at_least(f"the number of samples in {name}", n, 2)
  return (_kernel_sum(sample, sample, kernel, diagonal) - n * diagonal) / (n * (n - 1))


def _kernel_sum(x, y, kernel, diagonal: float | None) -> float:
  total, y_square = 0.0, (y**2).sum(1)
  for start in range(0, len(x), BLOCK):
    block = x[start : start + BLOCK]
    square = (block**2).sum(1)[:, None] + y_square - 2.0 * block @ y.T
    values = kernel(np.maximum(square, 0.0))
    if diagonal is not None:
      # The expansion leaves a rounding error on the diagonal, which a square root would magnify.
      rows = np.arange(len(block))
      values[rows, rows + start] = diagonal
    total += values.sum()
  return total


def _mean_square(x, y, unit) -> float:
  return np.mean((np.sort(x @ unit, axis=0) - np.sort(y @ unit, axis=0)) ** 2)


def _unit_directions(directions: int, dimension: int, seed: int) -> np.ndarray:
  """(d, directions), columns of length 1."""
  normal = np.random.default_rng(seed).standard_normal((directions, dimension))
  return (normal / np.linalg.norm(normal, axis=1, keepdims=True)).T


def _pair(x, y) -> tuple[np.ndarray, np.ndarray]:
  """Both as float64 (n, d)."""
  flat = []
  for name, array in (("x", x), ("y", y)):
    array = np.asarray(array, np.float64)
    if array.ndim < 2 or array.size == 0:
      raise ValueError(f"{name} must have shape (samples, ...), not empty; got {array.shape}")
    if not np.isfinite(array).all():
      raise ValueError(f"{name} must be finite; got {np.count_nonzero(~np.isfinite(array))} that are not")
    flat.append(array.reshape(len(array), -1))
  checks.shape("y, flattened,", flat[1], (None, flat[0].shape[1]))
  return flat[0], flat[1]
