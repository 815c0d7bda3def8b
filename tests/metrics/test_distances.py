import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from mfm_jax import oracles
from mfm_jax.metrics import distances


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape)


def test_sliced_w2_in_one_dimension_is_the_optimal_assignment():
  """In one dimension every direction is +-1, and sorted pairs are the cheapest matching."""
  x, y = normal(0, 30, 1), 2.0 * normal(1, 30, 1) + 1.0
  cost = (x - y.T) ** 2
  rows, columns = optimize.linear_sum_assignment(cost)
  expected = math.sqrt(cost[rows, columns].mean())
  assert distances.sliced_w2(x, y, directions=3) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dimension", [2, 5])
def test_sliced_w2_of_a_shift_and_of_a_scale(dimension):
  """A shift by d moves every projection by d.u, E (d.u)^2 = |d|^2 / dimension; a scale likewise."""
  x = normal(0, 2000, dimension)
  shift = np.arange(1.0, dimension + 1)
  expected = np.linalg.norm(shift) / math.sqrt(dimension)
  found = distances.sliced_w2(x, x + shift, directions=4000)
  assert found == pytest.approx(expected, rel=0.05)
  centred = x - x.mean(0)
  scaled = distances.sliced_w2(centred, 3.0 * centred)
  assert scaled == pytest.approx(2.0, rel=0.05)  # W2 of N(0, 1) and N(0, 9)


def test_sliced_w2_is_a_fixed_metric():
  x, y, z = normal(0, 200, 3), normal(1, 200, 3) + 1.0, 2.0 * normal(2, 200, 3)
  assert distances.sliced_w2(x, x[::-1]) == 0.0
  assert distances.sliced_w2(x, y) == distances.sliced_w2(y, x)
  assert distances.sliced_w2(x, z) <= distances.sliced_w2(x, y) + distances.sliced_w2(y, z)
  assert distances.sliced_w2(x, y, seed=1) != distances.sliced_w2(x, y)
  images = x.reshape(200, 1, 3, 1), y.reshape(200, 1, 3, 1)
  assert distances.sliced_w2(*images) == distances.sliced_w2(x, y)


def test_sliced_w2_floor_of_the_paper_tilt():
  """Two exact samples of 4096 against each other: the floor beside which figures stand."""
  tilted, _ = oracles.tilt(oracles.paper_mixture(), [[1.2, -0.8]], [-1.0], 0.2)
  found = [
    distances.sliced_w2(*(oracles.sample(k, tilted, 4096) for k in jax.random.split(key)))
    for key in jax.random.split(jax.random.key(0), 10)
  ]
  assert np.mean(found) == pytest.approx(0.09, abs=0.02)


def brute_force(x, y, kernel):
  within = [
    np.mean([kernel(math.dist(p, q)) for p, q in itertools.permutations(sample, 2)]) for sample in (x, y)
  ]
  return sum(within) - 2.0 * np.mean([kernel(math.dist(p, q)) for p in x for q in y])


@pytest.mark.parametrize("block", [7, 1024])
def test_against_brute_force(monkeypatch, block):
  monkeypatch.setattr(distances, "BLOCK", block)
  x, y = normal(0, 25, 3), normal(1, 18, 3) + 0.5
  y[:3] = y[0]  # repeated points are pairs like others

  def kernel(d):
    return sum(math.exp(-(d**2) / (2 * h**2)) for h in (0.2, 0.5, 1.0, 2.0, 5.0)) / 5

  assert distances.mmd_squared(x, y) == pytest.approx(brute_force(x, y, kernel), abs=1e-10)
  expected = -brute_force(x, y, lambda d: d)
  assert distances.energy_distance(x, y) == pytest.approx(expected, abs=1e-6)


def mean_and_standard_error(values):
  return np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))


