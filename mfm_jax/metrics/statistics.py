"""Mean and covariance of features, streamed and merged, and the Frechet distance of Gaussians; float64."""

import dataclasses

import numpy as np

from mfm_jax import checks


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Gaussian:
  """What the Frechet distance compares.

  Attributes:
    mean: (d,), float64.
    covariance: (d, d), float64, of a sample: divided by count - 1.
    count: samples behind it; 0 where a file does not say.
  """

  mean: np.ndarray
  covariance: np.ndarray
  count: int = 0

  def __post_init__(self):
    for name in ("mean", "covariance"):
      object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
    checks.shape("mean", self.mean, (None,))
    checks.shape("covariance", self.covariance, (len(self.mean),) * 2)
    checks.at_least("count", self.count, 0)
    for name in ("mean", "covariance"):
      if not np.isfinite(getattr(self, name)).all():
        raise ValueError(f"{name} must be finite; got others among {getattr(self, name).size} values")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
  """Moments of the features seen so far. Parts from several batches, devices or hosts merge in any order.

  Attributes:
    count: number of features.
    mean: (d,), float64.
    scatter: (d, d), float64, sum of (x - mean)(x - mean)^T: centred, so that nothing cancels.
  """

  count: int
  mean: np.ndarray
  scatter: np.ndarray

  @staticmethod
  def empty(dimension: int) -> "Statistics":
    """Of no features."""
    return Statistics(count=0, mean=np.zeros(dimension), scatter=np.zeros((dimension, dimension)))

  def add(self, features: np.ndarray) -> "Statistics":
    """With a batch (n, d) more; batches of a few hundred are fastest.

    Raises:
      ValueError: another dimension, values that are not finite.
    """
    checks.shape("features", features, (None, len(self.mean)))
    if not len(features):
      return self
    x = np.asarray(features, np.float64)
    if not np.isfinite(x).all():
      raise ValueError(f"features must be finite; got {x[~np.isfinite(x)][0]}")
    mean = x.mean(0)
    x = x - mean
    # The shift between the means as one more row, so that one product (BLAS syrk) gives the whole update.
    return self._joined(len(x), mean, lambda shift: _gram(np.vstack([x, shift])))

  def merge(self, other: "Statistics") -> "Statistics":
    """Of both: associative and commutative up to rounding (Chan, Golub and LeVeque, 1983).

    Raises:
      ValueError: another dimension.
    """
    checks.shape("mean", other.mean, self.mean.shape)
    if not other.count:
      return self
    return self._joined(other.count, other.mean, lambda shift: other.scatter + np.outer(shift, shift))

  def _joined(self, count, mean, scatter) -> "Statistics":
    total = self.count + count
    shift = (mean - self.mean) * np.sqrt(self.count * count / total)
    joined = scatter(shift)
    joined += self.scatter
    return Statistics(count=total, mean=self.mean + (mean - self.mean) * (count / total), scatter=joined)

  def gaussian(self, *, few: bool = False) -> Gaussian:
    """Mean and covariance.

    Args:
      few: allows fewer samples than dimensions.

    Raises:
      ValueError: fewer than 2 samples, or `check_count`.
    """
    check_count(self.count, len(self.mean), few=few)
    return Gaussian(mean=self.mean, covariance=self.scatter / (self.count - 1), count=self.count)


def check_count(count: int, dimension: int, *, few: bool = False) -> None:
  """Raises for fewer than 2 samples and, unless `few`, for no more than dimensions.

  A covariance of fewer is singular, and the distance far too large.
  """
  checks.at_least("the number of samples", count, 2)
  if count <= dimension and not few:
    raise ValueError(
      f"the number of samples must exceed the {dimension} dimensions of the features, or their covariance is "
      f"singular and the distance biased; got {count}: take more (50,000 is the custom), or allow few, for "
      "figures that are compared at equal numbers alone"
    )


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
  """|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Heusel et al., arXiv:1706.08500), the squared form.

  tr (A B)^(1/2) is the sum of the singular values of F_a^T F_b for any factors F F^T of A and B, which stays
  exact for covariances without full rank, where a matrix square root of A B does not.

  Raises:
    ValueError: dimensions that differ.
  """
  checks.shape("mean", b.mean, a.mean.shape)
  return _distance(a.mean, b.mean, _root(a.covariance), _root(b.covariance))


def class_frechet_distances(
  real: np.ndarray, real_labels: np.ndarray, fake: np.ndarray, fake_labels: np.ndarray, *, few: bool = False
) -> dict[int, float]:
  """The Frechet distance within each class that the generated samples have, by class.

  Args:
    real, fake: features (n, d), (m, d).
    real_labels, fake_labels: int (n,), (m,).
    few: allows classes with fewer samples than dimensions.

  Raises:
    ValueError: shapes that disagree, a class without real samples, `check_count` of a class.
  """
  checks.shape("fake", fake, (None, np.shape(real)[1]))
  checks.shape("real_labels", real_labels, (len(real),))
  checks.shape("fake_labels", fake_labels, (len(fake),))
  out = {}
  for label in np.unique(fake_labels).tolist():
    parts = []
    for x, labels in ((real, real_labels), (fake, fake_labels)):
      x = np.asarray(x[labels == label], np.float64)
      check_count(len(x), x.shape[1], few=few)
      parts.append((x.mean(0), _factor(x)))
    (mean, root), (other_mean, other_root) = parts
    out[label] = _distance(mean, other_mean, root, other_root)
  return out


def _distance(mean_a, mean_b, root_a, root_b) -> float:
  """From factors F_a, F_b with F F^T = covariance: the trace of A is |F_a|^2."""
  cross = np.linalg.svd(root_a.T @ root_b, compute_uv=False).sum()
  shift = mean_a - mean_b
  return float(shift @ shift + np.sum(root_a**2) + np.sum(root_b**2) - 2.0 * cross)


def _factor(x: np.ndarray) -> np.ndarray:
  """F (d, rank) with F F^T the covariance of x (n, d): the centred samples where these are few."""
  x = x - x.mean(0)
  root = x.T / np.sqrt(len(x) - 1)
  return root if len(x) <= x.shape[1] else _root(root @ root.T)


def _root(covariance: np.ndarray) -> np.ndarray:
  """F (d, rank) with F F^T = covariance, without the directions in which it is rounding error."""
  variances, axes = np.linalg.eigh((covariance + covariance.T) / 2)
  kept = variances > len(variances) * np.finfo(np.float64).eps * max(variances[-1], 0.0)
  return axes[:, kept] * np.sqrt(variances[kept])


def _gram(x: np.ndarray) -> np.ndarray:
  return x.T @ x
