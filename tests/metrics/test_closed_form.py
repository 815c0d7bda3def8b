"""The reports against closed forms: at their floor for the exact map, far from it for a wrong one."""

import jax
import numpy as np
import pytest

from mfm_jax import interpolants, oracles
from mfm_jax.metrics import closed_form
from mfm_jax.rewards import likelihoods

MIXTURE = oracles.paper_mixture()
TIMES = (0.0, 0.5, 0.95)


@pytest.fixture(params=["linear", "trigonometric"])
def interpolant(request):
  return interpolants.get(request.param)


def scaled(velocity, factor):
  """A map whose draws are off: its mean velocity is multiplied by `factor`."""
  return lambda *args: factor * velocity(*args)


def test_exact_draws_are_at_the_floor_and_wrong_ones_are_not(interpolant):
  exact = oracles.as_velocity(MIXTURE, interpolant, steps=16)

  def measured(velocity):
    rows = closed_form.posterior_rows(
      jax.random.key(0), velocity, MIXTURE, interpolant, times=TIMES, contexts=16, draws=512
    )
    assert [row["t"] for row in rows] == list(TIMES)
    return np.array([row["sw2"] for row in rows]), np.array([row["floor"] for row in rows])

  error, floor = measured(exact)
  # Both are distances of 512 draws to 512 others, averaged over 16 contexts: they scatter by a third.
  np.testing.assert_array_less(error, 1.4 * floor)
  error, floor = measured(scaled(exact, 1.3))
  np.testing.assert_array_less(2.0 * floor, error)


def test_value_errors_of_exact_draws_are_monte_carlo(interpolant):
  exact = oracles.as_velocity(MIXTURE, interpolant, steps=16)

  def measured(velocity):
    return closed_form.value_rows(
      jax.random.key(0),
      velocity,
      MIXTURE,
      interpolant,
      likelihoods.broad_quadratic(),
      times=(0.3, 0.7),
      states=32,
      draws=512,
    )

  for row, wrong in zip(measured(exact), measured(scaled(exact, 1.3)), strict=True):
    assert row["value_error"] < 2.0 * row["value_floor"]
    assert row["grad_relative"] < 2.0 * row["grad_floor"]
    # Relative gradient error of GF falls like N^-1/2 from about .6 at N = 8 (MATH 11).
    assert row["grad_floor"] < 0.15
    assert wrong["value_error"] > 3.0 * row["value_error"]
