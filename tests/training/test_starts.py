"""Training from the parameters of another run, scales of guidance, and folders older than a key."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_case

from mfm_jax.finetuning.draws import FTDrawConfig
from mfm_jax.flow_map import marginal_velocity
from mfm_jax.training import loop, run
from mfm_jax.training.finetune import start as finetuned_start
from mfm_jax.training.finetune_config import FinetuneConfig
from mfm_jax.training.run import load_run

DIT = {
  "data.name": "noise",
  "data.shape": (4, 4, 2),
  "data.classes": 3,
  "data.train_size": 64,
  "data.test_size": 32,
  "data.labelled": True,
  "model.name": "dit",
  "model.heads": 2,
  "model.depth": 2,
  "model.precondition": False,
  "model.dit.reverse_time": True,
  "model.dit.encoder_depth": 1,
  "draws.guidance_scales": (1.5, 2.5),
  "eval_batches": 0,
  "steps": 4,
  "checkpoint_every": 4,
}


def test_training_starts_from_a_run_and_remembers_which(finished, tmp_path):
  config = run_case.smoke({"init": str(finished), "steps": 1, "optimizer.learning_rate": 0.0})
  loop.train(config, tmp_path / "run")
  ours, theirs = load_run(tmp_path / "run", ema="raw"), load_run(finished)
  jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
  meta = json.loads((tmp_path / "run/checkpoints/1/meta/metadata").read_text())
  assert meta["init"] == theirs.sha256


def test_a_start_of_another_network_or_problem_is_refused(finished, tmp_path):
  for changes, message in (
    ({"model.width": 8}, r"same network; .* is .* in .*, \(8,\) here"),
    ({"model.precondition": False}, "same network; got model.precondition=True, False here"),
    ({"interpolant": "trigonometric"}, "the init must have the interpolant of the run; got linear"),
    ({"init": str(tmp_path / "nowhere")}, "workdir must be a run folder"),
  ):
    with pytest.raises(ValueError, match=message):
      loop.train(run_case.smoke({"init": str(finished), **changes}), tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
  """A plain flow by a transformer with a table of two scales."""
  folder = tmp_path_factory.mktemp("transformer") / "run"
  loop.train(run_case.smoke({**DIT, "loss.consistency": "none"}), folder)
  return folder


def test_a_transformer_map_starts_as_the_function_of_a_flow(transformer, tmp_path):
  """Scales of guidance that the flow was not trained at keep their own initialisation."""
  config = run_case.smoke({**DIT, "init": str(transformer), "draws.guidance_scales": (2.5,)})
  flow = load_run(transformer)
  model = run.parts(config, flow.info).model
  start = run.start(config, flow.info, model)
  params = jax.jit(start.init)(start.given)
  net, old = params["net"], flow.params["net"]
  np.testing.assert_array_equal(net["blocks"]["qkv"]["kernel"], old["blocks"]["qkv"]["kernel"])
  np.testing.assert_array_equal(net["context"]["kernel"], old["context"]["kernel"])
  assert net["guidance"]["embedding"].shape == (2, 16)
  same = run_case.smoke({**DIT, "init": str(transformer)})
  start = run.start(same, flow.info, flow.parts.model)
  t, x = jnp.full(3, 0.4), jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
  cond = {"label": jnp.arange(3), "guidance": jnp.ones(3)}
  ours = jax.jit(lambda params: marginal_velocity(flow.parts.model.velocity(params))(t, x, cond))
  np.testing.assert_array_equal(ours(jax.jit(start.init)(start.given)), ours(flow.params))
  for key, value in (("encoder_depth", 2), ("guidance_decoder", False), ("reverse_time", False)):
    other = run_case.smoke({**DIT, "init": str(transformer), f"model.dit.{key}": value})
    with pytest.raises(ValueError, match=f"same network; got model.dit.{key}="):
      run.start(other, flow.info, model)


def test_a_fine_tuned_transformer_keeps_its_table_and_one_scale(transformer, tmp_path):
  base = load_run(transformer)
  for scale in (1.0, 2.5):
    config = FinetuneConfig(base=str(transformer), draws=FTDrawConfig(guidance=scale))
    tuned = finetuned_start(base, config, tmp_path)
    assert tuned.scales == (scale,)
    shapes = jax.tree.map(np.shape, jax.eval_shape(tuned.parts.model.init, jax.random.key(0)))
    assert shapes == jax.tree.map(np.shape, base.params)


@pytest.mark.slow
def test_any_scale_between_the_trained_ends(tmp_path):
  config = {**DIT, "draws.guidance_between": True, "model.dit.guidance": "continuous"}
  loop.train(run_case.smoke(config), tmp_path / "run")
  found = load_run(tmp_path / "run")
  for scale in (1.0, 1.5, 2.0, 2.5):
    found.check_guidance(scale)
  with pytest.raises(ValueError, match=r"\(1.0, 1.5, 2.5, and all between 1.5 and 2.5\); got 1.2"):
    found.check_guidance(1.2)
  with pytest.raises(ValueError, match=r"model.dit.guidance must be continuous with draws.guidance_between"):
    run_case.smoke({**DIT, "draws.guidance_between": True})


def test_a_folder_older_than_a_key_is_resumed(finished, tmp_path):
  shutil.copytree(finished, tmp_path / "run")
  path = tmp_path / "run" / "config.json"
  stored = json.loads(path.read_text())
  del stored["config"]["init"], stored["config"]["loss"]["freeze_target"]
  path.write_text(json.dumps(stored))
  assert loop.train(run_case.smoke(), tmp_path / "run")["steps"] == 20
