"""A run that was stopped anywhere and started again equals one that never stopped."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import run_case

from mfm_jax.data import datasets, pipeline
from mfm_jax.training import loop, step
from mfm_jax.training.run import load_run

CONFIG = run_case.smoke()  # 20 steps, logged every 5, saved every 10
LONG = {"steps": 200, "log_every": 10, "checkpoint_every": 20, "keep_checkpoints": 2}


class Stop(Exception):
  """Stands for whatever ends a process."""


@pytest.fixture
def observed(monkeypatch):
  """Records step -> batch of every training step; `observed.stop_at` ends training before that step."""

  observed = types.SimpleNamespace(batches={}, stop_at=None)
  compile_step = step.compile_step

  def observing(*args):
    compiled = compile_step(*args)

    def call(state, frozen, batch):
      now = int(state.step) + 1
      if now == observed.stop_at:
        raise Stop
      observed.batches[now] = np.asarray(batch["x1"])
      return compiled(state, frozen, batch)

    return call

  monkeypatch.setattr(step, "compile_step", observing)
  return observed


def _train_in_pieces(config, folder, observed, stops):
  for stop in stops:
    observed.stop_at = stop
    with pytest.raises(Stop):
      loop.train(config, folder)
  observed.stop_at = None
  return loop.train(config, folder)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
  """An uninterrupted run whose intervals do not divide each other."""
  folder = tmp_path_factory.mktemp("uneven") / "run"
  config = run_case.smoke(
    {"log_every": 7, "checkpoint_every": 3, "eval_every": 8, "optimizer.schedule": "cosine"}
  )
  summary = loop.train(config, folder)
  return config, folder, summary


@pytest.mark.slow
def test_stopping_again_and_again_changes_neither_parameters_nor_metrics_nor_batches(
  uneven, observed, tmp_path
):
  config, folder, summary = uneven
  # Before the first checkpoint; between one and the next log; near the end.
  resumed = _train_in_pieces(config, tmp_path / "run", observed, [2, 5, 19])
  assert resumed["params_sha256"] == summary["params_sha256"]
  assert run_case.metrics(tmp_path / "run") == run_case.metrics(folder)
  assert load_run(tmp_path / "run").sha256 == load_run(folder).sha256, "the averages, too"
  source = datasets.load(config.data, config.mixture.build()).train
  expected = iter(pipeline.batches(source, batch_size=config.batch_size, seed=config.seed))
  assert sorted(observed.batches) == list(range(1, 21))
  for now in range(1, 21):
    np.testing.assert_array_equal(observed.batches[now], next(expected)["x1"])


def test_other_intervals_may_be_chosen_and_change_nothing_that_is_learnt(finished, observed, tmp_path):
  observed.stop_at = 12
  with pytest.raises(Stop):
    loop.train(CONFIG, tmp_path)
  observed.stop_at = None
  other = run_case.smoke({"log_every": 3, "checkpoint_every": 4, "keep_checkpoints": 1})
  summary = loop.train(other, tmp_path)
  assert summary["params_sha256"] == json.loads((finished / "summary.json").read_text())["params_sha256"]
  assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["20"]


def test_a_finished_run_says_so_and_gives_its_summary(finished, capsys):
  before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name != "config.json"}
  summary = loop.train(CONFIG, finished)
  assert "is finished: 20 of 20 steps" in capsys.readouterr().out
  assert summary == json.loads((finished / "summary.json").read_text())
  after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name != "config.json"}
  assert {path for path in before if path.is_file()} == {path for path in after if path.is_file()}
  assert all(after[path] == before[path] for path in before if path.is_file())


def test_killed_between_the_last_evaluation_and_the_summary(finished, tmp_path):
  """The lines of that evaluation come after the last checkpoint; they must not come twice."""
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  (folder / "summary.json").unlink()
  summary = loop.train(CONFIG, folder)
  assert run_case.metrics(folder) == run_case.metrics(finished)
  original = json.loads((finished / "summary.json").read_text())
  for name in set(original) - {"seconds", "seconds_compile"}:
    assert summary[name] == original[name]


def test_an_extended_run_goes_on_and_its_old_summary_is_not_taken_for_its_own(finished, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  old = (folder / "summary.json").read_text()
  extended = run_case.smoke({"steps": 24})
  summary = loop.train(extended, folder)
  assert summary["steps"] == 24
  assert summary["params_sha256"] != json.loads(old)["params_sha256"]
  (folder / "summary.json").write_text(old)  # killed after the last checkpoint
  again = loop.train(extended, folder)
  assert (again["steps"], again["params_sha256"]) == (24, summary["params_sha256"])


def test_a_shorter_run_than_the_one_in_the_folder_is_finished(finished, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  assert loop.train(run_case.smoke({"steps": 10}), folder)["steps"] == 20


@pytest.mark.parametrize("name", ["20", "999"])
def test_leftover_step_folders_are_survived(name, finished, tmp_path):
  """A stray folder neither hides the newest checkpoint nor keeps later ones from being saved."""
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  (folder / "summary.json").unlink()
  shutil.rmtree(folder / "checkpoints" / "20")
  (folder / "checkpoints" / name).mkdir()
  (folder / "checkpoints" / "15.orbax-checkpoint-tmp").mkdir()
  assert load_run(folder).step == 10
  summary = loop.train(CONFIG, folder)
  assert summary["params_sha256"] == json.loads((finished / "summary.json").read_text())["params_sha256"]
  assert load_run(folder).step == 20
  assert run_case.metrics(folder) == run_case.metrics(finished)


def test_a_checkpoint_of_another_network_is_refused_by_name(finished, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  stored = (folder / "config.json").read_text()
  (folder / "config.json").write_text(stored.replace('"width": 16', '"width": 24'))
  with pytest.raises(ValueError, match=r"ema/0.5/net/.* is \(\(.*16.* in the checkpoint and \(\(.*24"):
    loop.train(run_case.smoke({"model.width": 24}), folder)


def test_a_torn_line_of_metrics_is_dropped(finished, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  (folder / "summary.json").unlink()
  shutil.rmtree(folder / "checkpoints" / "20")
  path = folder / "metrics.jsonl"
  path.write_text(path.read_text()[:-17])
  loop.train(CONFIG, folder)
  assert run_case.metrics(folder) == run_case.metrics(finished)


# ---- killed for real ----


def _command(folder):
  flags = [f"--config.{key}={value}" for key, value in LONG.items()]
  return [sys.executable, "-m", "experiments.train", *run_case.FLAGS, *flags, f"--workdir={folder}"]


def _start(command):
  return subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=run_case.environment(),
    cwd=run_case.ROOT,
  )


def _finish(command) -> dict:
  done = subprocess.run(
    command, capture_output=True, text=True, check=True, env=run_case.environment(), cwd=run_case.ROOT
  )
  return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
  """The uninterrupted run that killed ones are compared with."""
  folder = tmp_path_factory.mktemp("long") / "run"
  return folder, loop.train(run_case.smoke(LONG), folder)


def _assert_like(folder, summary, long_run):
  assert summary["params_sha256"] == long_run[1]["params_sha256"]
  assert run_case.metrics(folder) == run_case.metrics(long_run[0])


def _kill_at_progress(command, step: int) -> bool:
  """Kills the process once its progress line reaches `step`; False where it ended before."""
  process = _start(command)
  with process:
    for line in process.stdout:
      found = re.match(r"step (\d+)/", line)
      if found and int(found[1]) >= step:
        process.send_signal(signal.SIGKILL)
        break
    process.wait()
  return process.returncode == -signal.SIGKILL


def test_sigkill_and_the_same_run_again_give_the_same_run(long_run, tmp_path):
  command = _command(tmp_path / "run")
  assert _kill_at_progress(command, random.Random(0).randrange(30, 130))
  assert not (tmp_path / "run" / "summary.json").exists()
  _assert_like(tmp_path / "run", loop.train(run_case.smoke(LONG), tmp_path / "run"), long_run)


@pytest.mark.slow
def test_sigkill_at_random_moments_until_the_run_is_finished(long_run, tmp_path):
  rng, kills = random.Random(os.urandom(8)), 0
  command = _command(tmp_path / "run")
  while _kill_at_progress(command, 40 * kills + rng.randrange(40)) and kills < 4:
    kills += 1
  assert kills >= 2
  _assert_like(tmp_path / "run", _finish(command), long_run)


# Kills its own process `delay` seconds after the nth call of a function began.
KILLER = """
import os, signal, sys, threading, time
from mfm_jax.training import checkpoint, logging, loop, run
import run_case

