"""What a run writes, what stops it, and that several devices train the same network."""

import json
import re
import resource
import signal

import numpy as np
import pytest
import run_case
from PIL import Image

from mfm_jax.training import folder, loop, sharding
from mfm_jax.training.config import RunConfig, from_dict, to_dict
from mfm_jax.training.logging import MetricWriter
from mfm_jax.training.run import load_run, read_config
from mfm_jax.training.state import params_sha256


def test_a_run_folder_holds_what_the_documentation_promises(finished):
  names = {path.name for path in finished.iterdir()}
  assert names == {"config.json", "checkpoints", "metrics.jsonl", "tensorboard", "samples", "summary.json"}
  assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["10", "20"]
  assert list((finished / "tensorboard").glob("events.out.tfevents.*"))
  pictures = sorted((finished / "samples").glob("*.png"))
  assert [path.name for path in pictures] == ["posterior_0000020.png", "samples_0000020.png"]
  for picture in pictures:
    assert Image.open(picture).width == 1400
    assert np.asarray(Image.open(picture)).std() > 5


def test_config_json_is_the_configuration(finished):
  stored = json.loads((finished / "config.json").read_text())
  assert from_dict(RunConfig, stored["config"]) == run_case.smoke()
  config, info = read_config(finished)
  assert to_dict(config) == stored["config"]
  assert (info.shape, info.num_classes, info.image) == ((2,), 0, False)


def test_every_line_of_metrics_has_its_four_keys(finished):
  lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
  assert all(set(line) == {"step", "name", "value", "seconds"} for line in lines)
  terms = ("loss", "diagonal", "consistency")
  expected = {(step, f"train/{name}") for step in (5, 10, 15, 20) for name in (*terms, "grad_norm")}
  expected |= {(20, f"held_out/{name}") for name in terms}
  assert set(run_case.metrics(finished)) == expected
  seconds = [line["seconds"] for line in lines]
  assert seconds == sorted(seconds)


def test_the_summary_describes_the_final_parameters(finished):
  summary = json.loads((finished / "summary.json").read_text())
  raw = load_run(finished, ema="raw")
  assert summary["params_sha256"] == raw.sha256 == params_sha256(raw.params)
  assert summary["steps"] == raw.step == 20
  assert summary["seconds"] >= summary["seconds_compile"] > 0
  held_out = {name: value for name, value in summary.items() if name.startswith("held_out/")}
  written = run_case.metrics(finished)
  assert held_out == {name: written[20, name] for name in held_out} != {}


def test_averages_are_chosen_by_decay(finished):
  longest, raw = load_run(finished), load_run(finished, ema="raw")
  assert (longest.ema, raw.ema) == ("0.999", "raw")
  assert longest.sha256 == load_run(finished, ema="0.999").sha256
  assert len({longest.sha256, raw.sha256, load_run(finished, ema="0.5").sha256}) == 3
  with pytest.raises(ValueError, match=re.escape("ema must be one of 0.5, 0.999, raw; got '0.9'")):
    load_run(finished, ema="0.9")


@pytest.mark.parametrize("broken", [4, 13], ids=["before the first checkpoint", "after one"])
def test_a_value_that_is_not_finite_stops_the_run_which_can_go_on(broken, finished, tmp_path, monkeypatch):
  put_batch, calls = sharding.put_batch, []

  def breaking(batch, mesh):
    calls.append(1)
    if len(calls) == broken:
      batch = {**batch, "x1": np.full_like(batch["x1"], np.nan)}
    return put_batch(batch, mesh)

  good = f"step 10 in {tmp_path}/checkpoints" if broken > 10 else "none was saved yet"
  message = rf"got (diagonal|consistency|loss|grad_norm) = nan at step {broken}; last good checkpoint: {good}"
  with monkeypatch.context() as patch:
    patch.setattr(sharding, "put_batch", breaking)
    with pytest.raises(ValueError, match=message):
      loop.train(run_case.smoke(), tmp_path)
  assert not (tmp_path / "summary.json").exists()
  if broken > 10:
    assert load_run(tmp_path).step == 10
  summary = loop.train(run_case.smoke(), tmp_path)
  assert summary["params_sha256"] == json.loads((finished / "summary.json").read_text())["params_sha256"]
  assert run_case.metrics(tmp_path) == run_case.metrics(finished)


