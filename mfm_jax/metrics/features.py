"""Inception Score, KID, precision and recall, CLIP score, from features that are given (n, d)."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.types import Array

ROWS = 1024  # of a table of distances that is held at a time


class Estimate(NamedTuple):
  """A mean over parts or subsets, and their standard deviation (not the error of the mean)."""

  mean: float
  std: float


class PrecisionRecall(NamedTuple):
  """Shares of generated samples on the real manifold, and of real ones on the generated manifold."""

  precision: float
  recall: float


def inception_score(logits: np.ndarray, *, splits: int = 10) -> Estimate:
  """exp E KL(p(y|x) || p(y)) (Salimans et al., arXiv:1606.03498), mean over equal parts in the given order.

  Args:
    logits: (n, classes); the reference programs leave the bias out.
    splits: 10 for 50,000 is ADM's 5,000 a part.

  Raises:
    ValueError: fewer samples than parts, another shape, values that are not finite.
  """
  logits = _features("logits", logits)
  checks.at_least("splits", splits, 1)
  checks.at_least("the number of samples", len(logits), splits)
  bounds = [i * len(logits) // splits for i in range(splits + 1)]
  scores = [_score(logits[low:high]) for low, high in itertools.pairwise(bounds)]
  return Estimate(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: np.ndarray) -> float:
  log_p = logits.astype(np.float64)
  log_p -= log_p.max(1, keepdims=True)
  log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
  p = np.exp(log_p)
  marginal = p.mean(0)
  # E KL = E sum p log p - sum m log m; a class of probability 0 adds nothing.
  entropy = np.sum(marginal * np.log(np.where(marginal > 0, marginal, 1.0)))
  return np.exp((p * log_p).sum(1).mean() - entropy)


def kid(x: np.ndarray, y: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> Estimate:
  """Kernel Inception Distance (Binkowski et al., arXiv:1801.01401): MMD^2 with the kernel (x.y / d + 1)^3.

  Each subset's estimate is unbiased, so where the laws agree the mean is 0 and may be slightly negative.

  Args:
    x, y: (n, d), (m, d).
    subsets: number of pairs of subsets, drawn without replacement.
    size: of a subset, at least 2.
    seed: of the subsets.

  Raises:
    ValueError: fewer samples than `size`, shapes that disagree, values that are not finite.
  """
  x, y = _pair(x, y)
  checks.at_least("subsets", subsets, 1)
  checks.at_least("size", size, 2)
  for name, sample in (("x", x), ("y", y)):
    checks.at_least(f"the number of samples in {name} (size of a subset of KID: {size})", len(sample), size)
  rng = np.random.Generator(np.random.Philox(seed))

  def subset(sample):
    return sample[rng.choice(len(sample), size, replace=False)].astype(np.float64)

  values = [_mmd_squared(subset(x), subset(y)) for _ in range(subsets)]
  return Estimate(float(np.mean(values)), float(np.std(values)))


def _mmd_squared(x: np.ndarray, y: np.ndarray) -> float:
  def within(sample):
    k = _cubic(sample, sample)
    return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

  return within(x) + within(y) - 2.0 * _cubic(x, y).mean()


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return (x @ y.T / x.shape[1] + 1.0) ** 3


def precision_recall(real: np.ndarray, fake: np.ndarray, *, k: int = 3) -> PrecisionRecall:
  """Improved precision and recall (Kynkaanniemi et al., arXiv:1904.06991).

  A manifold is the union of balls around its samples, each as large as the distance to the k-th nearest other
  one. Distances are computed on the device, ROWS rows at a time, in float32 about the mean of `real`.

  Args:
    real, fake: (n, d), (m, d), both of more than k; figures compare only at equal numbers.
    k: neighbours.

  Raises:
    ValueError: too few samples, shapes that disagree, values that are not finite.
  """
  real, fake = _pair(real, fake)
  checks.at_least("k", k, 1)
  for name, sample in (("real", real), ("fake", fake)):
    checks.at_least(f"the number of samples in {name}", len(sample), k + 1)
  # Distances are differences of squares, which cancel least about the middle of the data.
  centre = real.mean(0, dtype=np.float64)
  real, fake = (jnp.asarray(sample - centre, jnp.float32) for sample in (real, fake))
  real_radius, fake_radius = (
    np.concatenate([_kth_nearest(rows, whole, k) for rows in _blocks(whole)])[: len(whole)]
    for whole in (real, fake)
  )

  def covered(points, centres, radius):
    inside = [_inside_any(rows, centres, jnp.asarray(radius)) for rows in _blocks(points)]
    return float(np.concatenate(inside)[: len(points)].mean())

  return PrecisionRecall(covered(fake, real, real_radius), covered(real, fake, fake_radius))


def _blocks(x: Array):
  """ROWS rows at a time; the last ones are filled up, so that one program does all."""
  x = jnp.pad(x, ((0, -len(x) % ROWS), (0, 0)))
  return (x[start : start + ROWS] for start in range(0, len(x), ROWS))


def _squares(x: Array, y: Array) -> Array:
  """|x - y|^2, (n, m)."""
  product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
  square = jnp.sum(x**2, 1)[:, None] + jnp.sum(y**2, 1)[None] - 2.0 * product
  return jnp.maximum(square, 0.0)


@functools.partial(jax.jit, static_argnames="k")
def _kth_nearest(x: Array, y: Array, k: int) -> Array:
  """Squared distance to the k-th nearest of y apart from x itself, which is among them."""
  return -jax.lax.top_k(-_squares(x, y), k + 1)[0][:, k]


@jax.jit
def _inside_any(x: Array, y: Array, radius: Array) -> Array:
  return jnp.any(_squares(x, y) <= radius[None], axis=1)


def clip_score(images: np.ndarray, texts: np.ndarray, *, weight: float = 1.0) -> float:
  """Mean of weight max(cos, 0) over pairs (Hessel et al., arXiv:2104.08718, whose weight is 2.5).

  Args:
    images, texts: (n, d) embeddings of pictures and of their prompts, of any length but 0.
    weight: 100 is a custom, too.

  Raises:
    ValueError: shapes that disagree, values that are not finite, an embedding of length 0.
  """
  images, texts = (np.asarray(x, np.float64) for x in _pair(images, texts))
  checks.shape("texts", texts, images.shape)
  lengths = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
  if not (lengths > 0).all():
    raise ValueError("embeddings must have a length above 0; got one of 0")
  return float(weight * np.mean(np.maximum((images * texts).sum(1) / lengths, 0.0)))


def _pair(x, y) -> tuple[np.ndarray, np.ndarray]:
  x, y = _features("x", x), _features("y", y)
  checks.shape("y", y, (None, x.shape[1]))
  return x, y


def _features(name: str, x) -> np.ndarray:
  x = np.asarray(x)
  checks.shape(name, x, (None, None))
  if not np.isfinite(x).all():
    raise ValueError(f"{name} must be finite; got {x[~np.isfinite(x)][0]}")
  return x
