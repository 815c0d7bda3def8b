"""A map on data without closed forms: one-step draws against rollouts of its own marginal velocity.

GLASS rollouts need no trained map, only a marginal velocity, so they are the reference for the posterior of
the flow that the map belongs to; the training set's exact posterior is the reference for the data.
"""

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist

from mfm_jax import checks
from mfm_jax.interpolants import Interpolant
from mfm_jax.metrics import classes, empirical
from mfm_jax.metrics.distances import energy_distance

NEIGHBOURS = 5  # of a ball of `coverage`


def energy_row(drawn: np.ndarray, rollouts: np.ndarray, again: np.ndarray) -> dict[str, float]:
  """Mean over contexts of the energy distance of draws to rollouts, beside rollouts to other rollouts.

  Args:
    drawn, rollouts, again: (contexts, draws, ...); `again` are rollouts from other noise.

  Returns:
    {"energy", "energy_floor", "energy_mean": the distance of draws that all sit at the rollouts' mean},
    the last one to see that the measure sees.
  """
  flat = [x.reshape(*x.shape[:2], -1).astype(np.float64) for x in (drawn, rollouts, again)]
  mean = np.broadcast_to(flat[1].mean(axis=1, keepdims=True), flat[1].shape)
  pairs = {"energy": flat[0], "energy_floor": flat[2], "energy_mean": mean}
  return {
    name: float(np.mean([energy_distance(a, b) for a, b in zip(x, flat[1], strict=True)]))
    for name, x in pairs.items()
  }


def spread_row(drawn: np.ndarray, rollouts: np.ndarray, again: np.ndarray) -> dict[str, float]:
  """What the mean of an energy distance hides: draws that leave out modes, and draws that ignore x_t.

  Args:
    drawn, rollouts, again: (contexts, draws, ...), at least 2 of both.

  Returns:
    {"coverage", "coverage_floor"}: mean over contexts of `coverage` of the rollouts, by the draws and by
    other rollouts. {"context", "context_rollouts"}: share of the variance of draws that x_t explains, for
    the draws and for the rollouts; near 0 where x_t is not used.
  """
  pairs = list(zip(drawn, rollouts, again, strict=True))
  return {
    "coverage": float(np.mean([coverage(ours, theirs) for ours, theirs, _ in pairs])),
    "coverage_floor": float(np.mean([coverage(other, theirs) for _, theirs, other in pairs])),
    "context": _explained(drawn),
    "context_rollouts": _explained(rollouts),
  }


def coverage(x: np.ndarray, y: np.ndarray) -> float:
  """Share of the samples y with one of x nearer than their NEIGHBOURS-th neighbour (arXiv:2002.09797).

  Raises:
    ValueError: fewer than 2 samples of y.
  """
  checks.at_least("the number of samples", len(y), 2)
  x, y = (np.asarray(sample, np.float64).reshape(len(sample), -1) for sample in (x, y))
  radius = np.sort(cdist(y, y), axis=1)[:, min(NEIGHBOURS, len(y) - 1)]  # the nearest is the sample itself
  return float(np.mean(cdist(y, x).min(1) <= radius))


def _explained(x: np.ndarray) -> float:
  """1 - variance within contexts / variance, over (contexts, draws, ...), each unbiased."""
  x = x.reshape(*x.shape[:2], -1).astype(np.float64)
  within = x.var(axis=1, ddof=1).mean(0).sum()
  # The variance of means of a few draws has some of that within.
  between = max(x.mean(1).var(axis=0, ddof=1).sum() - within / x.shape[1], 0.0)
  return float(between / (between + within))


def data_row(
  drawn: np.ndarray,
  rollouts: np.ndarray,
  x_t: np.ndarray,
  t: np.ndarray,
  judge: classes.Judge,
  train: dict[str, np.ndarray],
  num_classes: int,
  interpolant: Interpolant,
) -> dict[str, float]:
  """Draws against the exact posterior of the training set: their judged classes, and the draws themselves.

  Args:
    drawn, rollouts: (contexts, draws, ...).
    x_t, t: the contexts.
    judge: classifier of examples.
    train: "x1" (n, ...) and "label" (n,) of the training split.
    num_classes: number of classes.
    interpolant: of the run.

  Returns:
    {"class_tv", "class_tv_rollouts", "class_tv_floor", "class_tv_prior"}: total variation to the class
    posterior, mean over contexts, for the draws, the rollouts, as many draws of the training set's posterior
    itself, and the class prior. {"energy_data", "energy_data_floor"}: energy distance to draws of that
    posterior, for the draws and for as many draws of it.
  """
  contexts, draws = drawn.shape[:2]
  weights = empirical.posterior_weights(interpolant, t, x_t, train["x1"])
  exact = empirical.class_posterior(weights, train["label"], num_classes)
  rng = np.random.Generator(np.random.Philox(0))

  def judged(x):
    labels = judge.predict(x.reshape(-1, *x.shape[2:])).reshape(contexts, draws)
    return classes.class_frequencies(labels, num_classes)

  resampled = np.stack([rng.choice(num_classes, draws, p=row / row.sum()) for row in exact])
  prior = classes.class_frequencies(train["label"], num_classes)
  tables = {
    "class_tv": judged(drawn),
    "class_tv_rollouts": judged(rollouts),
    "class_tv_floor": classes.class_frequencies(resampled, num_classes),
    "class_tv_prior": np.broadcast_to(prior, exact.shape),
  }
  out = {name: float(np.mean(classes.total_variation(table, exact))) for name, table in tables.items()}

  def from_data():
    rows = np.stack([rng.choice(len(row), draws, p=row / row.sum()) for row in weights])
    return train["x1"][rows].reshape(contexts, draws, -1).astype(np.float64)

  reference = from_data()
  own = drawn.reshape(contexts, draws, -1).astype(np.float64)
  for name, x in (("energy_data", own), ("energy_data_floor", from_data())):
    out[name] = float(np.mean([energy_distance(a, b) for a, b in zip(x, reference, strict=True)]))
  return out


def value_row(
  drawn: np.ndarray, rollouts: np.ndarray, reward: Callable[[np.ndarray], np.ndarray]
) -> dict[str, float]:
  """V = log mean exp r from one-step draws against V from rollouts, over contexts.

  Args:
    drawn, rollouts: (contexts, draws, ...).
    reward: (n, ...) -> (n,).

  Returns:
    {"value_error": rms difference, "value_spread": standard deviation over the contexts of the
    rollouts' V, "pearson": correlation}.
  """

  def value(x):
    r = np.asarray(reward(x.reshape(-1, *x.shape[2:])), np.float64).reshape(x.shape[:2])
    return np.logaddexp.reduce(r, axis=1) - np.log(r.shape[1])

  ours, reference = value(drawn), value(rollouts)
  return {
    "value_error": float(np.sqrt(np.mean((ours - reference) ** 2))),
    "value_spread": float(reference.std()),
    "pearson": float(np.corrcoef(ours, reference)[0, 1]),
  }
