"""Laws of the training times and the samplers' grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mfm_jax import times

N = 20_000


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_context_times_are_a_power_of_a_uniform_with_an_atom_at_zero(power):
  t = np.asarray(times.context_times(jax.random.key(0), (N,), power=power, zero_rate=0.1))
  zeros = (t == 0.0).sum()
  assert abs(zeros - 0.1 * N) < 4 * np.sqrt(N * 0.1 * 0.9)  # 4 standard errors of a binomial
  assert t.min() >= 0.0
  assert t.max() < 1.0
  result = stats.kstest(t[t > 0], lambda x: np.clip(x, 0, 1) ** (1 / power))
  assert result.pvalue > 1e-3


def test_context_times_default_is_the_square_with_a_tenth_of_zeros():
  np.testing.assert_array_equal(
    times.context_times(jax.random.key(1), (100,)),
    times.context_times(jax.random.key(1), (100,), power=2.0, zero_rate=0.1),
  )
  assert not times.context_times(jax.random.key(1), (100,), zero_rate=1.0).any()
  assert times.context_times(jax.random.key(1), (5, 3)).shape == (5, 3)


def test_the_atom_is_independent_of_the_uniform():
  full = times.context_times(jax.random.key(2), (N,), zero_rate=0.0)
  kept = times.context_times(jax.random.key(2), (N,), zero_rate=0.3) > 0
  assert stats.ks_2samp(np.asarray(full[kept]), np.asarray(full[~kept])).pvalue > 1e-3


def test_inner_times_are_two_sorted_uniforms():
  s, u = (np.asarray(value) for value in times.inner_times(jax.random.key(3), (N,)))
  assert (s <= u).all()
  assert s.min() >= 0.0
  assert u.max() <= 1.0
  # Order statistics of two uniforms: P(min <= x) = 1 - (1-x)^2, P(max <= x) = x^2, E[min max] = 1/4.
  assert stats.kstest(s, lambda x: 1 - (1 - np.clip(x, 0, 1)) ** 2).pvalue > 1e-3
  assert stats.kstest(u, lambda x: np.clip(x, 0, 1) ** 2).pvalue > 1e-3
  product = s * u
  assert abs(product.mean() - 0.25) < 4 * product.std() / np.sqrt(N)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_annealing_scales_the_distance_about_the_middle(progress):
  s, u = times.inner_times(jax.random.key(4), (N,))
  s_annealed, u_annealed = times.inner_times(jax.random.key(4), (N,), progress=jnp.float32(progress))
  np.testing.assert_allclose(u_annealed - s_annealed, progress * (u - s), atol=2e-7)
  np.testing.assert_allclose(u_annealed + s_annealed, u + s, atol=2e-7)
  assert (s_annealed <= u_annealed).all()
  assert s_annealed.min() >= 0.0
  assert u_annealed.max() <= 1.0
  if progress == 0.0:
    np.testing.assert_array_equal(s_annealed, u_annealed)


def test_anneal_progress_is_a_clipped_ramp():
  steps = np.array([0, 100, 150, 200, 300])
  np.testing.assert_allclose(times.anneal_progress(steps, 100, 200), [0, 0, 0.5, 1, 1])
  np.testing.assert_allclose(times.anneal_progress(np.array([4, 5, 6]), 5, 5), [0, 0, 1])
  assert jax.jit(lambda step: times.anneal_progress(step, 0, 10))(5) == 0.5


@pytest.mark.parametrize("power", [1.0, 2.5])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1e-3, 1.0), (0.1, 0.7)])
def test_grid(start, end, power):
  t = times.grid(13, start=start, end=end, power=power)
  assert t.shape == (14,)
  assert t[0] == jnp.float32(start)
  assert t[-1] == jnp.float32(end)
  assert (jnp.diff(t) > 0).all()
  expected = start + (end - start) * (np.arange(14) / 13) ** power
  np.testing.assert_allclose(t, expected, atol=1e-6)


def test_grids_never_leave_the_unit_interval():
  for start in np.random.default_rng(0).uniform(0, 0.99, 200):
    t = times.grid(7, start=float(start))
    assert t[-1] == 1.0
    assert t.max() <= 1.0


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: times.grid(0), "steps must be at least 1; got 0"),
    (lambda: times.grid(4, start=-0.1), r"start must lie in \[0.0, 1.0\]; got -0.1"),
    (lambda: times.grid(4, end=1.5), r"end must lie in \[0.0, 1.0\]; got 1.5"),
    (lambda: times.grid(4, start=0.5, end=0.5), "start < end must hold; got start=0.5, end=0.5"),
    (lambda: times.grid(4, power=0.0), "power must be positive; got 0.0"),
    (
      lambda: times.context_times(jax.random.key(0), (2,), power=-1.0),
      "power must be positive; got -1.0",
    ),
    (
      lambda: times.context_times(jax.random.key(0), (2,), zero_rate=1.5),
      r"zero_rate must lie in \[0.0, 1.0\]; got 1.5",
    ),
    (
      lambda: times.inner_times(jax.random.key(0), (2,), progress=2.0),
      r"progress must lie in \[0.0, 1.0\]; got 2.0",
    ),
  ],
)
def test_errors_state_rule_name_and_value(call, message):
  with pytest.raises(ValueError, match=message):
    call()
