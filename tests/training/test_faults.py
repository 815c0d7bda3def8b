"""What goes wrong in a training centre: a full disk, a host that dies."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import run_case
from test_interruption import FLAGS
from test_sharding import start_two

from mfm_jax.training import loop

# No file may grow beyond 20 kB, as on a disk that is full.
FULL = """
import resource, signal, sys
import run_case
from mfm_jax.training import loop

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
loop.train(run_case.smoke(), sys.argv[1])
"""


def test_a_full_disk_stops_the_run_at_the_save_that_failed(finished, tmp_path):
  shutil.copytree(finished, tmp_path / "run")
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "20")
  (tmp_path / "run" / "summary.json").unlink()
  done = subprocess.run(
    [sys.executable, "-c", FULL, str(tmp_path / "run")],
    env=run_case.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  said = r"SaveError: step 20 could not be saved: .*; last good checkpoint: step 10 in "
  assert re.search(said, done.stderr, flags=re.MULTILINE), done.stderr
  summary = loop.train(run_case.smoke(), tmp_path / "run")
  assert summary["params_sha256"] == json.loads((finished / "summary.json").read_text())["params_sha256"]


@pytest.mark.slow
def test_one_of_two_processes_killed(tmp_path):
  """The other ends with an error, and both go on from the last checkpoint."""
  flags = [flag for flag in FLAGS if "checkpoint_every" not in flag]
  command = [sys.executable, "-m", "experiments.train", *flags, "--config.checkpoint_every=20"]
  command.append(f"--workdir={tmp_path / 'run'}")
  processes = start_two(command, devices=1)
  for line in processes[0].stdout:
    if line.startswith("step 100/"):
      break
  processes[1].send_signal(signal.SIGKILL)
  said = processes[0].communicate(timeout=240)[0]
  processes[1].communicate()
  assert processes[0].returncode != 0, said
  again = start_two(command, devices=1)
  said = [process.communicate(timeout=240)[0] for process in again]
  assert [process.returncode for process in again] == [0, 0], said
  found = re.search(r"resuming .* at step (\d+) of 400", said[0])
  assert int(found[1]) >= 60
  assert '"steps": 400' in said[0].splitlines()[-1]


@pytest.mark.slow
def test_twenty_kills_at_random_during_one_run_of_digits(tmp_path):
  """Some while it starts, some while it trains or saves."""
  config = run_case.ROOT / "experiments/configs/digits.py"
  changes = {"steps": 400, "log_every": 5, "checkpoint_every": 10, "eval_every": 0, "eval_batches": 1}
  flags = [f"--config={config}", *[f"--config.{key}={value}" for key, value in changes.items()]]

  def command(name):
    return [sys.executable, "-m", "experiments.train", *flags, f"--workdir={tmp_path / name}"]

  where = {"stdout": subprocess.PIPE, "text": True, "env": run_case.environment(), "cwd": run_case.ROOT}
  whole = json.loads(subprocess.run(command("whole"), check=True, **where).stdout.splitlines()[-1])
  rng = random.Random(0)
  for kill in range(20):
    with subprocess.Popen(command("killed"), **where) as process:
      if kill % 4:
        for line in process.stdout:  # once it trains
          if line.startswith("step "):
            break
        time.sleep(rng.uniform(0, 0.5))
      else:
        time.sleep(rng.uniform(0, 8))
      process.kill()
      process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run must be long enough for twenty kills"
  done = json.loads(subprocess.run(command("killed"), check=True, **where).stdout.splitlines()[-1])
  assert done["params_sha256"] == whole["params_sha256"]
  assert run_case.metrics(tmp_path / "killed") == run_case.metrics(tmp_path / "whole")
