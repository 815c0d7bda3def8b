"""Steering a run and comparing methods on it: what is checked before and after, what is reported."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles, times
from mfm_jax.rewards import callback, likelihoods
from mfm_jax.sampling import posterior
from mfm_jax.steering import cost
from mfm_jax.training import comparison, steered
from mfm_jax.training import subject as subjects
from mfm_jax.training.run import load_run
from mfm_jax.training.steer_config import (
  MethodConfig,
  RewardConfig,
  SearchConfig,
  SmcConfig,
  SteerConfig,
)

SMALL = SteerConfig(
  teacher="oracle",
  steps=6,
  num=10,
  mfm_gf=MethodConfig(draws=4),
  mfm_g=MethodConfig(draws=3, renormalise="clip"),
  hybrid=MethodConfig(draws=3),
  best_of_n=MethodConfig(draws=3),
  smc=SmcConfig(guide=MethodConfig(draws=4), particles=5),
  search=SearchConfig(draws=2, particles=3),
)
REWARD = likelihoods.paper_likelihood()


def method(name, config=SMALL, reward=REWARD, **options):
  options = {"num": config.num, **options}
  return steered.Method(subjects.from_oracle(config), reward, config, name, **options)


@pytest.mark.parametrize("name", cost.METHODS)
def test_every_method_gives_samples_with_their_reward(name):
  outcome = method(name, keep=True)(jax.random.key(0))
  assert outcome.x1.shape == (10, 2)
  np.testing.assert_allclose(outcome.reward, REWARD(outcome.x1), rtol=1e-4, atol=1e-4)
  assert outcome.seconds > 0
  assert outcome.invalid == 0
  if name in ("best_of_n", "smc", "search"):
    assert outcome.path is None
  else:
    assert outcome.path.shape == (7, 10, 2)
    np.testing.assert_array_equal(outcome.path[-1], outcome.x1)
  assert (outcome.populations is None) == (name != "smc")
  if name == "smc":
    assert {leaf.shape for leaf in outcome.populations.values()} == {(2,)}
    assert (outcome.populations["share"] <= 1.0).all()
  if name in ("mfm_gf", "mfm_g", "hybrid", "smc"):
    assert set(outcome.found) - {"weight"} == {"value", "standard_error", "ess", "invalid"}
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


@pytest.mark.parametrize("name", ["mfm_gf", "best_of_n", "smc", "search"])
def test_rows_bound_a_block_and_num_need_not_be_a_multiple(name):
  """10 samples in blocks of 4: the last block is cut, in every array."""
  outcome = method(name, dataclasses.replace(SMALL, rows=4), keep=True)(jax.random.key(0))
  assert outcome.x1.shape == (10, 2)
  assert outcome.reward.shape == (10,)
  assert {leaf.shape[1] for leaf in outcome.found.values()} == {10}
  if name != "smc":  # whose resampling repeats particles
    assert len(np.unique(outcome.x1[:, 0])) == 10


def test_what_is_cut_off_the_last_block_is_not_judged():
  """Blocks of 4 for 10 samples: samples 10 and 11 may be anything."""
  blocks = dataclasses.replace(SMALL, rows=4, methods=("base",))
  whole = method("base", dataclasses.replace(blocks, num=12))(jax.random.key(0)).x1
  last = float(whole[10, 0])
  assert (np.abs(whole[:10, 0] - last) > 1e-3).all()
  reward = lambda x, cond: jnp.where(jnp.abs(x[:, 0] - last) < 1e-4, jnp.nan, 0.0)  # noqa: E731
  method("base", blocks, reward)(jax.random.key(0))
  with pytest.raises(steered.NotFiniteError, match="for sample 10 of base at the end"):
    method("base", dataclasses.replace(blocks, num=12), reward)(jax.random.key(0))


@pytest.mark.parametrize("name", ["best_of_n", "mfm_gf", "mfm_g", "hybrid", "smc", "search"])
def test_no_more_rows_are_evaluated_at_a_time(name):
  """What the compiled program evaluates, posterior draws included; SMC's blocks are whole populations."""
  config, seen = dataclasses.replace(SMALL, rows=6), []

  def reward(x, cond):
    seen.append(len(x))
    return REWARD(x)

  subjects_ = subjects.from_oracle(config)
  steered.Method(subjects_, reward, config, name, num=10)
  assert max(seen) <= 6
  assert max(seen) > 3


