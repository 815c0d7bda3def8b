"""A convolutional classifier of the scanned digits, for the class reward of steer_digits.py.

python -m experiments.classifier --config=experiments/configs/classifier_digits.py --workdir=runs/classifier

Hardware: 2 CPU cores, seconds. Expected: docs/benchmarks.md.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.classifier("digits")
  config.steps, config.batch_size, config.width = 600, 128, 16
  config.optimizer.name, config.optimizer.learning_rate = "adamw", 2e-3
  config.optimizer.weight_decay, config.optimizer.warmup = 1e-2, 50
  return common.finish_classifier(config, mode)
