"""The hybrid of MFM-G and MFM-GF, schemes of draws, draws that are left out, draws over several devices."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_case

from mfm_jax import interpolants, oracles
from mfm_jax.interpolants import Linear
from mfm_jax.rewards import likelihoods
from mfm_jax.sampling import noise
from mfm_jax.steering import drifts, sums, value

PRIOR = oracles.paper_mixture()
QUADRATIC, SHARP = likelihoods.broad_quadratic(), likelihoods.paper_likelihood()


def toy_velocity(s, u, x_s, t, x_t, cond):
  return jnp.tanh(x_s + 2.0 * x_t) + (s + 2.0 * u + 3.0 * t)[:, None]


def case(batch=12, draws=6, time=0.5):
  keys = jax.random.split(jax.random.key(0))
  x_t = jax.random.normal(keys[0], (batch, 2))
  return jnp.full(batch, time), x_t, jax.random.normal(keys[1], (batch, draws, 2))


@pytest.mark.parametrize("jackknife", [1, 3])
def test_with_weight_0_or_1_the_hybrid_is_one_of_its_parts(jackknife):
  t, x_t, e = case()
  options = {"draws": 6, "noise": e, "chunk": 2, "jackknife": jackknife}

  @jax.jit
  def parts():
    gf = value.value_and_grad_gf(None, toy_velocity, Linear(), t, x_t, QUADRATIC, **options)
    return *gf, value.value_and_grad_g(None, toy_velocity, t, x_t, QUADRATIC, **options)[1]

  @jax.jit
  def hybrid(weight):
    return value.value_and_grad_hybrid(
      None, toy_velocity, Linear(), t, x_t, QUADRATIC, weight=weight, **options
    )

  estimate, gf, g = parts()
  for weight, expected in ((0.0, gf), (1.0, g), (0.3, 0.3 * g + 0.7 * gf)):
    found = hybrid(weight)
    np.testing.assert_allclose(found[1], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0].value, estimate.value, rtol=1e-5)
    np.testing.assert_allclose(found[2], weight)


def test_the_weight_is_the_one_of_least_variance_by_the_jackknife():
  """NumPy, from its definition: every draw left out in turn, covariances averaged over the batch."""
  t, x_t, e = case()
  options = {"draws": 6, "noise": e, "jackknife": 6}

  def parts(e):
    how = {"draws": e.shape[1], "noise": e}
    gf = value.value_and_grad_gf(None, toy_velocity, Linear(), t, x_t, QUADRATIC, **how)[1]
    return gf, value.value_and_grad_g(None, toy_velocity, t, x_t, QUADRATIC, **how)[1]

  left = [parts(jnp.delete(e, i, axis=1)) for i in range(6)]
  gf, g = (np.stack([pair[k] for pair in left]).astype(np.float64) for k in (0, 1))
  gf, g = gf - gf.mean(0), g - g.mean(0)
  f2, g2, c = ((a * b).sum() for a, b in ((gf, gf), (g, g), (gf, g)))
  found = value.value_and_grad_hybrid(None, toy_velocity, Linear(), t, x_t, QUADRATIC, **options)
  np.testing.assert_allclose(found[2], np.clip((f2 - c) / (f2 + g2 - 2 * c), 0, 1), rtol=1e-3)


def test_the_jackknife_covariance_is_that_of_repetitions():
  """Plain means: (G - 1)/G sum of left-out deviations is the variance of the mean."""
  draws = np.random.default_rng(0).normal(size=(2000, 8, 3))
  left = np.stack([np.delete(draws, i, axis=1).mean(1) for i in range(8)])
  found = sums.covariance(jnp.asarray(left), jnp.asarray(left))
  np.testing.assert_allclose(found, draws.var(1, ddof=1).sum(-1) / 8, rtol=1e-4)


def errors(scheme, reward, states=256, draws=8):
  """Relative rms errors of GF, G and the hybrid at equal draws, averaged over the times of MATH 11."""
  velocity = oracles.as_velocity(PRIOR, Linear(), 8)

  @jax.jit
  def at(key, t):
    keys = jax.random.split(key, 3)
    x1, t_B = oracles.sample(keys[0], PRIOR, states), jnp.full((states,), t)
    x_t = interpolants.interpolate(Linear(), t_B, jax.random.normal(keys[1], x1.shape), x1)
    exact = oracles.grad_value(PRIOR, Linear(), t_B, x_t, reward.matrix, reward.observed, reward.sigma)
    e = noise.normals(keys[2], x_t, draws=draws, scheme=scheme)
    how = {"draws": draws, "noise": e}
    gf = value.value_and_grad_gf(None, velocity, Linear(), t_B, x_t, reward, **how)[1]
    g = value.value_and_grad_g(None, velocity, t_B, x_t, reward, **how)[1]
    both = value.value_and_grad_hybrid(None, velocity, Linear(), t_B, x_t, reward, **how)[1]
    size = jnp.sqrt((exact**2).sum(1).mean())
    return jnp.stack([jnp.sqrt(((x - exact) ** 2).sum(1).mean()) for x in (gf, g, both)]) / size

  return np.mean([at(jax.random.key(i), t) for i, t in enumerate((0.1, 0.3, 0.5, 0.7, 0.9))], axis=0)


@pytest.mark.slow
@pytest.mark.parametrize(("reward", "bound"), [(QUADRATIC, 0.5), (SHARP, 0.9)], ids=["quadratic", "sharp"])
def test_variance_reduction_at_equal_draws(reward, bound):
  """Bars of the project, here with 256 states; docs/benchmarks.md has 4 x 2048."""
  independent, structured = errors("independent", reward), errors("sobol", reward)
  assert structured[2] < bound * independent[0]
  assert structured[0] < independent[0]
  assert independent[2] < 0.9 * min(independent[:2])


def test_a_draw_that_is_left_out_is_as_if_it_had_not_been_drawn():
  """Rewards and gradients that are NaN, in one draw of some states, by all estimators."""
  t, x_t, e = case(batch=3, draws=5)
  bad = jnp.zeros((3, 5), bool).at[0, 1].set(True).at[2, 4].set(True)
  marked = e.at[..., 0].add(jnp.where(bad, 100.0, 0.0))  # the reward knows them by this
  plain = lambda x, cond: -0.1 * (x**2).sum(1)  # noqa: E731

  def broken(x, cond):
    # A reward and a gradient that are NaN: the root of a negative number.
    return plain(x, cond) + 0.0 * jnp.sqrt(50.0 - x[:, 0])

  def steep(x, cond):
    # A finite reward with a gradient that is not.
    return plain(x, cond) + jnp.sqrt(jnp.maximum(50.0 - x[:, 0], 0.0)) * 0.0

  estimators = {
    "value": lambda e, r, **how: value.estimate_value(None, toy_velocity, t, x_t, r, noise=e, **how),
    "gf": lambda e, r, **how: value.value_and_grad_gf(
      None, toy_velocity, Linear(), t, x_t, r, noise=e, **how
    ),
    "g": lambda e, r, **how: value.value_and_grad_g(None, toy_velocity, t, x_t, r, noise=e, **how),
    "hybrid": lambda e, r, **how: value.value_and_grad_hybrid(
      None, toy_velocity, Linear(), t, x_t, r, noise=e, weight=0.5, **how
    ),
  }
  for name, estimate in estimators.items():
    found = jax.jit(functools.partial(estimate, r=broken, draws=5, chunk=2))(marked)
    cleanly = jax.jit(lambda e, estimate=estimate: estimate(e, plain, draws=e.shape[1]))
    np.testing.assert_array_equal(jax.tree.leaves(found)[3], [1, 0, 1])
    rows = {0: [0, 2, 3, 4], 1: range(5), 2: range(4)}
    for row, kept in rows.items():
      clean = cleanly(e[:, jnp.array(kept)])
      for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(clean), strict=True):
        if a.dtype != jnp.int32:
          np.testing.assert_allclose(a[row], b[row], rtol=1e-4, atol=1e-5, err_msg=name)
  for name in ("g", "hybrid"):
    found = jax.jit(functools.partial(estimators[name], r=steep, draws=5))(marked)
    np.testing.assert_array_equal(jax.tree.leaves(found)[3], [1, 0, 1])


def test_an_impossible_draw_counts_with_weight_0():
  t, x_t, e = case(batch=2, draws=4)
  barred = lambda x, cond: jnp.where(x[:, 0] > jnp.inf, 0.0, -jnp.inf)  # noqa: E731
  estimate, gradient = value.value_and_grad_gf(None, toy_velocity, Linear(), t, x_t, barred, draws=4, noise=e)
  np.testing.assert_array_equal(estimate.invalid, 0)
  np.testing.assert_array_equal(estimate.value, -jnp.inf)
  np.testing.assert_array_equal(gradient, 0.0)


def test_a_scheme_is_its_noise():
  t, x_t, _ = case(draws=8)

  def gf(key, **how):
    how = {"draws": 8, "chunk": 3, **how}
    return value.value_and_grad_gf(key, toy_velocity, Linear(), t, x_t, QUADRATIC, **how)[1]

  for scheme in noise.SCHEMES[1:]:
    (key,) = jax.random.split(jax.random.key(3), 1)
    e = noise.normals(key, x_t, draws=8, scheme=scheme)
    found = gf(jax.random.key(3), scheme=scheme)
    np.testing.assert_allclose(found, gf(None, noise=e), rtol=1e-4, atol=1e-5)


def test_with_a_jackknife_every_group_is_a_net_of_its_own():
  t, x_t, _ = case()
  how = {"draws": 8, "jackknife": 2}
  found = value.value_and_grad_gf(
    jax.random.key(3), toy_velocity, Linear(), t, x_t, QUADRATIC, scheme="antithetic", **how
  )[1]
  parts = [
    noise.normals(key, x_t, draws=4, scheme="antithetic") for key in jax.random.split(jax.random.key(3))
  ]
  e = jnp.concatenate(parts, axis=1)
  expected = value.value_and_grad_gf(None, toy_velocity, Linear(), t, x_t, QUADRATIC, noise=e, **how)[1]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_guidance_on_an_interval():
  calls = []

  def marginal(t, x, cond):
    return -x

  def guide(source, t, x):
    jax.debug.callback(lambda t: calls.append(float(t)), t[0])
    return drifts.Guided(-x, 2.0 * x, {"value": x[:, 0], "invalid": jnp.ones(len(x), jnp.int32)})

  partial = jax.jit(drifts.on_interval(guide, marginal, low=0.3, high=0.6))
  x = jnp.ones((2, 1))
  for t, inside in ((0.2, False), (0.3, True), (0.5, True), (0.7, False)):
    found = partial(None, jnp.full(2, t), x)
    np.testing.assert_array_equal(found.velocity, -x)
    np.testing.assert_array_equal(found.gradient, 2.0 * x if inside else 0.0 * x)
    np.testing.assert_array_equal(found.found["value"], x[:, 0] if inside else jnp.full(2, jnp.nan))
    np.testing.assert_array_equal(found.found["invalid"], int(inside))
  jax.effects_barrier()
  np.testing.assert_allclose(calls, [0.3, 0.5], rtol=1e-6)  # outside the guide is not called


def test_dps_does_not_steer_where_the_reward_is_not_finite():
  reward = lambda x, cond: jnp.where(x[:, 0] > 0.0, jnp.nan, 1.0) * x[:, 0]  # noqa: E731
  guide = drifts.dps(lambda t, x, cond: jnp.zeros_like(x), Linear(), reward)
  found = guide(None, jnp.full(2, 0.5), jnp.array([[1.0], [-1.0]]))
  np.testing.assert_array_equal(found.gradient, [[0.0], [1.0]])
  np.testing.assert_array_equal(found.found["invalid"], [1, 0])


_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding
from mfm_jax.interpolants import Linear
from mfm_jax.steering import value
from mfm_jax.training import sharding

assert jax.device_count() == 4
seen = []
def velocity(s, u, x_s, t, x_t, cond):
  jax.debug.inspect_array_sharding(x_s, callback=seen.append)
  return jnp.tanh(x_s + 2.0 * x_t)
reward = lambda x, cond: -(x**2).sum(1)
t, x_t = jnp.full(2, 0.5), jnp.ones((2, 3))
def run(rows):
  how = {"draws": 8, "chunk": 4, "sharding": rows}
  gf = value.value_and_grad_gf(jax.random.key(0), velocity, Linear(), t, x_t, reward, **how)[1]
  return gf, value.value_and_grad_g(jax.random.key(0), velocity, t, x_t, reward, **how)[1]
alone = jax.jit(lambda: run(None))()
seen.clear()
shared = jax.jit(lambda: run(sharding.of_rows(8)))()
assert seen and all(s.shard_shape((8, 3)) == (2, 3) for s in seen), seen
for a, b in zip(alone, shared):
  np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
assert sharding.of_rows(6) is None
"""


