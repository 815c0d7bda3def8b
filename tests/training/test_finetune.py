"""Fine-tuning a run: it learns, resumes exactly, leaves a run of its own, and refuses what it cannot do."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_case

from experiments.configs import finetune_gmm
from mfm_jax.finetuning.draws import draw
from mfm_jax.training import generate, hoisted, loop, run, sharding, step
from mfm_jax.training.config import differences, from_dict, to_dict
from mfm_jax.training.finetune import example, finetune, make_loss, on_samples, start
from mfm_jax.training.finetune_config import FinetuneConfig
from mfm_jax.training.run import load_run


def smoke(base, changes=None) -> FinetuneConfig:
  """finetune_gmm.py:smoke of this base with `changes`, whose keys are dotted."""
  config = finetune_gmm.get_config("smoke").to_dict()
  own = {"base": str(base), "eval_every": 0, "optimizer.schedule": "constant", "ema": (0.5, 0.999)}
  for path, value in {**own, **(changes or {})}.items():
    *groups, name = path.split(".")
    group = config
    for key in groups:
      group = group[key]
    group[name] = value
  return from_dict(FinetuneConfig, config)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
  """A map of labelled data, trained at guidance scales 1 and 2."""
  folder = tmp_path_factory.mktemp("labelled") / "run"
  loop.train(run_case.smoke({"data.labelled": True, "draws.guidance_scales": (2.0,)}), folder)
  return folder


@pytest.fixture(scope="module")
def tuned(finished, tmp_path_factory):
  """A finished fine-tuning of `finished`."""
  folder = tmp_path_factory.mktemp("tuned") / "run"
  finetune(smoke(finished), folder)
  return folder


def test_the_folder_is_a_marginal_only_run_that_needs_no_base(tuned, finished, tmp_path):
  folder = tmp_path / "moved"
  shutil.copytree(tuned, folder)
  stored = (folder / "config.json").read_text()
  (folder / "config.json").write_text(stored.replace(str(finished), "/nowhere"))
  loaded, base = load_run(folder), load_run(finished)
  assert (loaded.step, loaded.ema, loaded.finetuned, loaded.config.is_map) == (20, "0.999", True, False)
  assert (base.finetuned, base.config.is_map) == (False, True)
  assert (loaded.info, loaded.config.model, loaded.config.data) == (
    base.info,
    base.config.model,
    base.config.data,
  )
  key = jax.random.key(0)
  for sampler in ("", "ode", "sde"):
    assert np.isfinite(generate.marginal_samples(loaded, key, num=3, sampler=sampler, steps=4)).all()
  t, x_t = jnp.array([0.3, 0.6]), jnp.ones((2, 2))
  assert generate.posterior_samples(loaded, key, t, x_t, num=3, steps=4).shape == (2, 3, 2)
  for call in (
    lambda: generate.marginal_samples(loaded, key, num=3, sampler="map"),
    lambda: generate.posterior_samples(loaded, key, t, x_t, num=3, sampler="map"),
  ):
    with pytest.raises(ValueError, match=r"one-step posterior draws need .* got the marginal-only run"):
      call()


def test_it_starts_at_its_base(finished, tmp_path):
  summary = finetune(smoke(finished, {"optimizer.learning_rate": 0.0, "steps": 1}), tmp_path / "run")
  base = load_run(finished)
  assert summary["params_sha256"] == base.sha256
  assert summary["eval/kl"] < 1e-9  # rounding: v_ft and v_base are compiled apart
  t, x = jnp.linspace(0.0, 1.0, 5), jnp.ones((5, 2))
  np.testing.assert_array_equal(
    load_run(tmp_path / "run", ema="raw").marginal(t, x, None), base.marginal(t, x, None)
  )


def test_the_reward_rises(finished, tmp_path):
  longer = {"steps": 150, "batch_size": 128, "eval_num": 512, "ema": (0.9,), "optimizer.learning_rate": 3e-3}
  config = smoke(finished, {**longer, "log_every": 50, "checkpoint_every": 150})
  summary = finetune(config, tmp_path / "run")
  assert summary["eval/reward"] > summary["base/reward"] + 0.5
  assert summary["eval/sw2"] < summary["base/sw2"]
  assert summary["eval/kl"] > 0.1
  assert summary["eval/distance_to_base"] > 10 * abs(summary["base/distance_to_base"])


def test_other_rewards_judge_beside_it(finished, tmp_path):
  reward = smoke(finished).reward
  judges = (reward, dataclasses.replace(reward, name="quadratic", sigma=2.0))
  config = dataclasses.replace(smoke(finished, {"steps": 1, "multiplier": 3.0}), judges=judges)
  summary = finetune(config, tmp_path / "run")
  for of in ("eval", "base"):
    np.testing.assert_allclose(summary[f"{of}/judge_{reward.name}"], summary[f"{of}/reward"], rtol=1e-5)
    assert np.isfinite(summary[f"{of}/judge_quadratic"])


def test_summary_and_metrics(tuned):
  summary = json.loads((tuned / "summary.json").read_text())
  assert summary["params_sha256"] == load_run(tuned, ema="raw").sha256
  figures = {"reward", "sw2", "mmd2", "diversity", "distance_to_base"}
  expected = {f"eval/{name}" for name in figures | {"kl"}} | {f"base/{name}" for name in figures}
  assert set(summary) == expected | {"params_sha256", "steps", "seconds", "seconds_compile"}
  terms = ("loss", "grad_norm", "reward", "invalid", "weight", "shift", "steering")
  written = {(now, f"train/{name}") for now in (5, 10, 15, 20) for name in terms}
  found = run_case.metrics(tuned)
  assert set(found) == written | {(20, name) for name in expected if name.startswith("eval/")}
  assert all(found[20, name] == summary[name] for name in expected if name.startswith("eval/"))
  assert [path.name for path in (tuned / "samples").iterdir()] == ["samples_0000020.png"]


class Stop(Exception):
  """Ends a training, as a killed process would."""


def test_stopping_and_starting_again_changes_nothing(finished, tmp_path, monkeypatch, capsys):
  uneven = {
    "steps": 13,
    "log_every": 7,
    "checkpoint_every": 3,
    "eval_every": 8,
    "optimizer.schedule": "cosine",
  }
  config, compile_step, stop_at = smoke(finished, uneven), step.compile_step, [11]
  whole = finetune(config, tmp_path / "whole")

  def stopping(*args):
    compiled = compile_step(*args)

    def call(state, frozen, batch):
      if int(state.step) + 1 in stop_at:
        raise Stop
      return compiled(state, frozen, batch)

    return call

  monkeypatch.setattr(step, "compile_step", stopping)
  with pytest.raises(Stop):
    finetune(config, tmp_path / "pieces")
  stop_at.clear()
  pieces = finetune(config, tmp_path / "pieces")
  assert "resuming" in capsys.readouterr().out
  for name in set(whole) - {"seconds", "seconds_compile"}:
    assert pieces[name] == whole[name], name
  assert run_case.metrics(tmp_path / "pieces") == run_case.metrics(tmp_path / "whole")
  assert finetune(config, tmp_path / "pieces") == pieces
  assert "is finished: 13 of 13 steps" in capsys.readouterr().out


def test_another_base_or_configuration_is_refused(tuned, finished, tmp_path):
  base, folder = tmp_path / "base", tmp_path / "run"
  shutil.copytree(finished, base)
  shutil.rmtree(base / "checkpoints" / "20")  # what is left of it is its step 10
  shutil.copytree(tuned, folder)
  stored = (folder / "config.json").read_text()
  (folder / "config.json").write_text(stored.replace(str(finished), str(base)))
  with pytest.raises(ValueError, match=r"with the base it was started with; got .* the checkpoint has"):
    finetune(smoke(base, {"steps": 24}), folder)
  with pytest.raises(ValueError, match=re.escape("config.multiplier: 1.0 -> 2.0")):
    finetune(smoke(finished, {"multiplier": 2.0}), tuned)
  with pytest.raises(ValueError, match="must be the folder of a fine-tuned run; got that of a run"):
    finetune(smoke(finished), finished)
  with pytest.raises(ValueError, match="must be the folder of a run; got that of a fine-tuned run"):
    loop.train(run_case.smoke(), tuned)


def test_many_rewards_that_are_not_finite_stop_it(finished, tmp_path, monkeypatch):
  monkeypatch.setattr(
    FinetuneConfig, "build_reward", lambda self: lambda x, cond: jnp.where(x[:, 0] > 2.0, jnp.nan, x[:, 0])
  )
  message = (
    r"the mean of invalid must be at most 0\.01; got 0\.\d+ \(first at step 1\) at step 5; "
    "last good checkpoint: none was saved"
  )
  with pytest.raises(ValueError, match=message):
    finetune(smoke(finished), tmp_path)


def test_a_value_that_is_not_finite_stops_it(finished, tmp_path, monkeypatch):
  put_batch, calls = sharding.put_batch, []

  def breaking(batch, mesh):
    calls.append(1)
    return put_batch({**batch, "x1": batch["x1"] * (np.nan if len(calls) == 13 else 1)}, mesh)

  monkeypatch.setattr(sharding, "put_batch", breaking)
  message = rf"got \w+ = nan at step 13; last good checkpoint: step 10 in {tmp_path}/checkpoints"
  with pytest.raises(ValueError, match=message):
    finetune(smoke(finished), tmp_path)


def test_networks_of_rewards_are_arguments_of_the_train_step(finished, tmp_path):
  """Of 300 x 300 numbers, each of which would take some characters of the program."""
  weights = jax.random.normal(jax.random.key(0), (2, 45_000))
  config, base = smoke(finished), load_run(finished)
  reward = on_samples(lambda x, cond: jnp.tanh(x @ weights).mean(1), lambda x: x / 2)
  arrays, lifted = hoisted.lift(reward, *example(base))
  assert [array.shape for array in arrays] == [(2, 45_000)]
  loss = make_loss(base, start(base, config, tmp_path), config.loss, config.draws, lifted)
  frozen = {"base": base.params, "reward": arrays}
  batch = {"x1": jnp.ones((4, 2))}
  gradient = jax.jit(jax.grad(lambda *rest: loss(*rest)[0]))
  text = gradient.lower(base.params, frozen, batch, jax.random.key(0), 1).as_text()
  assert len(text) < 8 * weights.size  # hexadecimal digits of float32


def test_guidance_is_one_declared_scale(labelled, tmp_path):
  finetune(smoke(labelled, {"draws.guidance": 2.0, "steps": 2}), tmp_path / "run")
  loaded = load_run(tmp_path / "run")
  assert loaded.scales == (2.0,)
  # The default is the declared scale; the null label has scale 1, as in training.
  np.testing.assert_array_equal(loaded.cond(np.array([0, 3]), None, 2)["guidance"], [2.0, 1.0])
  np.testing.assert_array_equal(loaded.cond(None, None, 1)["guidance"], [1.0])
  with pytest.raises(ValueError, match=r"guidance must be 1 or absent without labels; got 2.0"):
    loaded.cond(None, 2.0, 1)
  with pytest.raises(ValueError, match=re.escape("scale the run was trained with (2.0); got 1.0")):
    loaded.cond(np.array([0]), 1.0, 1)
  assert load_run(labelled).scales == (1.0, 2.0)
  distill = {"loss.diagonal": "teacher", "teacher": str(tmp_path / "run"), "data.labelled": True}
  with pytest.raises(ValueError, match=r"trained at guidance scale 1; got .*, trained at 2.0"):
    run.teacher(run_case.smoke(distill), loaded.info)


def test_one_guidance_for_everything_in_training(labelled, tmp_path, monkeypatch):
  """Every evaluation of the network, by v_base, v_ft and the draws, sees the draws' labels and scales."""
  seen, parts = [], run.parts

  def spying(config, info):
    pieces = parts(config, info)

    def wrap(net):
      inner = pieces.model.wrap(net)

      def call(s, u, x_s, t, x_t, cond):
        seen.append((np.asarray(cond["label"]), np.asarray(cond["guidance"])))
        return inner(s, u, x_s, t, x_t, cond)

      return call

    return dataclasses.replace(pieces, model=dataclasses.replace(pieces.model, wrap=wrap))

  monkeypatch.setattr(run, "parts", spying)
  config = smoke(labelled, {"draws.guidance": 2.0, "draws.label_dropout": 0.5})
  base = load_run(labelled)
  laws = dataclasses.replace(config.draws, num_classes=3, guided=True)
  tuned = start(base, config, tmp_path)
  arrays, reward = hoisted.lift(config.build_reward(), *example(base))
  loss = make_loss(base, tuned, config.loss, laws, reward)
  batch = {"x1": jnp.ones((16, 2)), "label": jnp.arange(16) % 3}
  loss(base.params, {"base": base.params, "reward": arrays}, batch, jax.random.key(0), 1)
  drawn = draw(jax.random.key(0), batch, laws)
  assert len(seen) == 3
  for label, scale in seen:
    n = len(label) // 16
    np.testing.assert_array_equal(label, np.repeat(drawn.label, n))
    np.testing.assert_array_equal(scale, np.repeat(drawn.guidance, n))
  assert {1.0, 2.0} == set(np.asarray(drawn.guidance).tolist())


