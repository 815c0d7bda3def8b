"""Trains a Meta Flow Map, or a plain flow (loss.consistency=none); the same command resumes it.

python -m experiments.train --config=experiments/configs/gmm.py --workdir=runs/gmm
"""

from absl import flags

from experiments import cli
from mfm_jax.training import loop

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder: new, empty, or of the same run.")


def main():
  """Trains; returns the summary."""
  if not _WORKDIR.value:
    raise ValueError("--workdir must name a run folder; got none")
  return loop.train(cli.config(_CONFIG), _WORKDIR.value)


if __name__ == "__main__":
  cli.run(main)
