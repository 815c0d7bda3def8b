"""A run that is killed at any moment and started again ends with the parameters of one that was not."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 400


def command(workdir):
  keys = {"steps": STEPS, "checkpoint_every": 20, "log_every": 10, "eval_every": 150}
  return [
    sys.executable,
    "-m",
    "experiments.train",
    "--config=experiments/configs/gmm.py:smoke",
    f"--workdir={workdir}",
    *(f"--config.{key}={value}" for key, value in keys.items()),
  ]


def finish(workdir):
  done = subprocess.run(command(workdir), cwd=ROOT, capture_output=True, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def run_and_kill(workdir, wait):
  """Starts the run, kills it `wait` seconds after its first progress line; False if it ended before."""
  with subprocess.Popen(command(workdir), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
    process.stdout.readline()
    time.sleep(wait)
    alive = process.poll() is None
    os.kill(process.pid, signal.SIGKILL) if alive else None
  return alive


def metrics(workdir):
  lines = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
  values = {(line["step"], line["name"]): line["value"] for line in lines}
  assert len(values) == len(lines), "a step was logged twice"
  return values


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_killed_equals_uninterrupted(kills, tmp_path):
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  expected = finish(whole)
  rng = random.Random()  # other moments every time: none may matter
  killed = sum(run_and_kill(broken, rng.uniform(0.0, 1.0)) for _ in range(kills))
  assert killed, "the run ended before it could be killed: raise STEPS"
  actual = finish(broken)
  assert actual["params_sha256"] == expected["params_sha256"]
  # Not all losses: the mean over a logging window begins anew with the process.
  held_out = {key: value for key, value in metrics(whole).items() if key[1].startswith("held_out")}
  again = metrics(broken)
  assert {key: again[key] for key in held_out} == held_out