def test_known_values_of_two_gaussians():
  """x ~ N(0, 1), y ~ N(m, 1): x - y ~ N(m, 2), x - x' ~ N(0, 2); means within 4 standard errors."""
  m, h = 1.0, 0.7
  spread = math.sqrt(2.0)
  # E|N(m, s^2)| = s sqrt(2/pi) exp(-m^2 / 2 s^2) + m erf(m / (s sqrt 2))
  across = spread * math.sqrt(2 / math.pi) * math.exp(-(m**2) / 4) + m * special.erf(m / 2.0)
  energy = 2 * across - 2 * spread * math.sqrt(2 / math.pi)
  # E exp(-N(m, s^2)^2 / 2 h^2) = h / sqrt(h^2 + s^2) exp(-m^2 / 2 (h^2 + s^2))
  width = h**2 + 2.0
  mmd = 2 * h / math.sqrt(width) * (1 - math.exp(-(m**2) / (2 * width)))
  pairs = [(normal(2 * i, 60, 1), normal(2 * i + 1, 40, 1) + m) for i in range(200)]
  mean, error = mean_and_standard_error([distances.energy_distance(x, y) for x, y in pairs])
  assert abs(mean - energy) < 4 * error
  assert error < 0.02
  mean, error = mean_and_standard_error([distances.mmd_squared(x, y, h) for x, y in pairs])
  assert abs(mean - mmd) < 4 * error
  assert error < 0.02


@pytest.mark.parametrize("metric", [distances.mmd_squared, distances.energy_distance])
def test_unbiased_where_the_laws_agree(metric):
  values = [metric(normal(2 * i, 12, 2), normal(2 * i + 1, 9, 2)) for i in range(400)]
  mean, error = mean_and_standard_error(values)
  assert abs(mean) < 4 * error
  assert min(values) < 0


def test_relative_posterior_sw2_is_the_mean_of_its_contexts():
  draws, exact = normal(0, 3, 50, 2), normal(1, 3, 50, 2)
  std = np.array([0.5, 1.0, 2.0])
  expected = np.mean([distances.sliced_w2(draws[i], exact[i], directions=64) / std[i] for i in range(3)])
  assert distances.relative_posterior_sw2(draws, exact, std) == pytest.approx(expected)
  # Scale-free: draws and deviation in other units.
  scale = np.array([10.0, 0.1, 3.0])
  units = distances.relative_posterior_sw2(
    draws * scale[:, None, None], exact * scale[:, None, None], std * scale
  )
  assert units == pytest.approx(expected)


def test_jax_arrays_are_accepted():
  assert distances.sliced_w2(jnp.zeros((3, 2)), jnp.ones((3, 2))) > 0


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: distances.sliced_w2(np.ones((3, 2)), np.ones((4, 2))), r"y must have shape \(3, 2\)"),
    (lambda: distances.sliced_w2(np.ones(3), np.ones(3)), r"x must have shape \(samples, ...\)"),
    (lambda: distances.sliced_w2(np.ones((0, 2)), np.ones((0, 2))), "not empty"),
    (
      lambda: distances.sliced_w2(np.ones((2, 2)), np.full((2, 2), np.nan)),
      "y must be finite; got 4",
    ),
    (
      lambda: distances.sliced_w2(np.ones((2, 2)), np.ones((2, 2)), directions=0),
      "directions must be at least 1; got 0",
    ),
    (lambda: distances.mmd_squared(np.ones((3, 2)), np.ones((3, 1))), r"\(any, 2\); got \(3, 1\)"),
    (lambda: distances.energy_distance(np.ones((1, 2)), np.ones((3, 2))), "samples in x must be"),
    (
      lambda: distances.mmd_squared(np.ones((3, 2)), np.ones((3, 2)), (1.0, 0.0)),
      "bandwidths must be positive",
    ),
    (
      lambda: distances.relative_posterior_sw2(np.ones((2, 3, 1)), np.ones((2, 4, 1)), np.ones(2)),
      r"exact must have shape \(2, 3, 1\); got \(2, 4, 1\)",
    ),
    (
      lambda: distances.relative_posterior_sw2(np.ones((2, 3, 1)), np.ones((2, 3, 1)), np.zeros(2)),
      "std must be positive; got 0.0",
    ),
  ],
)
def test_bad_arguments(call, message):
  with pytest.raises(ValueError, match=message):
    call()