def test_a_step_that_ends_at_a_checkpoint_is_checked_before_it_is_saved(tmp_path, monkeypatch):
  put_batch, calls = sharding.put_batch, []

  def breaking(batch, mesh):
    calls.append(1)
    return put_batch({**batch, "x1": batch["x1"] * (np.nan if len(calls) == 10 else 1)}, mesh)

  monkeypatch.setattr(sharding, "put_batch", breaking)
  with pytest.raises(ValueError, match="at step 10; last good checkpoint: none was saved yet"):
    loop.train(run_case.smoke({"log_every": 20}), tmp_path)
  assert not (tmp_path / "checkpoints" / "10").exists()


def _broken_at(steps, monkeypatch):
  """Batches of these steps are not finite."""
  put_batch, calls = sharding.put_batch, []

  def breaking(batch, mesh):
    calls.append(1)
    return put_batch({**batch, "x1": batch["x1"] * (np.nan if len(calls) in steps else 1)}, mesh)

  monkeypatch.setattr(sharding, "put_batch", breaking)


def test_steps_that_are_not_finite_may_be_skipped_and_are_counted(tmp_path, monkeypatch):
  _broken_at({3, 7, 8, 10}, monkeypatch)
  summary = loop.train(run_case.smoke({"skip_not_finite": 2}), tmp_path)
  assert summary["steps"] == 20
  found = run_case.metrics(tmp_path)
  assert {step: found[step, name] for step, name in found if name == "train/skipped"} == {5: 1.0, 10: 3.0}
  assert all(np.isfinite(value) for value in found.values())


def test_too_many_steps_in_a_row_that_are_not_finite_stop_the_run(tmp_path, monkeypatch):
  _broken_at({12, 13, 14}, monkeypatch)
  with pytest.raises(ValueError, match=r"= nan at step 14; last good checkpoint: step 10"):
    loop.train(run_case.smoke({"skip_not_finite": 2}), tmp_path)


