"""One HTML page of whatever a run folder holds; train, steer, finetune and demo write it when they are done.

python -m experiments.report --workdir=runs/gmm
"""

from absl import flags

from experiments import cli
from mfm_jax.training import run_report

_WORKDIR = flags.DEFINE_string("workdir", "", "Run folder, of a run that still trains as well.")


def main():
  """Writes report.html into the folder; returns its path, size and sections."""
  if not _WORKDIR.value:
    raise ValueError("--workdir must name a run folder; got none")
  done = run_report.write(_WORKDIR.value)
  print(f"open {done['path']} in a browser", flush=True)
  return done


if __name__ == "__main__":
  cli.run(main)
