"""MNIST or Fashion-MNIST at 32x32 by a UNet of 8.6 M parameters, class-conditional, in pixel space.

python -m experiments.train --config=experiments/configs/mnist.py --workdir=runs/mnist \
    --config.data.path=<folder of idx files>

The paper's 7.1.2 uses MNIST and a UNet of 9 M. The folder holds train-images-idx3-ubyte[.gz] and its
sisters; without data.path it is $MFM_DATA_DIR/mnist. For a prepared TensorFlow Datasets copy:
--config.data.name=tfds/mnist. Hardware: one GPU; on a CPU use mnist_cpu.py or `mnist.py:smoke`. Not yet
measured at full length.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.default("idx")
  config.data.size = 32
  config.steps = 100_000
  config.batch_size = 256
  config.model.name, config.model.width, config.model.depth = "unet", 72, 2
  config.model.patch, config.model.multipliers = 4 if mode == "smoke" else 1, (1, 2, 3)
  config.draws.label_dropout = 0.5  # posteriors and steering use the map without a label
  config.draws.guidance_scales = (2.0,)
  # Adaptive weights leave a network that starts from scratch with its context unused for thousands of steps:
  # the consistency term, which a constant satisfies, then outweighs the diagonal.
  config.loss.weighting = "l2"
  config.optimizer.learning_rate = 3e-4
  config.optimizer.warmup = 2_000
  config.ema = (0.999, 0.9999)
  config.log_every, config.eval_every, config.checkpoint_every = 100, 5_000, 5_000
  return common.finish(config, mode)