def test_more_rows_than_samples_are_chunks_of_draws():
  few = method("mfm_gf", dataclasses.replace(SMALL, rows=10))(jax.random.key(0))
  many = method("mfm_gf", dataclasses.replace(SMALL, rows=40))(jax.random.key(0))
  # The reward is sharp: a path amplifies the rounding of its sums by some 1e4.
  np.testing.assert_allclose(few.x1, many.x1, rtol=1e-2, atol=1e-2)


# ---- what cannot be ----


@pytest.mark.parametrize(
  "reward", [lambda x, cond: x, lambda x, cond: x.sum(), lambda x, cond: jnp.zeros(x.shape[0], jnp.int32)]
)
def test_a_reward_of_another_shape_or_type_is_refused_before_anything_runs(reward):
  with pytest.raises(ValueError, match=r"one real number a sample, shape \(3,\) for 3 samples; got"):
    subjects.check(subjects.from_oracle(SMALL), reward, SMALL)


def test_populations_must_add_up_to_the_samples():
  config = dataclasses.replace(SMALL, num=12)
  with pytest.raises(
    ValueError, match=r"num must be a multiple of smc\.particles; got num=12, smc.particles=5"
  ):
    subjects.check(subjects.from_oracle(config), REWARD, config)


def test_a_reward_of_other_data_is_refused_before_anything_runs():
  with pytest.raises(ValueError, match="x, flattened, must have shape"):
    subjects.check(subjects.from_oracle(SMALL), likelihoods.quadratic(np.zeros(3), 1.0), SMALL)


def as_plain_flow(run):
  loss = dataclasses.replace(run.config.loss, consistency="none")
  return dataclasses.replace(run, config=dataclasses.replace(run.config, loss=loss))


def test_a_plain_flow_has_no_posterior_draws_but_the_other_methods(finished):
  subject = subjects.from_run(as_plain_flow(load_run(finished)))
  message = (
    "methods mfm_gf and mfm_g and hybrid and smc and search need posterior draws: .* marginal-only run"
  )
  with pytest.raises(ValueError, match=message):
    subjects.check(subject, REWARD, SMALL)
  others = dataclasses.replace(
    SMALL, methods=("base", "dps", "best_of_n", "smc"), smc=SmcConfig(twist="dps", particles=2)
  )
  subjects.check(subject, REWARD, others)
  outcome = steered.Method(subject, REWARD, others, "dps", num=4)(jax.random.key(0))
  assert np.isfinite(outcome.x1).all()


def test_a_plain_flow_is_steered_by_glass(finished):
  """The draws of GLASS are those of posterior.draw_glass, their cost two evaluations a step."""
  config = dataclasses.replace(SMALL, glass_steps=3)
  run = load_run(finished)
  subject = subjects.from_run(as_plain_flow(run), glass_steps=3)
  subjects.check(subject, REWARD, config)
  for name in ("mfm_gf", "mfm_g"):
    outcome = steered.Method(subject, REWARD, config, name, num=4)(jax.random.key(0))
    assert np.isfinite(outcome.x1).all()
  e, t, x_t = jax.random.normal(jax.random.key(0), (2, 1, 2)), jnp.array([0.2, 0.7]), jnp.ones((2, 2))
  jump = posterior.map_draws(subject.draws(run.params), e, t, x_t)
  how = {"draws": 1, "times": times.grid(3), "noise": e}
  rollout = posterior.draw_glass(None, run.marginal, run.interpolant, t, x_t, **how)
  np.testing.assert_allclose(jump, rollout, rtol=1e-5, atol=1e-5)
  assert config.cost("mfm_gf").forwards == 6 + 6 * 4 * 6
  with pytest.raises(ValueError, match=r"glass_steps must be 0 for a map, .*; got 3"):
    subjects.check(subjects.from_run(run), REWARD, config)


