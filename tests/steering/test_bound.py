"""The bound of MFM-G: no longer than what weights of its own draws can give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles
from mfm_jax.interpolants import Linear, Trigonometric
from mfm_jax.steering import drifts, value

PRIOR = oracles.paper_mixture()


def likelihood(sigma):
  return lambda x, cond: -0.5 * ((x - jnp.array([[1.0, 0.5]])) ** 2).sum(1) / sigma**2


def states(interpolant, t, n=64):
  key_x, key_n = jax.random.split(jax.random.key(3))
  x1 = oracles.sample(key_x, PRIOR, n)
  return interpolant.a(t) * jax.random.normal(key_n, x1.shape) + interpolant.b(t) * x1


@pytest.mark.parametrize("interpolant", [Linear(), Trigonometric()], ids=["linear", "trigonometric"])
@pytest.mark.parametrize("jackknife", [1, 4])
def test_the_bound_is_that_of_cauchy_and_schwarz(interpolant, jackknife):
  t = jnp.full(64, 0.6)
  x = states(interpolant, 0.6)
  velocity = oracles.as_sampler(PRIOR, interpolant)
  noise = jax.random.normal(jax.random.key(0), (64, 16, 2))
  how = {"noise": noise, "draws": 16, "jackknife": jackknife, "chunk": 4}
  run = lambda bound: value.value_and_grad_g(  # noqa: E731
    None, velocity, t, x, likelihood(0.7), bound=bound, **how
  )
  (estimate, free), (same, bounded) = jax.jit(lambda: (run(None), run(interpolant)))()
  np.testing.assert_array_equal(estimate.value, same.value)
  draws = jax.vmap(lambda e: velocity(*zero_to_one(e), t, x, None) + e, 1, 1)(noise)
  spread = jnp.sqrt(((draws - draws.mean(1, keepdims=True)) ** 2).sum((1, 2)) / 16)
  gain = interpolant.b(0.6) / interpolant.a(0.6) ** 2
  longest = gain * jnp.sqrt(16 / estimate.ess - 1) * spread
  length, kept = (jnp.linalg.norm(gradient, axis=1) for gradient in (free, bounded))
  np.testing.assert_allclose(kept, jnp.minimum(length, longest), rtol=1e-4)
  assert 0.05 < float((kept < 0.999 * length).mean()) < 0.95  # some are too long, some are not
  cosine = (free * bounded).sum(1) / (length * jnp.maximum(kept, 1e-12))
  np.testing.assert_allclose(cosine, 1.0, rtol=1e-4)


def zero_to_one(e):
  return jnp.zeros(len(e)), jnp.ones(len(e)), e


def test_rewards_that_hardly_differ_leave_a_gradient():
  t, interpolant = jnp.full(64, 0.9), Linear()
  x, velocity = states(interpolant, 0.9), oracles.as_sampler(PRIOR, interpolant)
  weak = lambda x, cond: 1e-4 * likelihood(1.0)(x, cond)  # noqa: E731
  run = lambda bound: value.value_and_grad_g(  # noqa: E731
    jax.random.key(1), velocity, t, x, weak, bound=bound, draws=8
  )[1]
  free, bounded = jax.jit(lambda: (run(None), run(interpolant)))()
  assert (jnp.linalg.norm(bounded, axis=1) > 0.1 * jnp.linalg.norm(free, axis=1)).all()


def test_an_exact_gradient_is_within_the_exact_bound():
  """chi^2 and the posterior's spread in closed form: the bound is no bias where draws are many."""
  interpolant, t = Linear(), jnp.full(64, 0.5)
  x = states(interpolant, 0.5)
  velocity = oracles.as_sampler(PRIOR, interpolant)
  run = lambda bound: value.value_and_grad_g(  # noqa: E731
    jax.random.key(1), velocity, t, x, likelihood(1.0), bound=bound, draws=4096, chunk=512
  )[1]
  np.testing.assert_allclose(run(interpolant), run(None), rtol=1e-5, atol=1e-6)


def test_the_guide_passes_the_bound_on():
  interpolant, t = Linear(), jnp.full(64, 0.8)
  x, reward = states(interpolant, 0.8), likelihood(0.05)
  velocity = oracles.as_sampler(PRIOR, interpolant)
  found = [
    drifts.mfm_g(velocity, reward, draws=4, bound=bound)(jax.random.key(2), t, x).gradient
    for bound in (None, interpolant)
  ]
  free, bounded = (np.linalg.norm(gradient, axis=1) for gradient in found)
  assert (bounded <= free * (1 + 1e-6)).all()
  assert (bounded < 0.9 * free).any()
