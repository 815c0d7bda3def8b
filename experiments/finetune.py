"""Fine-tunes a trained map to a reward (MFM-FT); the same command resumes it.

python -m experiments.finetune --config=experiments/configs/finetune_gmm.py --workdir=runs/gmm_ft
"""

from absl import flags

from experiments import cli
from mfm_jax.training.finetune import finetune
from mfm_jax.training.finetune_config import FinetuneConfig

_CONFIG = cli.define_config(kind=FinetuneConfig)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the fine-tuned run: new, empty, or of the same one."
)


def main():
  """Fine-tunes, writes the report; returns the summary."""
  if not _WORKDIR.value:
    raise ValueError("--workdir must name a run folder; got none")
  summary = finetune(cli.config(_CONFIG), _WORKDIR.value)
  cli.report(_WORKDIR.value, "finetune", of=summary.get("params_sha256", ""))
  return summary


if __name__ == "__main__":
  cli.run(main, processes=True)
