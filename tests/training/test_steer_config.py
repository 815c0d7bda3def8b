"""The configuration of a steering experiment: what it refuses and fills in, the reward that it builds."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.rewards import likelihoods
from mfm_jax.steering import cost
from mfm_jax.training.steer_config import (
  MethodConfig,
  RewardConfig,
  SearchConfig,
  SmcConfig,
  SteerConfig,
)

REWARD = likelihoods.paper_likelihood()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"methods": ("gf",)},
      "method must be one of base, best_of_n, dps, mfm_gf, mfm_g, hybrid, smc, search; got",
    ),
    ({"glass_steps": -1}, "glass_steps must be at least 0; got -1"),
    ({"methods": ()}, "number of methods must be at least 1; got 0"),
    ({"sampler": "heun"}, "sampler must be one of ode, sde; got 'heun'"),
    ({"steps": 0}, "steps must be at least 1; got 0"),
    ({"num": 1}, "num must be at least 2; got 1"),
    ({"seeds": 0}, "seeds must be at least 1; got 0"),
    ({"start": 0.0}, r"start must lie in \(0, 1\); got 0.0"),
    ({"start": 1.0}, r"start must lie in \(0, 1\); got 1.0"),
    ({"power": 0.0}, "power must be positive; got 0.0"),
    ({"teacher": "runs/x"}, "teacher must be one of , oracle; got 'runs/x'"),
    ({"interpolant": "cubic"}, "interpolant must be one of linear, trigonometric"),
    ({"mfm_gf": MethodConfig(draws=1)}, "mfm_gf.draws must be at least 2; got 1"),
    ({"rows": -1}, "rows must be at least 0; got -1"),
    ({"seed": 1 << 20}, "seed must lie in"),
    ({"seed": (1 << 20) - 2, "seeds": 3}, "seed must lie in"),
    ({"dps": MethodConfig(draws=5)}, "dps.draws must be 0: DPS has no posterior draws; got 5"),
    (
      {"mfm_gf": MethodConfig(draws=4, bounded=True)},
      "mfm_gf.bounded must be False: the bound is one of MFM-G",
    ),
    ({"best_of_n": MethodConfig(scales=(1.0, 2.0))}, "best_of_n may have draws and steps alone"),
    ({"best_of_n": MethodConfig(renormalise="clip")}, "best_of_n may have draws and steps alone"),
    ({"interpolant": "trigonometric"}, "must be left alone without teacher=oracle"),
  ],
)
def test_bad_configurations(changes, message):
  with pytest.raises(ValueError, match=message):
    SteerConfig(**changes)


@pytest.mark.parametrize(
  ("kind", "changes", "message"),
  [
    (MethodConfig, {"draws": -1}, "draws must be at least 0; got -1"),
    (MethodConfig, {"jackknife": 0}, "jackknife must be at least 1; got 0"),
    (MethodConfig, {"scales": ()}, "number of scales must be at least 1; got 0"),
    (MethodConfig, {"renormalise": "unit"}, "renormalise must be one of none, rescale, clip; got 'unit'"),
    (MethodConfig, {"limit": 0.0}, "limit must be positive; got 0.0"),
    (RewardConfig, {"name": "beauty"}, "reward.name must be one of likelihood, quadratic, classes"),
    (MethodConfig, {"scheme": "halton"}, "scheme must be one of independent, antithetic, orthogonal, sobol"),
    (MethodConfig, {"weight": 1.5}, r"weight must lie in \[0.0, 1.0\]; got 1.5"),
    (MethodConfig, {"interval": (0.5,)}, r"interval must have shape \(2,\); got \(1,\)"),
    (MethodConfig, {"interval": (0.5, 0.2)}, r"interval\[0\] <= interval\[1\] must hold"),
    (SmcConfig, {"twist": "base"}, "smc.twist must be one of dps, mfm_gf, mfm_g, hybrid; got 'base'"),
    (SmcConfig, {"particles": 0}, "smc.particles must be at least 1; got 0"),
    (SmcConfig, {"threshold": 1.5}, r"smc.threshold must lie in \[0.0, 1.0\]; got 1.5"),
    (SmcConfig, {"guide": MethodConfig(interval=(0.0, 0.8))}, r"smc\.guide\.interval must be \(0.0, 1.0\)"),
    (SmcConfig, {"potential": "mean"}, "smc.potential must be one of difference, max, sum; got 'mean'"),
    (SearchConfig, {"particles": 0}, "search.particles must be at least 1; got 0"),
    (SearchConfig, {"draws": -1}, "search.draws must be at least 0; got -1"),
    (
      SearchConfig,
      {"selection": "best"},
      "search.selection must be one of overall, per_particle; got 'best'",
    ),
    (SearchConfig, {"transition": "ode"}, "search.transition must be one of stochastic, deterministic"),
    (SearchConfig, {"power": 0.0}, "search.power must be positive; got 0.0"),
    (RewardConfig, {"name": "python"}, "reward.function must be given with reward.name=python"),
    (RewardConfig, {"function": "a:b"}, "reward.function must be given with reward.name=python"),
    (RewardConfig, {"observed": (2.0,)}, "reward.matrix and reward.observed must be given together"),
    (RewardConfig, {"matrix": ((1.0, 0.0),)}, "reward.matrix and reward.observed must be given together"),
  ],
)
def test_bad_settings(kind, changes, message):
  with pytest.raises(ValueError, match=message):
    kind(**changes)


def test_a_class_reward_needs_its_classifier():
  with pytest.raises(ValueError, match=r"reward\.classifier must name a trained classifier"):
    RewardConfig(name="classes").build()


def test_draws_are_filled_in_at_the_cost_of_mfm_gf():
  config = SteerConfig(steps=100, mfm_gf=MethodConfig(draws=32))
  budget = cost.cost("mfm_gf", steps=100, draws=32).nfe
  for name in ("best_of_n", "mfm_g", "hybrid", "search"):
    n = config.settings(name).draws
    assert config.cost(name).nfe <= budget < config.cost(name, n + 8).nfe
  assert config.settings("smc").draws == 32  # and one reward more, of the end
  assert config.cost("smc").nfe == budget + 1
  assert config.settings("dps").draws == config.settings("base").draws == 0


@pytest.mark.parametrize(("draws", "groups"), [(32, 8), (7, 7), (31, 1), (6, 6), (2, 2), (20, 5)])
def test_jackknife_groups_divide_the_draws(draws, groups):
  assert MethodConfig(draws=draws, scheme="independent").groups == groups


def test_groups_of_draws_that_are_not_independent_keep_together():
  assert [MethodConfig(draws=n, scheme="sobol").groups for n in (4, 8, 32, 128)] == [1, 2, 8, 8]


def test_a_method_may_have_its_own_number_of_steps():
  config = SteerConfig(steps=10, dps=MethodConfig(steps=80), search=SearchConfig(draws=2, steps=5))
  assert [len(config.times(name)) for name in ("base", "dps", "mfm_gf", "search")] == [11, 81, 11, 6]
  assert [float(config.times(name)[0]) for name in ("dps", "search")] == pytest.approx([1e-3, 0.0])
  assert config.cost("dps").nfe == 4 * 80
  assert config.cost("search").nfe == 2 * 4 * 2 * 5


def test_draws_of_mfm_g_are_filled_in_as_whole_groups():
  config = SteerConfig(steps=100, mfm_gf=MethodConfig(draws=22), mfm_g=MethodConfig(scheme="independent"))
  assert config.settings("mfm_g").draws == 8
  assert config.settings("mfm_g").groups == 8
  assert dataclasses.replace(config, mfm_g=MethodConfig(jackknife=1)).settings("mfm_g").draws == 11


def test_the_weight_of_a_single_reward_multiplies_it():
  config = SteerConfig(reward=RewardConfig(weight=3.0))
  x = jnp.array([[0.3, -0.2]])
  np.testing.assert_allclose(config.build_reward()(x, None), 3.0 * REWARD(x), rtol=1e-6)
  given = RewardConfig(matrix=((1.0, 0.0),), observed=(2.0,), sigma=0.5)
  np.testing.assert_allclose(given.build()(x), -0.5 * ((0.3 - 2.0) / 0.5) ** 2, rtol=1e-5)
