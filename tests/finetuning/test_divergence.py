"""The path divergence of a fine-tuned flow from its base, on closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import interpolants, oracles, times
from mfm_jax.finetuning.divergence import path_kl
from mfm_jax.interpolants import Linear, Trigonometric
from mfm_jax.rewards import likelihoods

PRIOR = oracles.paper_mixture()
REWARD = likelihoods.broad_quadratic()
TILT = REWARD.matrix, REWARD.observed, REWARD.sigma


def steered(interpolant, strength):
  """v + strength (sigma^2/2) grad V."""

  def marginal(t, x, cond=None):
    gain = strength * interpolants.half_sigma_squared(interpolant, t)
    return oracles.velocity(PRIOR, interpolant, t, x) + gain[:, None] * oracles.grad_value(
      PRIOR, interpolant, t, x, *TILT
    )

  return marginal


@pytest.mark.parametrize("interpolant", [Linear(), Trigonometric()], ids=["linear", "trigonometric"])
def test_at_the_fixed_point_it_is_the_divergence_of_the_tilt(interpolant):
  """KL(p* | p) = E_p*[r] - log Z, in closed form for a quadratic reward."""
  tilted, log_z = oracles.tilt(PRIOR, *TILT)
  mean, cov = (np.asarray(moment, np.float64) for moment in oracles.moments(tilted))
  square = np.trace(cov) + np.sum((mean - REWARD.observed) ** 2)
  exact = -0.5 * square / REWARD.sigma**2 - float(log_z)
  key_start, key_path = jax.random.split(jax.random.key(0))
  x = jax.random.normal(key_start, (4096, 2))
  grid = times.grid(250, start=1e-3, power=2.0)
  flows = steered(interpolant, 1.0), oracles.as_marginal(PRIOR, interpolant)
  x1, kl = jax.jit(lambda x: path_kl(key_path, x, grid, *flows, interpolant))(x)
  se = float(kl.std() / np.sqrt(len(kl)))
  # 3 %: the left sum over 250 steps.
  assert abs(float(kl.mean()) - exact) < 4 * se + 0.03 * exact
  np.testing.assert_allclose(x1.mean(0), mean, atol=4 * np.sqrt(np.trace(cov) / len(x)) + 0.03)


def test_it_is_zero_for_the_base_and_grows_with_the_square_of_a_small_change():
  base, grid = oracles.as_marginal(PRIOR, Linear()), times.grid(20, start=1e-3, power=2.0)
  x = jax.random.normal(jax.random.key(1), (64, 2))
  found = [
    path_kl(jax.random.key(2), x, grid, steered(Linear(), strength), base, Linear())[1].mean()
    for strength in (0.0, 0.01, 0.02)
  ]
  assert found[0] == 0.0
  assert found[2] / found[1] == pytest.approx(4.0, rel=0.1)


def test_conditioning_reaches_both_flows():
  seen = []

  def flow(t, x, cond):
    seen.append(cond["label"])
    return jnp.zeros_like(x) + cond["label"][:, None]

  label = jnp.array([1.0, 2.0])
  grid = times.grid(3, start=0.1)
  kl = path_kl(jax.random.key(3), jnp.zeros((2, 2)), grid, flow, flow, Linear(), {"label": label})[1]
  np.testing.assert_array_equal(kl, 0.0)
  assert len(seen) >= 2
