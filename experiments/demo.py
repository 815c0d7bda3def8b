"""A Meta Flow Map on real scanned digits, from nothing to a report, on a laptop CPU: `make demo`.

Trains experiments/configs/digits.py (or resumes), samples in 1 and 4 steps, lets an independent classifier
judge, draws posteriors of noisy test digits, steers the map to a mixture of two classes by every method
(experiments/configs/steer_digits.py), and writes report.html into the run folder (as `experiments.report`).
"""

import pathlib
import time

from absl import flags
from ml_collections import config_flags

from experiments import cli
from experiments.configs import classifier_digits, steer_digits
from mfm_jax.training import demo, demo_steering, loop, run_report
from mfm_jax.training.classifier import ClassifierConfig
from mfm_jax.training.config import from_dict
from mfm_jax.training.steer_config import SteerConfig

_CONFIG = cli.define_config("digits")
_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Run folder.")


def main():
  """Trains, judges, steers, reports."""
  start, workdir = time.monotonic(), pathlib.Path(_WORKDIR.value)
  config = cli.config(_CONFIG)
  mode = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[2]
  print("1/4 training a Meta Flow Map on 1,437 scanned digits", flush=True)
  trained = loop.train(config, workdir)
  print("2/4 sampling and judging", flush=True)
  figures = demo.judge_samples(workdir)
  print("3/4 steering to a mixture of two classes by every method", flush=True)
  figures |= demo_steering.run_steering(
    from_dict(SteerConfig, steer_digits.get_config(mode).to_dict()),
    from_dict(ClassifierConfig, classifier_digits.get_config(mode).to_dict()),
    workdir,
  )
  print("4/4 writing the report", flush=True)
  seconds = round(time.monotonic() - start, 1)
  cli.report(workdir, "demo", of=trained["params_sha256"])
  path = workdir / run_report.FILE
  print(f"open {path} in a browser", flush=True)
  return {"report": str(path), **figures, **trained, "seconds_total": seconds}


if __name__ == "__main__":
  cli.run(main)
