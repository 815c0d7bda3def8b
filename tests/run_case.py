"""A run that trains in seconds, shared by the tests of training and of the entry points."""

import json
import os
import pathlib
from typing import Any

from experiments.configs import gmm
from mfm_jax.training.config import RunConfig, from_dict

ROOT = pathlib.Path(__file__).resolve().parents[1]
# One size for all tests, so that they share compiled programs.
SIZE = {
  "model.width": 16,
  "model.depth": 1,
  "optimizer.schedule": "constant",  # so that the number of steps is not part of the program
  "ema": (0.5, 0.999),
  "eval_every": 0,
  "eval_batches": 1,
  "data.test_size": 256,
}
FLAGS = [
  f"--config={ROOT / 'experiments/configs/gmm.py'}:smoke",
  *[f"--config.{key}={value}" for key, value in SIZE.items()],
]


def smoke(changes: dict[str, Any] | None = None) -> RunConfig:
  """gmm.py:smoke at SIZE with `changes`, whose keys are dotted: 20 steps, a checkpoint every 10."""
  config = gmm.get_config("smoke").to_dict()
  for path, value in {**SIZE, **(changes or {})}.items():
    *groups, name = path.split(".")
    group = config
    for key in groups:
      group = group[key]
    group[name] = value
  return from_dict(RunConfig, config)


def metrics(workdir: pathlib.Path) -> dict[tuple[int, str], float]:
  """(step, name) -> value of metrics.jsonl; no pair may come twice."""
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  out = {(line["step"], line["name"]): line["value"] for line in lines}
  assert len(out) == len(lines)
  return out


def environment(**changes: str) -> dict[str, str]:
  """The environment of a program that a test starts."""
  path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
  return {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), **changes}
