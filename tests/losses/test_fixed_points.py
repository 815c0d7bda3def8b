"""The exact posterior map of a Gaussian mixture is a fixed point of every objective; another map is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles, precondition
from mfm_jax.interpolants import INTERPOLANTS
from mfm_jax.losses import DrawConfig, Draws, Objective, draw
from mfm_jax.types import expand_like

BOTH = pytest.mark.parametrize("interpolant", INTERPOLANTS.values(), ids=INTERPOLANTS.keys())
DATA_STD = 0.7
FORMS = {
  "semigroup": {"consistency": "semigroup"},
  "eulerian": {"consistency": "eulerian"},
  "eulerian_teacher": {"consistency": "eulerian_teacher"},
  **{
    f"{name}-{form}": {"consistency": name, "lagrangian_form": form}
    for name in ("lagrangian", "lagrangian_teacher")
    for form in ("tangent", "cheap", "published")
  },
}


def mixture():
  covs = [[[0.5, 0.2], [0.2, 0.4]], [[0.3, 0.0], [0.0, 0.8]], [[0.6, -0.1], [-0.1, 0.5]]]
  return oracles.gaussian_mixture([0.5, 0.2, 0.3], [[-1.5, 0.5], [0.3, -1.0], [2.0, 1.0]], covs)


def distortion(s, u, x, t, x_t):
  """A smooth field that no flow map is off by."""
  return jnp.sin(2.0 * x + expand_like(u * u - 3.0 * s + t, x)) + 0.3 * x_t


def grid_draws(dtype):
  """All s <= u of a grid with all t of another, both ends included, at states of the right law."""
  rng = np.random.default_rng(0)
  inner = [0.0, 0.1, 0.4, 0.7, 0.95, 1.0]
  cases = [(s, u, t) for s in inner for u in inner if s <= u for t in (0.0, 0.15, 0.5, 0.9)]
  s, u, t = (jnp.asarray(values, dtype) for values in zip(*cases))

  def normal():
    return jnp.asarray(rng.normal(size=(len(cases), 2)), dtype)

  x1 = oracles.sample(jax.random.key(0), mixture(), len(cases)).astype(dtype)
  r, g = (jnp.asarray(rng.uniform(size=len(cases)), dtype) for _ in range(2))
  return Draws(
    x1=x1, t=t, n=normal(), r=r, e_r=normal(), s=s, u=u, e=normal(), g=g, label=None, guidance=None
  )


@functools.cache
def exact_map(interpolant):
  """Compiled apart from the objectives, which then share it."""
  return jax.jit(oracles.as_velocity(mixture(), interpolant, steps=48))


@pytest.mark.usefixtures("x64")
@BOTH
def test_the_exact_map_has_no_residual_and_another_map_has_one(interpolant):
  draws = grid_draws(jnp.float64)
  exact, teacher = exact_map(interpolant), jax.jit(oracles.as_marginal(mixture(), interpolant))

  def distorted(*args):
    return exact(*args) + 0.1 * distortion(*args[:5])

  def residual(velocity, choice):
    """Root mean square over the coordinates of (consistency, diagonal), each (B,)."""
    objective = Objective(diagonal="teacher", **choice)
    _, errors = objective(velocity, interpolant, draws, teacher=teacher)
    return np.sqrt(errors["consistency"]), np.sqrt(errors["diagonal"])

  at_end = np.asarray(draws.u == 1.0)
  for name, choice in FORMS.items():
    off, diagonal = residual(exact, choice)
    assert diagonal.max() < 1e-10, name
    assert off[~at_end].max() < 3e-5, name  # the error of 48 Runge-Kutta steps and of its derivative
    # At u = 1 the oracle clips a at 1e-4, a relative change of 1e-4 / k for the smallest k = 0.08.
    assert off[at_end].max() < 3e-3, name
    off, diagonal = residual(distorted, choice)
    assert np.median(diagonal) > 0.03, name
    # At s = u the self forms hold for any velocity.
    apart = np.asarray(draws.s < draws.u) | ("teacher" in name)
    assert np.median(off[apart]) > 5e-3, name


@pytest.mark.usefixtures("x64")
@BOTH
def test_derivatives_of_the_exact_map_are_those_of_finite_differences(interpolant):
  """What the objectives above differentiate: the oracle in s and in u, at u > s and at u = s."""
  draws, velocity, h = grid_draws(jnp.float64), exact_map(interpolant), 1e-5
  s, u = (jnp.clip(time, h, 0.999) for time in (draws.s, draws.u))  # beyond, the value of a is clipped

  def at(s, u):
    return velocity(s, u, draws.e, draws.t, draws.n, None)

  for ds, du in ((1.0, 0.0), (0.0, 1.0)):
    _, derivative = jax.jvp(at, (s, u), (jnp.full_like(s, ds), jnp.full_like(u, du)))
    expected = (at(s + h * ds, u + h * du) - at(s - h * ds, u - h * du)) / (2 * h)
    scale = jnp.abs(expected).max(-1, keepdims=True) + 1.0
    assert (jnp.abs(derivative - expected) / scale).max() < 1e-5


def gradients_at_fixed_point(velocity, interpolant, objective, draws):
  """Gradient of every example's loss in the coefficients of six fields added to `velocity`, (B, 6).

  At a fixed point its expectation is zero although the target of one example is not the prediction.
  """

  def loss(coefficients):
    def family(s, u, x, t, x_t, cond):
      fields = jnp.stack(
        [
          jnp.ones_like(x),
          x,
          x_t,
          jnp.roll(x, 1, axis=-1),
          jnp.sin(2.0 * x) * expand_like(1.0 + s, x),
          jnp.cos(x_t - x) * expand_like(t, x),
        ],
        axis=-1,
      )
      return velocity(s, u, x, t, x_t, cond) + fields @ coefficients

    return objective(family, interpolant, draws)[0]

  return jax.jit(jax.jacfwd(loss))(jnp.zeros(6))


def z_scores(samples):
  """Mean over its standard error, for each column."""
  samples = np.asarray(samples, np.float64)
  return samples.mean(0) / (samples.std(0) / np.sqrt(len(samples)))


def data_draws(law, n, seed):
  batch = {"x1": oracles.sample(jax.random.key(seed), law, n)}
  return draw(jax.random.key(seed + 1), batch, 1, DrawConfig())


@BOTH
def test_data_diagonal_is_right_in_expectation(interpolant):
  """E[dI_s | I_s, x_t] is the inner velocity (MATH 4.1)."""
  law, n = mixture(), 50_000
  objective = Objective(diagonal="data", consistency="none", weighting="l2")
  exact = oracles.as_velocity(law, interpolant, steps=1)  # at u = s one step is exact
  draws = data_draws(law, n, seed=1)
  right = z_scores(gradients_at_fixed_point(exact, interpolant, objective, draws))
  assert np.abs(right).max() < 4

  def off(*args):
    return exact(*args) + 0.1 * distortion(*args[:5])

  assert np.abs(z_scores(gradients_at_fixed_point(off, interpolant, objective, draws))).max() > 6


@BOTH
def test_mean_flow_is_right_in_expectation(interpolant):
  """With the data velocity in place of the inner one (MATH 4.6), on Gaussian data, whose map is MATH 9's."""
  n = 50_000
  skip = precondition.GaussianSkip(interpolant=interpolant, data_std=DATA_STD)
  exact = precondition.precondition(lambda s, u, x_s, t, x_t, cond: jnp.zeros_like(x_s), skip)
  draws = data_draws(oracles.gaussian(DATA_STD, 2), n, seed=5)
  objective = Objective(diagonal="data", consistency="mean_flow", weighting="l2")
  right = z_scores(gradients_at_fixed_point(exact, interpolant, objective, draws))
  assert np.abs(right).max() < 4

  def off(*args):
    return exact(*args) + 0.1 * distortion(*args[:5])

  assert np.abs(z_scores(gradients_at_fixed_point(off, interpolant, objective, draws))).max() > 6