owner, name, nth, delay, folder = sys.argv[1:]
owner = eval(owner)
original, calls = getattr(owner, name), []

def killing(*args, **kwargs):
  calls.append(name)
  if len(calls) == int(nth):
    if float(delay) == 0:
      os.kill(os.getpid(), signal.SIGKILL)
    def kill():
      time.sleep(float(delay))
      os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=kill, daemon=True).start()
  return original(*args, **kwargs)

setattr(owner, name, killing)
loop.train(run_case.smoke(LONG), folder)
time.sleep(60)
""".replace("LONG", repr(LONG))
_SAVING = [("checkpoint.Checkpoints", "save", 4, delay) for delay in (0, 0.002, 0.005, 0.01, 0.02, 0.05)]


@pytest.mark.slow
@pytest.mark.parametrize(
  "moment",
  [
    *_SAVING,
    ("checkpoint.Checkpoints", "save", 1, 0.003),
    ("loop.folder", "write_config", 1, 0),
    ("logging.MetricWriter", "write", 7, 0),
    ("loop._Evaluation", "__call__", 1, 0),
    ("loop", "write_atomically", 1, 0),
    ("checkpoint.Checkpoints", "wait", 1, 0.002),
  ],
  ids=lambda moment: "-".join(str(part) for part in moment),
)
def test_sigkill_at_a_delicate_moment(moment, long_run, tmp_path):
  folder = tmp_path / "run"
  program = [sys.executable, "-c", KILLER, *map(str, moment), str(folder)]
  killed = subprocess.run(program, env=run_case.environment(), capture_output=True, text=True, check=False)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  _assert_like(folder, loop.train(run_case.smoke(LONG), folder), long_run)
