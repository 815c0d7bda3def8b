"""Scanned 8x8 digits, class-conditional: the run of `make demo`.

python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits

Hardware: 2 CPU cores. Expected: docs/benchmarks.md.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.default("digits")
  config.steps = 2_500
  config.batch_size = 128
  config.model.name, config.model.width, config.model.depth = "vit", 128, 4
  config.model.patch = 4
  config.draws.label_dropout = 0.4  # posteriors and steering use the map without a label
  config.loss.weighting = "l2"
  config.optimizer.learning_rate = 1e-3
  config.ema = (0.99, 0.998)
  config.log_every, config.eval_every, config.checkpoint_every = 100, 1_250, 500
  return common.finish(config, mode)
