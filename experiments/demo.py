"""A Meta Flow Map on real scanned digits, from nothing to a report, on a laptop CPU: `make demo`.

Trains experiments/configs/digits.py (or resumes), samples in 1 and 4 steps, lets an independent classifier
judge, draws posteriors of noisy test digits, and writes report.html into the run folder.
"""

import pathlib
import time

from absl import flags

from experiments import cli
from mfm_jax.training import demo, loop

_CONFIG = cli.define_config("experiments/configs/digits.py")
_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Run folder.")


def main():
  """Trains, judges, reports."""
  start = time.monotonic()
  config = cli.run_config(_CONFIG)
  print("1/3 training a Meta Flow Map on 1,437 scanned digits", flush=True)
  trained = loop.train(config, _WORKDIR.value)
  print("2/3 sampling and judging", flush=True)
  figures = demo.judge_samples(_WORKDIR.value)
  print("3/3 drawing posteriors and writing the report", flush=True)
  seconds = round(time.monotonic() - start, 1)
  path = demo.write_report(pathlib.Path(_WORKDIR.value), figures, trained, seconds)
  print(f"open {path} in a browser", flush=True)
  return {"report": str(path), **figures, **trained, "seconds_total": seconds}


if __name__ == "__main__":
  cli.run(main)