def test_draws_are_split_over_the_devices_of_a_mesh():
  """Two states on four devices: it is the draws that are shared out, and the result is the same."""
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
  environment = run_case.environment(XLA_FLAGS=flags)
  done = subprocess.run(
    [sys.executable, "-c", _DEVICES], env=environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: value.Sampling(draws=0), "draws must be at least 1; got 0"),
    (lambda: value.Sampling(draws=4, jackknife=3), "jackknife must divide draws; got jackknife=3, draws=4"),
    (lambda: value.Sampling(draws=4, scheme="grid"), "scheme must be one of"),
    (lambda: drifts.hybrid(None, Linear(), QUADRATIC, draws=1), "draws must be at least 2; got 1"),
    (
      lambda: drifts.hybrid(None, Linear(), QUADRATIC, draws=2, weight=2.0),
      r"weight must lie in \[0.0, 1.0\]",
    ),
    (
      lambda: drifts.on_interval(None, None, low=0.6, high=0.5),
      "low <= high must hold; got low=0.6, high=0.5",
    ),
    (lambda: drifts.on_interval(None, None, low=-0.1, high=0.5), r"low must lie in \[0.0, 1.0\]; got -0.1"),
    (
      lambda: value.value_and_grad_hybrid(
        jax.random.key(0), toy_velocity, Linear(), jnp.array([0.1, 0.2]), jnp.ones((2, 2)), QUADRATIC, draws=2
      ),
      r"t must be one time for all states where weight is None; got 0.1\d* to 0.2",
    ),
  ],
)
def test_bad_arguments(call, message):
  with pytest.raises(ValueError, match=message):
    call()
