"""Steering a run and comparing methods on it: what is checked before and after, what is reported."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles
from mfm_jax.rewards import likelihoods
from mfm_jax.steering import cost
from mfm_jax.training import comparison, steered
from mfm_jax.training.run import load_run
from mfm_jax.training.steer_config import MethodConfig, RewardConfig, SteerConfig

SMALL = SteerConfig(
  teacher="oracle",
  steps=6,
  num=10,
  mfm_gf=MethodConfig(draws=4),
  mfm_g=MethodConfig(draws=3, renormalise="clip"),
  best_of_n=MethodConfig(draws=3),
)
REWARD = likelihoods.paper_likelihood()


def method(name, config=SMALL, reward=REWARD, **options):
  options = {"num": config.num, **options}
  return steered.Method(steered.from_oracle(config), reward, config, name, **options)


# ---- one method ----


@pytest.mark.parametrize("name", cost.METHODS)
def test_every_method_gives_samples_with_their_reward(name):
  outcome = method(name, keep=True)(jax.random.key(0))
  assert outcome.x1.shape == (10, 2)
  np.testing.assert_allclose(outcome.reward, REWARD(outcome.x1), rtol=1e-4, atol=1e-4)
  assert outcome.seconds > 0
  if name == "best_of_n":
    assert outcome.path is None
  else:
    assert outcome.path.shape == (7, 10, 2)
    np.testing.assert_array_equal(outcome.path[-1], outcome.x1)
  if name in steered.BY_DRAWS:
    assert set(outcome.found) == {"value", "standard_error", "ess", "invalid"}
    assert outcome.found["ess"].shape == (6, 10)


def test_all_methods_start_from_the_same_noise():
  starts = [method(name, keep=True)(jax.random.key(3)).path[0] for name in ("base", "dps", "mfm_gf")]
  np.testing.assert_array_equal(starts[0], starts[1])
  np.testing.assert_array_equal(starts[0], starts[2])


def test_the_key_and_the_scale_decide():
  run = method("dps")
  first = run(jax.random.key(0), 1.0)
  np.testing.assert_array_equal(first.x1, run(jax.random.key(0), 1.0).x1)
  assert (first.x1 != run(jax.random.key(1), 1.0).x1).any()
  assert (first.x1 != run(jax.random.key(0), 0.5).x1).any()
  np.testing.assert_allclose(
    run(jax.random.key(0), 0.0).x1, method("base")(jax.random.key(0)).x1, rtol=1e-3, atol=1e-3
  )


@pytest.mark.parametrize("name", ["mfm_gf", "best_of_n"])
def test_rows_bound_a_block_and_num_need_not_be_a_multiple(name):
  """10 samples in blocks of 4: the last block is cut, in every array."""
  outcome = method(name, dataclasses.replace(SMALL, rows=4), keep=True)(jax.random.key(0))
  assert outcome.x1.shape == (10, 2)
  assert outcome.reward.shape == (10,)
  assert {leaf.shape[1] for leaf in outcome.found.values()} == {10}
  assert len(np.unique(outcome.x1[:, 0])) == 10


def test_what_is_cut_off_the_last_block_is_not_judged():
  """Blocks of 4 for 10 samples: samples 10 and 11 may be anything."""
  whole = method("base", dataclasses.replace(SMALL, rows=4, num=12))(jax.random.key(0)).x1
  last = float(whole[10, 0])
  assert (np.abs(whole[:10, 0] - last) > 1e-3).all()
  reward = lambda x, cond: jnp.where(jnp.abs(x[:, 0] - last) < 1e-4, jnp.nan, 0.0)  # noqa: E731
  method("base", dataclasses.replace(SMALL, rows=4), reward)(jax.random.key(0))
  with pytest.raises(steered.NotFiniteError, match="for sample 10 of base"):
    method("base", dataclasses.replace(SMALL, rows=4, num=12), reward)(jax.random.key(0))


def test_more_rows_than_samples_are_chunks_of_draws():
  few = method("mfm_gf", dataclasses.replace(SMALL, rows=10))(jax.random.key(0))
  many = method("mfm_gf", dataclasses.replace(SMALL, rows=40))(jax.random.key(0))
  np.testing.assert_allclose(few.x1, many.x1, rtol=1e-3, atol=1e-3)


# ---- what cannot be ----


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"methods": ("smc",)}, "method must be one of base, best_of_n, dps, mfm_gf, mfm_g; got 'smc'"),
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
      {"best_of_n": MethodConfig(scales=(1.0, 2.0))},
      "best_of_n.scales and best_of_n.renormalise must be left",
    ),
    (
      {"best_of_n": MethodConfig(renormalise="clip")},
      "best_of_n.scales and best_of_n.renormalise must be left",
    ),
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
    (RewardConfig, {"name": "clip"}, "reward.name must be one of likelihood, quadratic, classes"),
    (RewardConfig, {"name": "classes"}, "reward.classifier must name a trained classifier"),
    (RewardConfig, {"observed": (2.0,)}, "reward.matrix and reward.observed must be given together"),
    (RewardConfig, {"matrix": ((1.0, 0.0),)}, "reward.matrix and reward.observed must be given together"),
  ],
)
def test_bad_settings(kind, changes, message):
  with pytest.raises(ValueError, match=message):
    kind(**changes)


@pytest.mark.parametrize(
  "reward", [lambda x, cond: x, lambda x, cond: x.sum(), lambda x, cond: jnp.zeros(x.shape[0], jnp.int32)]
)
def test_a_reward_of_another_shape_or_type_is_refused_before_anything_runs(reward):
  with pytest.raises(ValueError, match=r"one real number a sample, shape \(3,\) for 3 samples; got"):
    steered.check(steered.from_oracle(SMALL), reward, ("base",))


def test_a_reward_of_other_data_is_refused_before_anything_runs():
  with pytest.raises(ValueError, match="x, flattened, must have shape"):
    steered.check(steered.from_oracle(SMALL), likelihoods.quadratic(np.zeros(3), 1.0), ("base",))


def test_a_plain_flow_has_no_posterior_draws_but_the_other_methods(finished):
  run = load_run(finished)
  loss = dataclasses.replace(run.config.loss, consistency="none")
  subject = steered.from_run(dataclasses.replace(run, config=dataclasses.replace(run.config, loss=loss)))
  message = "methods mfm_gf and mfm_g need a run trained as a map .* got the marginal-only run"
  with pytest.raises(ValueError, match=message):
    steered.check(subject, REWARD, cost.METHODS)
  steered.check(subject, REWARD, ("base", "dps", "best_of_n"))
  outcome = steered.Method(subject, REWARD, SMALL, "dps", num=4)(jax.random.key(0))
  assert np.isfinite(outcome.x1).all()


@pytest.mark.parametrize("name", ["dps", "mfm_gf", "mfm_g", "best_of_n"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_stops_with_sample_and_step(name, bad):
  # Bad from t = .3 or so on, in the half plane that some samples reach.
  reward = lambda x, cond: jnp.where(x[:, 0] > 1.0, bad, 0.0) * jnp.ones(x.shape[0])  # noqa: E731
  run = method(name, reward=reward)
  where = "candidate" if name == "best_of_n" else "step"
  message = (
    rf"a reward must be finite; got \d+ that are NaN or infinite for sample \d of {name} at {where} \d"
  )
  with pytest.raises(ValueError, match=message):
    run(jax.random.key(0))


def test_a_reward_that_is_bad_at_the_end_alone_names_the_sample():
  reward = lambda x, cond: jnp.where(x[:, 0] > -jnp.inf, jnp.nan, 0.0)  # noqa: E731
  with pytest.raises(ValueError, match=r"a reward must be finite; got \[nan\] for sample 0 of base"):
    method("base", reward=reward)(jax.random.key(0))


def test_a_path_that_explodes_names_the_sample():
  with pytest.raises(ValueError, match=r"must be finite; .* for sample \d of dps"):
    method("dps")(jax.random.key(0), 1e30)


# ---- a comparison ----


def test_draws_are_filled_in_at_the_cost_of_mfm_gf():
  config = SteerConfig(steps=100, mfm_gf=MethodConfig(draws=32))
  budget = cost.cost("mfm_gf", steps=100, draws=32).nfe
  for name in ("best_of_n", "mfm_g"):
    n = config.settings(name).draws
    assert cost.cost(name, steps=100, draws=n).nfe <= budget < cost.cost(name, steps=100, draws=n + 1).nfe
  assert config.settings("dps").draws == config.settings("base").draws == 0


@pytest.mark.parametrize(("draws", "groups"), [(32, 8), (7, 7), (31, 1), (6, 6), (2, 2), (20, 5)])
def test_jackknife_groups_divide_the_draws(draws, groups):
  assert MethodConfig(draws=draws).groups == groups


def pairs(*arguments):
  """Rows, and outcomes by method."""
  rows, outcomes = zip(*comparison.compare(*arguments), strict=True)
  return list(rows), {row["method"]: outcome for row, outcome in zip(rows, outcomes, strict=True)}


@pytest.fixture(scope="module")
def compared():
  config = dataclasses.replace(
    SMALL,
    num=64,
    seeds=2,
    steps=20,
    methods=("base", "best_of_n", "dps", "mfm_gf"),
    dps=MethodConfig(scales=(0.0, 0.2, 1e30), renormalise="clip"),
  )
  subject, reward = steered.from_oracle(config), config.build_reward()
  assess = comparison.assessor(subject, config, reward)
  return config, assess, *pairs(subject, reward, config, assess)


def test_a_row_a_method_with_means_errors_and_cost(compared):
  config, assess, rows, outcomes = compared
  assert [row["method"] for row in rows] == list(config.methods) == list(outcomes)
  assert assess.objective == "sw2"
  for row in rows:
    spent = cost.cost(row["method"], steps=20, draws=row["draws"])
    names = ("nfe", "forwards", "backwards", "decodes", "reward_calls")
    assert {name: row[name] for name in names} == {name: getattr(spent, name) for name in names}
    for name in ("reward", "sw2", "mmd2", "diversity", "distance_to_base"):
      assert np.isfinite(row[name])
      assert row[f"{name}_se"] >= 0
  by_name = {row["method"]: row for row in rows}
  assert 1 <= by_name["mfm_gf"]["ess"] <= 4
  assert by_name["dps"]["ess"] is None
  assert by_name["mfm_gf"]["sw2"] < by_name["base"]["sw2"]
  assert by_name["mfm_gf"]["reward"] > by_name["base"]["reward"]
  assert abs(by_name["base"]["distance_to_base"]) < by_name["mfm_gf"]["distance_to_base"]


def test_the_scale_is_the_best_of_the_grid_and_one_that_diverges_is_not(compared):
  _, _, rows, _ = compared
  assert next(row["scale"] for row in rows if row["method"] == "dps") == 0.2
  assert next(row["scale"] for row in rows if row["method"] == "mfm_gf") == 1.0


def test_the_floor_is_that_of_exact_samples(compared):
  config, assess, rows, _ = compared
  floor = comparison.floor(assess, config)
  assert 0 < floor["sw2"] < min(row["sw2"] for row in rows)
  assert assess.tilt is not None
  assert comparison.floor(comparison.Assessor(), config) is None


def test_scales_that_all_diverge_are_an_error():
  config = dataclasses.replace(SMALL, methods=("dps",), dps=MethodConfig(scales=(1e30, 1e35)))
  subject, reward = steered.from_oracle(config), config.build_reward()
  with pytest.raises(ValueError, match=r"must be finite; .* for sample \d of dps"):
    pairs(subject, reward, config, comparison.Assessor())


def test_figures_of_one_seed_have_no_error():
  config = dataclasses.replace(SMALL, methods=("base",), num=8)
  subject, reward = steered.from_oracle(config), config.build_reward()
  rows, _ = pairs(subject, reward, config, comparison.assessor(subject, config, reward))
  assert rows[0]["sw2_se"] is None


def test_a_composed_reward_has_no_closed_form_and_is_judged_by_itself():
  """Its objective is the reward, of which more is better."""
  config = dataclasses.replace(
    SMALL,
    num=32,
    more_rewards=(RewardConfig(name="quadratic", centre=(2.0, 2.0), sigma=2.0, weight=0.5),),
    methods=("dps",),
    dps=MethodConfig(scales=(0.0, 0.1), renormalise="clip"),
  )
  subject, reward = steered.from_oracle(config), config.build_reward()
  x = jnp.array([[0.3, -0.2], [2.0, 2.0]])
  np.testing.assert_allclose(
    reward(x, None), REWARD(x) + 0.5 * likelihoods.quadratic(np.full(2, 2.0), 2.0)(x), rtol=1e-5
  )
  assess = comparison.assessor(subject, config, reward)
  assert assess.objective == "reward"
  rows, _ = pairs(subject, reward, config, assess)
  assert rows[0]["scale"] == 0.1


def test_the_weight_of_a_single_reward_multiplies_it():
  config = SteerConfig(reward=RewardConfig(weight=3.0))
  x = jnp.array([[0.3, -0.2]])
  np.testing.assert_allclose(config.build_reward()(x, None), 3.0 * REWARD(x), rtol=1e-6)
  given = RewardConfig(matrix=((1.0, 0.0),), observed=(2.0,), sigma=0.5)
  np.testing.assert_allclose(given.build()(x), -0.5 * ((0.3 - 2.0) / 0.5) ** 2, rtol=1e-5)


def test_the_weight_of_a_likelihood_keeps_its_closed_form():
  config = dataclasses.replace(SMALL, reward=RewardConfig(weight=4.0))
  assess = comparison.assessor(steered.from_oracle(config), config, config.build_reward())
  expected = oracles.tilt(oracles.paper_mixture(), REWARD.matrix, REWARD.observed, REWARD.sigma / 2)[0]
  np.testing.assert_allclose(assess.tilt.means, expected.means, rtol=1e-6)


def test_draws_of_mfm_g_are_filled_in_as_whole_groups():
  config = SteerConfig(steps=100, mfm_gf=MethodConfig(draws=22))
  assert config.settings("mfm_g").draws == 8
  assert config.settings("mfm_g").groups == 8
  assert dataclasses.replace(config, mfm_g=MethodConfig(jackknife=1)).settings("mfm_g").draws == 11


def test_under_a_label_the_law_is_not_the_mixture(finished):
  run = load_run(finished)
  guided = dataclasses.replace(run.config.draws, guidance_scales=(2.0,))
  labelled = dataclasses.replace(
    run,
    info=dataclasses.replace(run.info, num_classes=3),
    config=dataclasses.replace(run.config, draws=guided),
  )
  assert steered.from_run(labelled).mixture is not None
  assert steered.from_run(labelled, label=3).mixture is not None  # the null label
  assert steered.from_run(labelled, label=1).mixture is None
  assert steered.from_run(labelled, guidance=2.0).mixture is None


def test_the_tilt_of_a_run_is_that_of_its_own_mixture(finished):
  subject = steered.from_run(load_run(finished))
  assess = comparison.assessor(subject, SMALL, REWARD)
  expected = oracles.tilt(oracles.paper_mixture(), REWARD.matrix, REWARD.observed, REWARD.sigma)[0]
  np.testing.assert_allclose(assess.tilt.means, expected.means, rtol=1e-6)


def test_labels_and_scales_that_a_run_does_not_have(finished):
  run = load_run(finished)
  with pytest.raises(ValueError, match="label must be absent for a run without labels; got"):
    steered.from_run(run, label=1)
  with pytest.raises(ValueError, match="guidance must be a scale the run was trained with"):
    steered.from_run(run, guidance=2.0)