def test_a_python_function_is_a_reward_for_methods_without_gradient():
  reward = RewardConfig(name="python", function="steer_case:black_box").build()
  config = dataclasses.replace(SMALL, methods=("best_of_n", "mfm_gf", "smc", "search"))
  subjects.check(subjects.from_oracle(config), reward, config)
  steep = dataclasses.replace(
    SMALL, methods=("mfm_gf", "mfm_g", "dps", "smc"), smc=SmcConfig(twist="hybrid", particles=2)
  )
  with pytest.raises(
    ValueError, match="methods mfm_g and dps and smc differentiate the reward; got one without"
  ):
    subjects.check(subjects.from_oracle(config), reward, steep)
  shapes = callback.callback(lambda x: x, name="identity")
  with pytest.raises(ValueError, match="reward 'identity' must return shape"):
    subjects.check(subjects.from_oracle(config), shapes, config)


def test_guidance_on_an_interval_costs_less_and_is_counted():
  some = dataclasses.replace(SMALL, steps=20, power=1.0, mfm_gf=MethodConfig(draws=4, interval=(0.4, 0.8)))
  starts = np.asarray(some.times("mfm_gf"))[:-1]
  inside = ((starts >= 0.4) & (starts <= 0.8)).sum()
  assert some.cost("mfm_gf").nfe == 20 + 2 * 4 * inside
  outcome = method("mfm_gf", some)(jax.random.key(0))
  assert np.isfinite(outcome.found["ess"]).all(1).sum() == inside


def test_best_of_fewer_candidates_comes_from_the_same_stream():
  run = method("best_of_n", milestones=(1, 2))(jax.random.key(0))
  assert set(run.milestones) == {1, 2}
  rewards = [run.milestones[1][1], run.milestones[2][1], run.reward]
  assert (np.diff(np.stack(rewards), axis=0) >= 0).all()
  assert run.milestones[1][0].shape == run.x1.shape


