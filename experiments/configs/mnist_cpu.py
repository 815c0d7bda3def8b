"""MNIST at 12x12 by a UNet small enough for two CPU cores, class-conditional, in pixel space.

python -m experiments.train --config=experiments/configs/mnist_cpu.py --workdir=runs/mnist_cpu

The middle 24x24 of every picture (the digits lie in 20x20), averaged over squares of 2x2; patches of 2x2 put
the work at 6x6 and 3x3. Most training is without a label, as steering uses it.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.default("idx")
  config.data.size, config.data.pool = 24, 2
  config.steps = 11_500
  config.batch_size = 128
  config.model.name, config.model.width, config.model.depth = "unet", 32, 1
  config.model.patch, config.model.multipliers = 2, (1, 2)
  config.draws.label_dropout = 0.9  # posteriors and steering use the map without a label
  config.loss.weighting = "l2"
  config.loss.warmup = 7_000  # a step of the diagonal alone costs 3 evaluations, with the semigroup 8
  config.optimizer.learning_rate = 2e-3
  config.ema = (0.99, 0.998)
  config.log_every, config.eval_every, config.checkpoint_every = 100, 2_500, 500
  return common.finish(config, mode)
