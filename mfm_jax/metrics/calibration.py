"""Posterior samples against the truth: moments, coverage of intervals, ranks. NumPy in float64.

If S samples and the truth are draws of one law, the truth's rank among them is uniform on 0 .. S. So the
interval between the i-th and the j-th smallest sample holds the truth with probability (j - i) / (S + 1),
whatever the law. Intervals end at the positions p (S + 1) of the sorted samples, interpolated linearly: the
coverage of exact posterior samples is the nominal level where these are whole numbers, and close to it
elsewhere. (The quantiles that NumPy takes by default cover too little: .857 in place of .9 for 39 samples.)
"""

import numpy as np

from mfm_jax import checks


def moments(samples) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation (the law's: S - 1) of samples (n, S, ...), each (n, ...).

  Raises:
    ValueError: fewer than 2 samples.
  """
  samples = np.asarray(samples, np.float64)
  checks.at_least("the number of samples", samples.shape[1], 2)
  return samples.mean(1), samples.std(1, ddof=1)


def covered(samples, truth, *, level: float = 0.9) -> np.ndarray:
  """Whether each coordinate of the truth lies in the central interval of its samples.

  Args:
    samples: (n, S, ...), S samples of the posterior of each of n observations.
    truth: (n, ...).
    level: nominal coverage; the interval leaves (1 - level) / 2 of the law on either side.

  Returns:
    bool (n, ...).

  Raises:
    ValueError: shapes that disagree, and as `check_level`.
  """
  samples, truth = _pair(samples, truth)
  check_level(level, samples.shape[1])
  tail = 0.5 * (1.0 - level)
  low, high = np.quantile(samples, [tail, 1.0 - tail], axis=1, method="weibull")
  return (low <= truth) & (truth <= high)


def check_level(level: float, count: int) -> None:
  """Raises unless `count` samples, S, have a central interval of this level: (1 - level) / 2 (S + 1) >= 1."""
  if not 0 < level < 1:
    raise ValueError(f"level must lie in (0, 1); got {level}")
  least = int(np.ceil(2 / (1 - level) - 1e-9)) - 1
  if count < least:
    raise ValueError(f"an interval of level {level} needs at least {least} samples; got {count}")


def ranks(samples, truth) -> np.ndarray:
  """Number of samples below each coordinate of the truth, int (n, ...): uniform on 0 .. S if calibrated.

  Half of the samples that are equal to it count, rounded down.

  Raises:
    ValueError: shapes that disagree.
  """
  samples, truth = _pair(samples, truth)
  return (samples < truth[:, None]).sum(1) + (samples == truth[:, None]).sum(1) // 2


def report(
  samples, truth, *, hidden=None, groups=None, level: float = 0.9, least_std: float = 0.05
) -> dict[str, float]:
  """How well samples of posteriors stand for the truth, pooled over observations and coordinates.

  Args:
    samples: (n, S, ...) in data space.
    truth: (n, ...).
    hidden: bool, of the shape of truth or of one of its entries: coordinates that count; None for all.
    groups: int (n,), observations of one group are not independent (such as two of the same image); None:
      all are.
    level: of the intervals.
    least_std: coordinates with a smaller posterior standard deviation have no say in coverage, because the
      interval of samples that agree is a point.

  Returns:
    "coverage": share of the coordinates that count, and have least_std, whose interval holds the truth.
    "coverage_se": its standard error over groups; the coordinates of an observation are not independent.
    "coverage_share": share of the coordinates that count that have least_std.
    "rmse", "spread": root mean square, over the coordinates that count, of the posterior mean's error and of
      the posterior standard deviation; for a calibrated posterior rmse = spread sqrt(1 + 1/S).
    "psnr": 10 log10(1 / rmse^2), for data in [0, 1].
    Coverage is NaN where no coordinate has least_std, its error where fewer than 2 groups have one.

  Raises:
    ValueError: as `covered`; `hidden` or `groups` of another shape, `hidden` without an entry.
  """
  samples, truth = _pair(samples, truth)
  hidden = np.ones(truth.shape, bool) if hidden is None else np.asarray(hidden, bool)
  if hidden.ndim < truth.ndim:
    checks.shape("hidden", hidden, truth.shape[1:])
    hidden = np.broadcast_to(hidden, truth.shape)
  checks.shape("hidden", hidden, truth.shape)
  if not hidden.any():
    raise ValueError("hidden must hold at least one coordinate; got none")
  groups = np.arange(len(truth)) if groups is None else np.asarray(groups)
  checks.shape("groups", groups, (len(truth),))
  inside = covered(samples, truth, level=level)
  mean, std = moments(samples)
  counts = hidden & (std >= least_std)
  members = np.unique(groups, return_inverse=True)[1]
  held, all_ = (
    np.bincount(members, mask.reshape(len(mask), -1).sum(1)) for mask in (inside & counts, counts)
  )
  coverage, standard_error = _ratio(held, all_)
  rmse = _rms((mean - truth)[hidden])
  return {
    "coverage": coverage,
    "coverage_se": standard_error,
    "coverage_share": float(counts.sum() / hidden.sum()),
    "rmse": rmse,
    "spread": _rms(std[hidden]),
    "psnr": float(-20.0 * np.log10(rmse)) if rmse > 0 else float("inf"),
  }


def _ratio(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
  """sum a / sum b over independent pairs, and its standard error by the delta method; NaN if unknown."""
  known = int((b > 0).sum())
  if not known:
    return float("nan"), float("nan")
  whole = float(a.sum() / b.sum())
  if known < 2:
    return whole, float("nan")
  return whole, float(np.sqrt(((a - whole * b) ** 2).sum() * known / (known - 1)) / b.sum())


def _rms(x: np.ndarray) -> float:
  return float(np.sqrt(np.mean(x**2)))


def _pair(samples, truth) -> tuple[np.ndarray, np.ndarray]:
  samples, truth = np.asarray(samples, np.float64), np.asarray(truth, np.float64)
  checks.shape("samples", samples, (len(truth), None, *truth.shape[1:]))
  return samples, truth
