"""Trains a Meta Flow Map, or a plain flow (loss.consistency=none); the same command resumes it.

python -m experiments.train --config=experiments/configs/gmm.py --workdir=runs/gmm
python -m experiments.train --config=experiments/configs/imagenet_xl2_distill.py --dry_run

The second compiles the train step from shapes alone and prints parameters, FLOPs and memory.
"""

from absl import flags

from experiments import cli
from mfm_jax.training import dry_run, loop

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder: new, empty, or of the same run.")


_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Compile the train step, print what it takes, train nothing.")


def main():
  """Trains, writes the report; returns the summary."""
  if _DRY_RUN.value:
    return dry_run.dry_run(cli.config(_CONFIG))
  if not _WORKDIR.value:
    raise ValueError("--workdir must name a run folder; got none")
  summary = loop.train(cli.config(_CONFIG), _WORKDIR.value)
  cli.report(_WORKDIR.value, "train", of=summary.get("params_sha256", ""))
  return summary


if __name__ == "__main__":
  cli.run(main, processes=True)
