"""Identities of the flow map, with two exact maps: Gaussian data in closed form, a mixture by its ODE."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixture_case import BOTH, mixture

from mfm_jax import flow_map, oracles, precondition
from mfm_jax.interpolants import Linear

# The closed form is exact to rounding, the mixture to the error of its Runge-Kutta steps.
TOLERANCE = {"gaussian": 1e-8, "mixture": 1e-6}
N = 30


@functools.cache
def exact_map(kind, interpolant):
  if kind == "mixture":

    def velocity(*arguments):
      # `mixture` is called inside, so that it has the test's precision.
      return oracles.as_velocity(mixture(), interpolant, steps=128)(*arguments)

    return jax.jit(velocity)
  skip = precondition.GaussianSkip(interpolant=interpolant, data_std=0.8)
  return jax.jit(precondition.precondition(lambda s, u, x_s, t, x_t, cond: jnp.zeros_like(x_s), skip))


def states(n, seed=0):
  rng = np.random.default_rng(seed)
  t = jnp.asarray(rng.uniform(0, 0.9, n)).at[0].set(0.0)
  return t, *(jnp.asarray(x) for x in rng.normal(size=(2, n, 2)))


@pytest.mark.usefixtures("x64")
@BOTH
@pytest.mark.parametrize("kind", TOLERANCE)
def test_semigroup(kind, interpolant):
  """X_{w,u}(X_{s,w}(x)) = X_{s,u}(x), up to u = 1."""
  velocity = exact_map(kind, interpolant)
  t, x_s, x_t = states(N)
  s, w, u = jnp.asarray(np.sort(np.random.default_rng(1).uniform(0, 1, (3, N)), axis=0))
  s, u = s.at[:10].set(0.0), u.at[5:15].set(1.0)
  halfway = flow_map.flow_map(velocity, s, w, x_s, t, x_t)
  twice = flow_map.flow_map(velocity, w, u, halfway, t, x_t)
  once = flow_map.flow_map(velocity, s, u, x_s, t, x_t)
  assert jnp.abs(once - x_s).max() > 1.0
  np.testing.assert_allclose(twice, once, atol=TOLERANCE[kind] * 4)


@BOTH
@pytest.mark.parametrize("kind", TOLERANCE)
def test_no_time_passes_no_state_moves(kind, interpolant):
  t, x_s, x_t = (value.astype(jnp.float32) for value in states(N))
  s = jnp.linspace(0.0, 1.0, N)
  moved = flow_map.flow_map(exact_map(kind, interpolant), s, s, x_s, t, x_t)
  np.testing.assert_array_equal(moved, x_s)


@pytest.mark.usefixtures("x64")
@BOTH
@pytest.mark.parametrize("kind", TOLERANCE)
def test_the_map_follows_its_own_diagonal(kind, interpolant):
  """d/du X_{s,u}(x) = v_{u,u}(X_{s,u}(x)): the Lagrangian equation."""
  velocity = exact_map(kind, interpolant)
  t, x_s, x_t = states(N)
  s, u = jnp.asarray(np.sort(np.random.default_rng(2).uniform(0, 0.95, (2, N)), axis=0))
  X, rate = jax.jvp(lambda u: flow_map.flow_map(velocity, s, u, x_s, t, x_t), (u,), (jnp.ones_like(u),))
  np.testing.assert_allclose(rate, velocity(u, u, X, t, x_t, None), atol=TOLERANCE[kind] * 30)


@pytest.mark.usefixtures("x64")
@BOTH
@pytest.mark.parametrize("kind", TOLERANCE)
def test_posterior_draws_in_one_and_four_steps_agree(kind, interpolant):
  velocity = exact_map(kind, interpolant)
  t, noise, x_t = states(N, seed=3)
  once = flow_map.posterior_map(velocity, noise, t, x_t)
  steps = jax.jit(lambda noise, t, x_t: flow_map.posterior_map(velocity, noise, t, x_t, steps=4))(
    noise, t, x_t
  )
  np.testing.assert_allclose(steps, once, atol=TOLERANCE[kind] * 4)
  zero, one = jnp.zeros_like(t), jnp.ones_like(t)
  whole = flow_map.flow_map(velocity, zero, one, noise, t, x_t)
  np.testing.assert_allclose(once, whole, atol=1e-12)


@pytest.mark.usefixtures("x64")
@BOTH
def test_marginal_velocity_is_that_of_the_data_law(interpolant):
  marginal = flow_map.marginal_velocity(exact_map("mixture", interpolant))
  _, x, _ = states(N)
  t = jnp.linspace(0.0, 1.0, N)
  exact = jax.jit(oracles.velocity, static_argnums=1)(mixture(), interpolant, t, x)
  np.testing.assert_allclose(marginal(t, x), exact, rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_posterior_draws_are_differentiable_in_context_and_noise():
  velocity = exact_map("gaussian", Linear())
  t, noise, x_t = states(5)
  direction = jnp.ones_like(x_t)
  h = 1e-6
  for steps in (1, 3):

    def draw(noise, x_t, steps=steps):
      return flow_map.posterior_map(velocity, noise, t, x_t, steps=steps)

    for tangents in ((direction, 0 * direction), (0 * direction, direction)):
      slope = jax.jvp(draw, (noise, x_t), tangents)[1]
      ahead, behind = (draw(noise + d * tangents[0], x_t + d * tangents[1]) for d in (h, -h))
      np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), atol=1e-7)


def test_conditioning_and_image_shapes_pass_through():
  seen = []

  def velocity(s, u, x_s, t, x_t, cond):
    seen.append((s.shape, u.shape, x_s.shape, t.shape, x_t.shape, cond))
    return jnp.ones_like(x_s)

  images = jnp.zeros((3, 4, 4, 2))
  t = jnp.array([0.0, 0.5, 1.0])
  cond = {"label": jnp.arange(3)}
  np.testing.assert_allclose(
    flow_map.flow_map(velocity, t, jnp.ones(3), images, t, images, cond)[:, 0, 0, 0], 1 - t
  )
  np.testing.assert_allclose(flow_map.posterior_map(velocity, images, t, images, cond), 1.0)
  np.testing.assert_allclose(
    flow_map.posterior_map(velocity, images, t, images, cond, steps=7), 1.0, rtol=1e-6
  )
  flow_map.marginal_velocity(velocity)(t, images, cond)
  shapes = ((3,), (3,), images.shape, (3,), images.shape)
  assert [call[:5] for call in seen] == [shapes] * 4
  assert all(call[5]["label"].shape == (3,) for call in seen)


GOOD = {"s": [0.1, 0.2], "u": [0.5, 0.2], "x_s": np.zeros((2, 3)), "t": [0.0, 1.0], "x_t": np.zeros((2, 3))}


@pytest.mark.parametrize(
  ("bad", "message"),
  [
    ({"s": [0.6, 0.2]}, r"s <= u must hold; got s=0.6\d*, u=0.5"),
    ({"t": [0.0, 1.5]}, r"t must lie in \[0.0, 1.0\]; got 1.5"),
    ({"t": [-0.25, 1.0]}, r"t must lie in \[0.0, 1.0\]; got -0.25"),
    ({"s": [-1.0, 0.2]}, r"s must lie in \[0.0, 1.0\]; got -1.0"),
    ({"u": [0.5, 2.0]}, r"u must lie in \[0.0, 1.0\]; got 2.0"),
    ({"u": [0.5, np.nan]}, r"u must lie in \[0.0, 1.0\]; got nan"),
    ({"t": [0.5]}, r"t must have shape \(2,\); got \(1,\)"),
    ({"s": 0.5}, r"s must have shape \(2,\); got \(\)"),
    ({"x_t": np.zeros((2, 4))}, r"x_t must have shape \(2, 3\); got \(2, 4\)"),
    ({"x_t": np.zeros((1, 3))}, r"x_t must have shape \(2, 3\); got \(1, 3\)"),
  ],
)
def test_bad_arguments_are_errors(bad, message):
  arguments = [jnp.asarray(value) for value in (GOOD | bad).values()]
  with pytest.raises(ValueError, match=message):
    flow_map.flow_map(lambda *_: 1 / 0, *arguments)
  if not {"s", "u"} & set(bad):
    _, _, noise, t, x_t = arguments
    with pytest.raises(ValueError, match=message):
      flow_map.posterior_map(lambda *_: 1 / 0, noise, t, x_t)


def test_posterior_map_needs_a_step():
  with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
    flow_map.posterior_map(lambda *_: 1 / 0, jnp.zeros((2, 3)), jnp.zeros(2), jnp.zeros((2, 3)), steps=0)
