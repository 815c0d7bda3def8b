"""CIFAR-10 in pixel space by a small transformer, class-conditional.

python -m experiments.train --config=experiments/configs/cifar10.py --workdir=runs/cifar10
python -m experiments.train --config=experiments/configs/cifar10.py --workdir=runs/cifar10 \\
    --config.data.name=strips --config.data.path=<folder of strips>

The first reads CIFAR-10 as TensorFlow Datasets has prepared it. Hardware: an accelerator; not run yet.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.default("tfds/cifar10")
  config.data.shape = (32, 32, 3)
  config.model.name, config.model.patch = "dit", 2
  config.model.width, config.model.depth, config.model.heads, config.model.dit.encoder_depth = 384, 8, 6, 5
  config.model.dit.guidance = "continuous"
  config.model.dtype = "bfloat16"
  config.draws.label_dropout, config.draws.guidance_scales = 0.2, (2.0,)
  config.loss.weighting = "l2"
  config.optimizer.learning_rate, config.optimizer.warmup = 5e-4, 1_000
  config.steps, config.batch_size, config.ema = 40_000, 256, (0.999, 0.9999)
  config.log_every, config.eval_every, config.checkpoint_every = 100, 5_000, 2_500
  return common.finish_noise(config, mode)
