"""What became of steered samples, beside the reward that was optimised: the panel against reward hacking."""

import numpy as np

from mfm_jax import checks
from mfm_jax.metrics.distances import mean_distance


def pmf_l2(p, q) -> float:
  """Euclidean distance of two class distributions (k,), as in the paper's section 7.1.2.

  Raises:
    ValueError: shapes that differ.
  """
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
  checks.shape("p", p, (None,))
  checks.shape("q", q, p.shape)
  return float(np.linalg.norm(p - q))


def diversity(x, groups=None) -> float:
  """Mean Euclidean distance of two samples of the same group: it falls when samples look alike.

  Args:
    x: (n, ...).
    groups: int (n,), such as judged classes, so that a change of their proportions is not taken for one of
      diversity; None for a single group. Groups of one sample do not count; the others count by their size.

  Returns:
    The distance in the units of x; NaN where no group has two samples.

  Raises:
    ValueError: shapes that disagree, values that are not finite.
  """
  x = np.asarray(x)
  groups = np.zeros(len(x), np.int64) if groups is None else np.asarray(groups)
  checks.shape("groups", groups, (len(x),))
  parts = [x[groups == group] for group in np.unique(groups)]
  parts = [part for part in parts if len(part) >= 2]
  if not parts:
    return float("nan")
  return float(np.average([mean_distance(part) for part in parts], weights=[len(part) for part in parts]))
