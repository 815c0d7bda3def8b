"""Teachers: closed form or a trained flow, frozen, of the same interpolant and data, known by hash."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_case

from mfm_jax import oracles
from mfm_jax.training import folder, generate, loop, run, step
from mfm_jax.training.run import load_run

DISTILL = {"loss.diagonal": "teacher", "loss.consistency": "eulerian_teacher"}


def test_the_oracle_is_the_closed_form_and_needs_no_folder():
  config = run_case.smoke({**DISTILL, "teacher": "oracle"})
  info = folder.DataInfo(shape=(2,), num_classes=0, data_std=1.0, image=False)
  teacher = run.teacher(config, info)
  assert teacher.identity == "oracle"
  velocity = teacher.marginal(teacher.params)
  t, x = jnp.asarray([0.2, 0.7]), jnp.asarray([[0.3, -1.0], [2.0, 1.0]])
  direct = oracles.as_marginal(oracles.paper_mixture(), run.parts(config, info).interpolant)
  np.testing.assert_array_equal(velocity(t, x, None), direct(t, x, None))


def test_no_teacher_where_no_form_asks_for_one():
  info = folder.DataInfo(shape=(2,), num_classes=0, data_std=1.0, image=False)
  assert run.teacher(run_case.smoke(), info) is None


def test_training_with_the_oracle(tmp_path):
  forms = {"loss.diagonal": "teacher", "loss.consistency": "none"}
  summary = loop.train(run_case.smoke({**forms, "teacher": "oracle", "steps": 10}), tmp_path)
  assert np.isfinite(summary["held_out/loss"])
  assert load_run(tmp_path).config.teacher == "oracle"


def test_a_teacher_on_other_latents_is_refused(flow):
  config = run_case.smoke({**DISTILL, "teacher": str(flow)})
  _, info = run.read_config(flow)
  for changes in ({"latent_scale": 0.5}, {"latent_shift": 0.1}):
    (name, value), *_ = changes.items()
    with pytest.raises(
      ValueError, match=rf"the teacher must have the {name} of the run; got .*, {value} here"
    ):
      run.teacher(config, dataclasses.replace(info, **changes))


class Stop(Exception):
  """Stands for whatever ends a process."""


def test_a_trained_flow_teaches_and_is_known_again(flow, tmp_path, monkeypatch):
  teacher = tmp_path / "teacher"
  shutil.copytree(flow, teacher)
  config = run_case.smoke({**DISTILL, "teacher": str(teacher)})
  info = folder.DataInfo(shape=(2,), num_classes=0, data_std=1.0, image=False)
  of_host = jax.tree.leaves(run.teacher(config, info).params)
  assert all(isinstance(leaf, np.ndarray) for leaf in of_host), "no copy on a device beside the one in parts"
  compile_step = step.compile_step

  def stopping(*args):
    compiled = compile_step(*args)

    def call(state, frozen, batch):
      if int(state.step) == 12:
        raise Stop
      return compiled(state, frozen, batch)

    return call

  student = tmp_path / "student"
  with monkeypatch.context() as patch:
    patch.setattr(step, "compile_step", stopping)
    with pytest.raises(Stop):
      loop.train(config, student)
  # The teacher of step 10 in the same folder: another teacher under the old name.
  shutil.move(teacher / "checkpoints" / "20", tmp_path / "aside")
  with pytest.raises(ValueError, match=r"resumed with the teacher it was started with; got .*teacher"):
    loop.train(config, student)
  shutil.move(tmp_path / "aside", teacher / "checkpoints" / "20")
  before = load_run(teacher).sha256
  assert loop.train(config, student)["steps"] == 20
  assert load_run(teacher).sha256 == before, "the teacher is frozen"
  meta = json.loads((student / "checkpoints" / "20" / "meta" / "metadata").read_text())
  assert meta["teacher"] == before


def test_the_teacher_is_the_flow_of_its_folder(flow):
  teacher = run.teacher(run_case.smoke({**DISTILL, "teacher": str(flow)}), load_run(flow).info)
  loaded, velocity = load_run(flow), teacher.marginal(teacher.params)
  t, x = jnp.asarray([0.0, 0.7]), jnp.ones((2, 2))
  assert teacher.identity == loaded.sha256
  np.testing.assert_array_equal(velocity(t, x, None), loaded.marginal(t, x, None))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"interpolant": "trigonometric"}, "interpolant of the run; got linear in .*, trigonometric here"),
    ({"data.labelled": True}, r"num_classes of the run; got 0 in .*, \d+ here"),
    (
      {"mixture.weights": [1.0], "mixture.means": [[0.0, 0.0, 0.0]], "mixture.variances": [1.0]},
      r"shape of the run; got \(2,\) in .*, \(3,\) here",
    ),
  ],
)
def test_a_teacher_of_another_problem_is_refused_and_nothing_is_written(changes, message, flow, tmp_path):
  config = run_case.smoke({**DISTILL, "teacher": str(flow), **changes})
  with pytest.raises(ValueError, match=f"the teacher must have the {message}"):
    loop.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_missing_teacher_is_refused(tmp_path):
  config = run_case.smoke({**DISTILL, "teacher": str(tmp_path / "nowhere")})
  with pytest.raises(ValueError, match=r"workdir must be a run folder; got .*nowhere: no such folder"):
    loop.train(config, tmp_path / "run")


def test_a_plain_flow_refuses_one_step_draws_and_glass_works(flow):
  loaded = load_run(flow)
  given = {"t": np.full(3, 0.4), "x_t": np.zeros((3, 2))}
  with pytest.raises(ValueError, match=r"one-step posterior draws need .* marginal-only run .* GLASS"):
    generate.posterior_samples(loaded, jax.random.key(0), **given, num=2, sampler="map")
  with pytest.raises(ValueError, match="marginal-only"):
    generate.marginal_samples(loaded, jax.random.key(0), num=2, sampler="map")
  draws = generate.posterior_samples(loaded, jax.random.key(0), **given, num=2, steps=3)
  explicit = generate.posterior_samples(loaded, jax.random.key(0), **given, num=2, steps=3, sampler="glass")
  np.testing.assert_array_equal(draws, explicit)
  assert draws.shape == (3, 2, 2)
  assert np.isfinite(draws).all()