def test_mistakes_are_found_before_anything_is_written(finished, flow, labelled, tuned, tmp_path):
  folder = tmp_path / "run"
  for config, message in (
    (smoke(flow), "one-step posterior draws need a run trained as a map"),
    (smoke(tuned), "one-step posterior draws need a run trained as a map"),
    (smoke(tmp_path / "nowhere"), "no such folder"),
    (smoke(finished, {"draws.guidance": 2.0}), r"scale the run was trained with \(1.0\); got 2.0"),
    (smoke(labelled, {"draws.guidance": 3.0}), r"scale the run was trained with \(1.0, 2.0\); got 3.0"),
    (smoke(finished, {"reward.centre": (1.0, 2.0, 3.0)}), "x, flattened, must have shape"),
    (
      smoke(finished, {"judges": [{"name": "quadratic", "centre": (1.0, 2.0, 3.0)}]}),
      "x, flattened, must have shape",
    ),
    (
      smoke(finished, {"reward.name": "python", "reward.function": "numpy:sum"}),
      "must be differentiable .*python",
    ),
  ):
    with pytest.raises(ValueError, match=message):
      finetune(config, folder)
  assert not folder.exists()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"multiplier": 0.0}, "multiplier must be positive; got 0.0"),
    ({"draws.per_state": 0}, "draws.per_state must be at least 1; got 0"),
    ({"steps": 0}, "steps must be at least 1; got 0"),
    ({"eval_num": 1}, "eval_num must be at least 2; got 1"),
    ({"eval_every": -1}, "eval_every must be at least 0; got -1"),
    ({"ema": ()}, "number of ema decays must be at least 1; got 0"),
    ({"ema": (1.5,)}, "ema must lie in"),
    ({"draws.num_classes": 3}, "unknown config key config.draws.num_classes"),
    ({"los": {}}, r"unknown config key config.los \(did you mean loss"),
    ({"loss.shift": 1.0}, "config.loss.shift must be of type str; got 1.0"),
  ],
)
def test_mistakes_in_a_configuration(changes, message):
  with pytest.raises(ValueError, match=message):
    smoke("base", changes)


def test_the_multiplier_is_in_every_weight():
  config = smoke("base", {"multiplier": 3.0, "reward.weight": 2.0, "more_rewards": [{"weight": 5.0}]})
  assert [config.steering.reward.weight, config.steering.more_rewards[0].weight] == [6.0, 15.0]
  # A single Gaussian stays one, so that its tilt stays known.
  x = jnp.array([[0.0, 1.0]])
  single = dataclasses.replace(config, more_rewards=())
  np.testing.assert_allclose(single.build_reward()(x, None), 6.0 * config.reward.build()(x), rtol=1e-6)
  assert hasattr(single.build_reward(), "matrix")


def test_a_configuration_survives_json(tuned):
  stored = json.loads((tuned / "config.json").read_text())
  assert stored["kind"] == "fine-tuned run"
  config = from_dict(FinetuneConfig, stored["config"])
  assert differences(stored["config"], to_dict(config)) == []
