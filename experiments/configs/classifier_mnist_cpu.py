"""classifier_mnist.py at the 16x16 of mnist_cpu.py.

python -m experiments.classifier --config=experiments/configs/classifier_mnist_cpu.py \\
    --workdir=runs/classifier_mnist_cpu

Hardware: 2 CPU cores, half a minute.
"""

from experiments.configs import classifier_mnist


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = classifier_mnist.get_config(mode)
  with config.unlocked():
    config.data.pool, config.width = 2, 16
  return config