@pytest.mark.parametrize("name", ["dps", "mfm_gf", "mfm_g", "hybrid", "best_of_n", "smc", "search"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_many_rewards_that_are_not_finite_stop_with_sample_and_step(name, bad):
  # Bad from t = .3 or so on, in the half plane that some samples reach.
  reward = lambda x, cond: jnp.where(x[:, 0] > 1.0, bad, 0.0) * jnp.ones(x.shape[0])  # noqa: E731
  run = method(name, reward=reward)
  where = "candidate" if name == "best_of_n" else "step"
  message = (
    rf"at most 1% of the rewards may be NaN or infinite; got \d+ of \d+, the first for sample \d of {name} "
    rf"at {where} \d"
  )
  with pytest.raises(ValueError, match=message):
    run(jax.random.key(0))


def test_a_few_rewards_that_are_not_finite_are_left_out_and_counted(capsys):
  config = dataclasses.replace(SMALL, num=400, steps=10)
  rare = lambda x, cond: jnp.where(jnp.abs(x[:, 1] - 2.0) < 0.005, jnp.nan, REWARD(x))  # noqa: E731
  for name in ("mfm_gf", "mfm_g"):
    outcome = method(name, config, rare)(jax.random.key(0))
    assert 0 < outcome.invalid < 0.01 * 400 * 10 * 4
    assert np.isfinite(outcome.x1).all()
    assert np.isfinite(outcome.mean_reward)
    assert f"are left out: {outcome.found['invalid'].sum()} of " in capsys.readouterr().out


def test_rewards_that_are_bad_at_the_end_alone_name_the_sample():
  reward = lambda x, cond: jnp.where(x[:, 0] > -jnp.inf, jnp.nan, 0.0)  # noqa: E731
  with pytest.raises(ValueError, match="got 10 of 10, the first for sample 0 of base at the end"):
    method("base", reward=reward)(jax.random.key(0))


def test_a_path_that_explodes_names_the_sample():
  with pytest.raises(ValueError, match=r"must be finite; .* for sample \d of dps"):
    method("dps")(jax.random.key(0), 1e30)


# ---- a comparison ----


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
  subject, reward = subjects.from_oracle(config), config.build_reward()
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
  exact = oracles.tilt(oracles.paper_mixture(), REWARD.matrix, REWARD.observed, REWARD.sigma)[1]
  assert floor["log_z"] == pytest.approx(float(exact), rel=1e-6)
  assert comparison.floor(comparison.Assessor(), config) is None


def test_scales_that_all_diverge_are_an_error():
  config = dataclasses.replace(SMALL, methods=("dps",), dps=MethodConfig(scales=(1e30, 1e35)))
  subject, reward = subjects.from_oracle(config), config.build_reward()
  with pytest.raises(ValueError, match=r"must be finite; .* for sample \d of dps"):
    pairs(subject, reward, config, comparison.Assessor())


def test_figures_of_one_seed_have_no_error():
  config = dataclasses.replace(SMALL, methods=("base",), num=8)
  subject, reward = subjects.from_oracle(config), config.build_reward()
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
  subject, reward = subjects.from_oracle(config), config.build_reward()
  x = jnp.array([[0.3, -0.2], [2.0, 2.0]])
  np.testing.assert_allclose(
    reward(x, None), REWARD(x) + 0.5 * likelihoods.quadratic(np.full(2, 2.0), 2.0)(x), rtol=1e-5
  )
  assess = comparison.assessor(subject, config, reward)
  assert assess.objective == "reward"
  rows, _ = pairs(subject, reward, config, assess)
  assert rows[0]["scale"] == 0.1


def test_the_weight_of_a_likelihood_keeps_its_closed_form():
  config = dataclasses.replace(SMALL, reward=RewardConfig(weight=4.0))
  assess = comparison.assessor(subjects.from_oracle(config), config, config.build_reward())
  expected = oracles.tilt(oracles.paper_mixture(), REWARD.matrix, REWARD.observed, REWARD.sigma / 2)[0]
  np.testing.assert_allclose(assess.tilt.means, expected.means, rtol=1e-6)


def test_under_a_label_the_law_is_not_the_mixture(finished):
  run = load_run(finished)
  guided = dataclasses.replace(run.config.draws, guidance_scales=(2.0,))
  labelled = dataclasses.replace(
    run,
    info=dataclasses.replace(run.info, num_classes=3),
    config=dataclasses.replace(run.config, draws=guided),
  )
  assert subjects.from_run(labelled).mixture is not None
  assert subjects.from_run(labelled, label=3).mixture is not None  # the null label
  assert subjects.from_run(labelled, label=1).mixture is None
  assert subjects.from_run(labelled, label=1, guidance=2.0).mixture is None
  assert subjects.from_run(dataclasses.replace(labelled, finetuned=True)).mixture is None


def test_the_tilt_of_a_run_is_that_of_its_own_mixture(finished):
  subject = subjects.from_run(load_run(finished))
  assess = comparison.assessor(subject, SMALL, REWARD)
  expected = oracles.tilt(oracles.paper_mixture(), REWARD.matrix, REWARD.observed, REWARD.sigma)[0]
  np.testing.assert_allclose(assess.tilt.means, expected.means, rtol=1e-6)


def test_the_drift_in_closed_form_around_draws_of_a_map(finished):
  run = load_run(finished)
  subject = subjects.from_run(run, oracle_drift=True)
  t, x = jnp.array([0.2, 0.7]), jnp.array([[0.3, -1.0], [1.0, 2.0]])
  exact = oracles.velocity(oracles.paper_mixture(), run.interpolant, t, x)
  np.testing.assert_allclose(subject.marginal(run.params)(t, x, None), exact, rtol=1e-5)
  own = subjects.from_run(run).draws(run.params)(0 * t, 0 * t + 1, x, t, x, None)
  np.testing.assert_allclose(subject.draws(run.params)(0 * t, 0 * t + 1, x, t, x, None), own, rtol=1e-6)
  tuned = dataclasses.replace(run, finetuned=True)
  with pytest.raises(ValueError, match="oracle_drift needs a run of a mixture, without label; got"):
    subjects.from_run(tuned, oracle_drift=True)


def test_labels_and_scales_that_a_run_does_not_have(finished):
  run = load_run(finished)
  with pytest.raises(ValueError, match="label must be absent for a run without labels; got"):
    subjects.from_run(run, label=1)
  with pytest.raises(ValueError, match="guidance must be a scale the run was trained with"):
    subjects.from_run(run, guidance=2.0)
