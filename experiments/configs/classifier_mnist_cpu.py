"""classifier_mnist.py at the 12x12 of mnist_cpu.py.

python -m experiments.classifier --config=experiments/configs/classifier_mnist_cpu.py \\
    --workdir=runs/classifier_mnist_cpu

Hardware: 2 CPU cores, half a minute.
"""

from experiments.configs import classifier_mnist


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = classifier_mnist.get_config(mode)
  config.steps *= 2
  with config.unlocked():
    config.data.size, config.data.pool, config.width = 24, 2, 32
  return config
