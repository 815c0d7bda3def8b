"""SIGTERM and Ctrl-C save and end a training; the same command goes on as if nothing had happened."""

import re
import signal
import subprocess
import sys

import pytest
import run_case
from test_sharding import start_two

from mfm_jax.training import loop, sharding
from mfm_jax.training.interruption import Interruption

LONG = {"steps": 400, "log_every": 10, "checkpoint_every": 1000}
FLAGS = [*run_case.FLAGS, *[f"--config.{key}={value}" for key, value in LONG.items()]]


def _command(folder):
  return [sys.executable, "-m", "experiments.train", *FLAGS, f"--workdir={folder}"]


def _signal_at(process, step, number) -> str:
  """Sends a signal once the progress line reaches `step`; what the process says after it."""
  for line in process.stdout:
    found = re.match(r"step (\d+)/", line)
    if found and int(found[1]) >= step:
      process.send_signal(number)
      break
  return process.communicate(timeout=240)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole") / "run"
  return folder, loop.train(run_case.smoke(LONG), folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_ends(number, whole, tmp_path, capsys):
  process = subprocess.Popen(
    _command(tmp_path / "run"),
    stdout=subprocess.PIPE,
    text=True,
    env=run_case.environment(),
    cwd=run_case.ROOT,
  )
  said = _signal_at(process, 20, number)
  assert process.returncode == 128 + number
  step = re.search(rf"{number.name}: saved step (\d+) in .*checkpoints; the same command goes on", said)
  assert step, said
  assert (tmp_path / "run" / "checkpoints" / step[1]).exists()
  summary = loop.train(run_case.smoke(LONG), tmp_path / "run")
  assert f"resuming {tmp_path / 'run'} at step {step[1]} of" in capsys.readouterr().out
  assert summary["params_sha256"] == whole[1]["params_sha256"]
  assert run_case.metrics(tmp_path / "run") == run_case.metrics(whole[0])


@pytest.mark.slow
def test_a_notice_to_one_of_two_processes_ends_both_at_one_step(tmp_path):
  processes = start_two(_command(tmp_path / "run"), devices=1)
  said = _signal_at(processes[0], 20, signal.SIGTERM)
  other = processes[1].communicate(timeout=240)[0]
  assert [process.returncode for process in processes] == [143, 143], (said, other)
  pattern = r"SIGTERM: saved step (\d+) in"
  assert re.search(pattern, said)[1] == re.search(pattern, other)[1]
  summary = loop.train(run_case.smoke(LONG), tmp_path / "run")  # by one process
  assert summary["steps"] == 400


def test_sigterm_again_does_not_cut_the_save_short_and_ctrl_c_does():
  before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
  try:
    with Interruption() as interruption:
      assert not interruption.reached(1)
      for _ in range(2):
        signal.raise_signal(signal.SIGTERM)
      assert interruption.reached(2)
      with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
      with pytest.raises(SystemExit) as stop:
        interruption.leave("saved")
  finally:
    signal.signal(signal.SIGINT, before)
  assert stop.value.code == 143


def test_what_is_learnt_is_saved_before_an_evaluation_which_waits_for_the_next_start(tmp_path, monkeypatch):
  put_batch, calls, evaluated = sharding.put_batch, [], []

  def signalled(batch, mesh):
    calls.append(1)
    if len(calls) == 5:
      signal.raise_signal(signal.SIGTERM)
    return put_batch(batch, mesh)

  def evaluate(self, state):
    evaluated.append((tmp_path / "checkpoints" / str(int(state.step))).exists())
    return {}

  monkeypatch.setattr(sharding, "put_batch", signalled)
  monkeypatch.setattr(loop._Evaluation, "__call__", evaluate)
  config = run_case.smoke({"eval_every": 1, "eval_batches": 0})
  with pytest.raises(SystemExit):
    loop.train(config, tmp_path)
  assert evaluated == [False, False, False]
  loop.train(config, tmp_path)
  assert evaluated[3:5] == [True, False]  # of step 4, which was saved, and of 5
