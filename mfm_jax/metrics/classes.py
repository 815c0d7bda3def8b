"""Do samples belong to the class that was asked for? A judge that is independent of the network."""

import dataclasses
import math
from typing import Any

import numpy as np

from mfm_jax import checks
from mfm_jax.data.sources import Source

# Bound of (number of examples)^2 x coordinates, to which the time of fitting a support vector machine is
# proportional: 30,000 pictures of 12x12 or 11,000 of 32x32, some seconds.
KERNEL_WORK = 1.3e11


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
  """A classifier of examples in model space, fitted by `fit_judge`.

  Attributes:
    classifier: a fitted scikit-learn classifier of flattened examples.
    shape: shape of one example.
  """

  classifier: Any
  shape: tuple[int, ...]

  def predict(self, x) -> np.ndarray:
    """Labels, int (n,), of examples (n, *shape).

    Raises:
      ValueError: another shape, a value that is not finite.
    """
    flat = _flat(x, self.shape)
    if len(flat) == 0:
      return np.zeros(0, np.int64)
    return self.classifier.predict(flat).astype(np.int64)

  def accuracy(self, x, label) -> float:
    """Fraction of examples (n, *shape), n >= 1, that are judged to be of their label (n,).

    Raises:
      ValueError: shapes that disagree, no examples, a value that is not finite.
    """
    label = np.asarray(label)
    checks.shape("label", label, (len(x),))
    checks.at_least("the number of examples", len(label), 1)
    return float(np.mean(self.predict(x) == label))


def fit_judge(x, label, *, seed: int = 0) -> Judge:
  """Fits a support vector machine with a Gaussian kernel to a training split.

  The kernel's width follows the variance of the data, so the scale of model space does not matter.
  Right for 0.99 of the held-out digits of scikit-learn.

  Args:
    x: (n, ...), examples in model space.
    label: int (n,), with at least two classes.
    seed: chooses which examples are used when there are more than KERNEL_WORK allows.

  Raises:
    ValueError: shapes that disagree, labels that are not integers or of one class only, a value
      that is not finite.
  """
  from sklearn.svm import SVC

  x, label = np.asarray(x), _integers("label", label)
  checks.shape("label", label, (len(x),))
  checks.at_least("the number of classes in label", len(np.unique(label)), 2)
  chosen = _chosen(len(x), x.shape[1:], seed)
  x, label = x[chosen], label[chosen]
  classifier = SVC(kernel="rbf", C=10.0, gamma="scale").fit(_flat(x, x.shape[1:]), label)
  return Judge(classifier=classifier, shape=x.shape[1:])


def judge_of(source: Source, *, seed: int = 0) -> Judge:
  """`fit_judge` on a labelled source, of which no more is read than KERNEL_WORK allows, chosen at random."""
  examples = source.take(_chosen(len(source), source.shape, seed))
  return fit_judge(examples["x1"], examples["label"])


def _chosen(num: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
  """Indices, ascending, of those of `num` examples that a judge is fitted on: what KERNEL_WORK allows."""
  limit = int(math.sqrt(KERNEL_WORK / max(math.prod(shape), 1)))
  return np.sort(np.random.default_rng(seed).permutation(num)[:limit])


def class_frequencies(labels, num_classes: int) -> np.ndarray:
  """Frequency of each class, (..., num_classes), in labels (..., n), over the last axis; sums to 1.

  Raises:
    ValueError: no labels, labels that are not integers in [0, num_classes).
  """
  labels = _integers("labels", labels)
  if labels.ndim == 0 or labels.size == 0:
    raise ValueError(f"labels must have shape (..., n), not empty; got {labels.shape}")
  checks.in_interval("labels", labels, 0, num_classes - 1)
  return np.stack([(labels == k).mean(-1) for k in range(num_classes)], axis=-1)


def total_variation(p, q) -> np.ndarray:
  """Total variation distance sum |p - q| / 2 over the last axis, (..., k) -> (...).

  It is 0 for equal distributions, 1 for disjoint ones; leading axes broadcast.

  Raises:
    ValueError: numbers of classes that differ, a negative entry, sums that are not 1 within 1e-4.
  """
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
  checks.shape("q", q, (*q.shape[:-1], p.shape[-1]))
  for name, values in (("p", p), ("q", q)):
    checks.in_interval(name, values, 0.0, 1.0 + 1e-4)
    checks.in_interval(f"the sum of {name}", values.sum(-1), 1.0 - 1e-4, 1.0 + 1e-4)
  return 0.5 * np.abs(p - q).sum(-1)


def _integers(name: str, values) -> np.ndarray:
  values = np.asarray(values)
  if not np.issubdtype(values.dtype, np.integer):
    raise ValueError(f"{name} must be integers; got {values.dtype}")
  return values


def _flat(x, shape: tuple[int, ...]) -> np.ndarray:
  """(n, *shape) as float64 (n, d)."""
  x = np.asarray(x, np.float64)
  checks.shape("x", x, (None, *shape))
  if not np.isfinite(x).all():
    raise ValueError(f"x must be finite; got {x[~np.isfinite(x)][0]}")
  return x.reshape(len(x), math.prod(shape))
