"""Trains a classifier of clean data, for rewards that steer to classes.

python -m experiments.classifier --config=experiments/configs/classifier_digits.py --workdir=runs/classifier
"""

from absl import flags

from experiments import cli
from mfm_jax.training.classifier import ClassifierConfig, train_classifier

_CONFIG = cli.define_config(kind=ClassifierConfig)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the classifier: new, empty, or of the same one.")


def main():
  """Trains; returns the summary."""
  if not _WORKDIR.value:
    raise ValueError("--workdir must name a folder; got none")
  return train_classifier(cli.config(_CONFIG), _WORKDIR.value)


if __name__ == "__main__":
  cli.run(main)
