"""The laws of what a loss draws: times, noise, dropped labels, guidance scales."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mfm_jax.interpolants import INTERPOLANTS
from mfm_jax.losses import DrawConfig, draw

N, CLASSES = 20_000, 4
GUIDED = DrawConfig(
  num_classes=CLASSES, guidance_scales=(1.5, 2.5), label_dropout=0.2, guidance_base_rate=0.3
)
NOISES = ("n", "e_r", "e")
UNIFORMS = ("r", "g")


def batch(n=N, shape=(2,)):
  rng = np.random.default_rng(0)
  return {
    "x1": jnp.asarray(rng.normal(size=(n, *shape)), jnp.float32),
    "label": jnp.asarray(rng.integers(CLASSES, size=n)),
  }


def sampled(config=GUIDED, *, seed=0, step=1, n=N):
  return jax.tree.map(np.asarray, draw(jax.random.key(seed), batch(n), step, config))


def assert_share(hits, probability):
  """A binomial share within 4 standard errors."""
  hits = np.asarray(hits)
  assert hits.size > 100
  assert abs(hits.mean() - probability) < 4 * np.sqrt(probability * (1 - probability) / hits.size)


def test_context_time_is_the_square_of_a_uniform_with_an_atom_at_zero():
  t = sampled().t
  assert_share(t == 0, 0.1)
  assert stats.kstest(t[t > 0], lambda x: np.sqrt(np.clip(x, 0, 1))).pvalue > 1e-3
  config = dataclasses.replace(GUIDED, context_power=1.0, context_zero_rate=0.4)
  t = sampled(config).t
  assert_share(t == 0, 0.4)
  assert stats.kstest(t[t > 0], "uniform").pvalue > 1e-3


def test_the_empty_context_is_zero_for_half_and_noise_for_half():
  draws = sampled()
  context = np.asarray(draws.context(INTERPOLANTS["linear"]))
  empty = (context == 0).all(-1)
  assert not empty[draws.t > 0].any()
  assert_share(empty[draws.t == 0], 0.5)
  noise = context[(draws.t == 0) & ~empty]
  assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
  assert (sampled(dataclasses.replace(GUIDED, context_zero_rate=1.0)).t == 0).all()


def test_noises_and_uniforms_have_their_laws_and_share_nothing():
  draws = sampled()
  full = draws.t > 0  # where n is not replaced by 0
  columns = [getattr(draws, name)[full, i] for name in NOISES for i in range(2)]
  for column in columns:
    assert stats.kstest(column, "norm").pvalue > 1e-3
  for name in UNIFORMS:
    assert stats.kstest(getattr(draws, name), "uniform").pvalue > 1e-3
  # s and u are sorted, so s alone stands for them; x1 is the data.
  columns += [getattr(draws, name)[full] for name in ("t", "s", *UNIFORMS)]
  columns += [draws.label[full] == CLASSES, draws.guidance[full], *draws.x1[full].T]
  correlation = np.corrcoef(np.array(columns, np.float64))
  label, guidance = len(columns) - 4, len(columns) - 3
  correlation[[label, guidance], [guidance, label]] = 0  # related by the rule for dropped labels
  off = correlation[~np.eye(len(columns), dtype=bool)]
  assert np.abs(off).max() < 4.5 / np.sqrt(full.sum())  # the largest of about 100


def test_inner_times_are_two_sorted_uniforms():
  draws = sampled()
  assert (draws.s <= draws.u).all()
  assert stats.kstest(draws.s, lambda x: 1 - (1 - np.clip(x, 0, 1)) ** 2).pvalue > 1e-3
  assert stats.kstest(draws.u, lambda x: np.clip(x, 0, 1) ** 2).pvalue > 1e-3


def test_annealing_opens_the_interval_by_the_step():
  config = dataclasses.replace(GUIDED, anneal_start=10, anneal_end=20)
  full = sampled()
  assert (full.u - full.s).mean() > 0.3
  for step, share in ((0, 0.0), (10, 0.0), (15, 0.5), (20, 1.0), (99, 1.0)):
    draws = sampled(config, step=step)
    np.testing.assert_allclose(draws.u - draws.s, share * (full.u - full.s), atol=1e-6)
    np.testing.assert_array_equal(draws.t, full.t)
  traced = jax.jit(lambda step: draw(jax.random.key(0), batch(), step, config))(15)
  np.testing.assert_allclose(traced.u - traced.s, 0.5 * (full.u - full.s), atol=1e-6)
  # Without annealing no step is special, not even 0.
  np.testing.assert_array_equal(sampled(step=0).u, full.u)


def test_labels_are_dropped_at_the_rate_and_otherwise_kept():
  draws, given = sampled(), np.asarray(batch()["label"])
  dropped = draws.label == CLASSES
  assert_share(dropped, 0.2)
  np.testing.assert_array_equal(draws.label[~dropped], given[~dropped])
  for label in range(CLASSES):
    assert_share(dropped[given == label], 0.2)
  assert (sampled(dataclasses.replace(GUIDED, label_dropout=1.0)).label == CLASSES).all()


def test_guidance_scales_follow_their_rates():
  draws = sampled()
  dropped = draws.label == CLASSES
  assert (draws.guidance[dropped] == 1).all()
  kept = draws.guidance[~dropped]
  assert_share(kept == 1, 0.3)
  assert_share(kept == 1.5, 0.35)
  assert_share(kept == 2.5, 0.35)
  never = sampled(dataclasses.replace(GUIDED, guidance_base_rate=0.0))
  assert not (never.guidance[never.label != CLASSES] == 1).any()


def test_guidance_between_two_scales_is_log_uniform():
  config = dataclasses.replace(GUIDED, guidance_scales=(4.0, 2.0), guidance_between=True)
  found = sampled(config)
  guided = found.guidance[found.guidance > 1.0]
  assert_share(found.guidance > 1.0, 0.8 * 0.7)
  assert stats.kstest(np.log2(guided) - 1.0, "uniform").pvalue > 1e-3
  with pytest.raises(ValueError, match=r"guidance_scales must hold two ends .*; got \(2.0,\)"):
    dataclasses.replace(GUIDED, guidance_scales=(2.0,), guidance_between=True)


def test_cond_holds_what_there_is():
  draws = sampled(n=8)
  assert set(draws.cond) == {"label", "guidance"}
  np.testing.assert_array_equal(draws.cond["guidance"], draws.guidance)
  assert set(sampled(DrawConfig(num_classes=CLASSES), n=8).cond) == {"label"}
  assert sampled(DrawConfig(), n=8).cond is None


def test_keys_make_the_draws():
  first, again, other = sampled(n=64), sampled(n=64), sampled(n=64, seed=1)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  for name in (*NOISES, *UNIFORMS, "t", "s", "u", "label", "guidance"):
    assert (getattr(first, name) != getattr(other, name)).any(), name
  images = draw(jax.random.key(0), batch(3, (4, 4, 1)), 1, GUIDED)
  assert images.n.shape == images.e.shape == images.context(INTERPOLANTS["linear"]).shape == (3, 4, 4, 1)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"context_power": 0.0}, "context_power must be at least"),
    ({"context_zero_rate": 1.5}, r"context_zero_rate must lie in \[0.0, 1.0\]; got 1.5"),
    ({"label_dropout": -0.1}, "label_dropout must lie in"),
    ({"guidance_base_rate": 2.0}, "guidance_base_rate must lie in"),
    ({"guidance_scales": (2.5, 0.5)}, "guidance scale must be at least 1.0; got 0.5"),
    ({"label_dropout": 0.0}, "label_dropout must be positive with guidance_scales.*got label_dropout=0.0"),
    ({"anneal_start": -1}, "anneal_start must be at least 0; got -1"),
    ({"anneal_start": 9, "anneal_end": 3}, "anneal_start <= anneal_end must hold; got anneal_start=9"),
  ],
)
def test_bad_laws_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(GUIDED, **changes)


def test_guidance_without_labels_is_refused():
  with pytest.raises(ValueError, match=r"guidance_scales need labelled data; got guidance_scales=\(2.5,\)"):
    draw(jax.random.key(0), batch(8), 1, DrawConfig(guidance_scales=(2.5,)))