def test_steps_that_are_not_finite_in_a_row_are_counted_across_a_restart(tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    _broken_at({9, 10}, patch)
    loop.train(run_case.smoke({"skip_not_finite": 2, "steps": 10}), tmp_path)
  _broken_at({1}, monkeypatch)
  with pytest.raises(ValueError, match=r"= nan at step 11; last good checkpoint: step 10"):
    loop.train(run_case.smoke({"skip_not_finite": 2}), tmp_path)


def test_an_evaluation_that_fails_costs_no_step_and_is_done_again(finished, tmp_path, monkeypatch):
  every, evaluate = 10, loop._Evaluation.__call__
  config = run_case.smoke({"eval_every": every, "checkpoint_every": every})

  def failing(self, state):
    if int(state.step) == every:
      raise RuntimeError("out of memory")
    return evaluate(self, state)

  with monkeypatch.context() as patched:
    patched.setattr(loop._Evaluation, "__call__", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
      loop.train(config, tmp_path)
  assert (tmp_path / "checkpoints" / str(every) / "_CHECKPOINT_METADATA").exists()
  summary = loop.train(config, tmp_path)
  assert summary["params_sha256"] == json.loads((finished / "summary.json").read_text())["params_sha256"]
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert min(line["step"] for line in lines if line["name"].startswith("held_out/")) == every


def test_a_full_disk_is_an_error_and_not_a_wait(tmp_path):
  """Of the files that grow beside the checkpoints; 4 kB here."""
  writer = MetricWriter(tmp_path, resume_step=0, total=1)
  before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  picture = np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    with pytest.raises(OSError, match="File too large"):
      writer.image(0, "noise", picture)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_run_that_cannot_write_its_metrics_says_what_is_saved(tmp_path, monkeypatch):
  write = MetricWriter.write

  def full(self, step, values):
    if step > 10:
      raise OSError(28, "No space left on device")
    write(self, step, values)

  monkeypatch.setattr(MetricWriter, "write", full)
  with pytest.raises(OSError, match=r"No space left on device; last good checkpoint: step 10 in"):
    loop.train(run_case.smoke(), tmp_path)


def test_a_folder_of_a_run_killed_at_its_very_start_is_new(tmp_path):
  (tmp_path / "config.json.partial").write_text("{")
  config = run_case.smoke()
  folder.check_workdir(tmp_path, config, folder.DataInfo(**{**INFO, "shape": (2,)}), folder.RUN)


def test_a_folder_older_than_the_facts_of_latents_has_them_from_its_configuration(tmp_path):
  config = run_case.smoke({"data.latent_scale": 0.5})
  info = folder.DataInfo(**{**INFO, "shape": (2,), "latent_scale": 0.5})
  folder.write_config(tmp_path, config, info, folder.RUN)
  stored = json.loads((tmp_path / "config.json").read_text())
  for name in ("latent_scale", "latent_shift", "autoencoder"):
    del stored["data"][name]
  (tmp_path / "config.json").write_text(json.dumps(stored))
  assert folder.read(tmp_path, type(config), folder.RUN) == (config, info)
  folder.check_workdir(tmp_path, config, info, folder.RUN)


def _tree(folder):
  return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_foreign_folder_is_left_as_it_is(tmp_path):
  (tmp_path / "thesis.txt").write_text("mine")
  before = _tree(tmp_path)
  with pytest.raises(ValueError, match=r"must be a run folder; got .*: a folder without config.json"):
    loop.train(run_case.smoke(), tmp_path)
  assert _tree(tmp_path) == before


@pytest.mark.parametrize(
  ("content", "message"),
  [("{", "config.json of a run folder must be JSON"), ("[]", "format 1"), ('{"format": 0}', "format 1")],
)
def test_a_config_json_of_something_else_is_refused(content, message, tmp_path):
  (tmp_path / "config.json").write_text(content)
  before = _tree(tmp_path)
  with pytest.raises(ValueError, match=message):
    loop.train(run_case.smoke(), tmp_path)
  assert _tree(tmp_path) == before


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
  (tmp_path / "run").write_text("")
  with pytest.raises(ValueError, match="workdir must be a folder; got the file"):
    loop.train(run_case.smoke(), tmp_path / "run")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"interpolant": "trigonometric"}, "config.interpolant: 'linear' -> 'trigonometric'"),
    ({"seed": 1}, "config.seed: 0 -> 1"),
    ({"model.width": 24}, "config.model.width: 16 -> 24"),
    ({"data.seed": 1}, "config.data.seed: 0 -> 1"),
    ({"optimizer.learning_rate": 1.0}, "config.optimizer.learning_rate: 0.002 -> 1.0"),
  ],
)
def test_another_configuration_is_refused_by_key_and_nothing_is_written(changes, message, finished):
  before = _tree(finished)
  with pytest.raises(ValueError, match=re.escape(message)):
    loop.train(run_case.smoke(changes), finished)
  assert _tree(finished) == before


def test_a_folder_without_checkpoints_cannot_be_loaded(tmp_path):
  with pytest.raises(ValueError, match="no such folder"):
    load_run(tmp_path / "nowhere")
  config = json.dumps({"format": 1, "config": to_dict(run_case.smoke()), "data": INFO})
  (tmp_path / "config.json").write_text(config)
  with pytest.raises(ValueError, match="workdir must hold a checkpoint; got none"):
    load_run(tmp_path)


INFO = {"shape": [2], "num_classes": 0, "data_std": 1.0, "image": False}
