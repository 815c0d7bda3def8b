"""A plain flow on the CIFAR-10 of cifar10.py: the teacher of cifar10_distill.py.

python -m experiments.train --config=experiments/configs/cifar10_flow.py --workdir=runs/cifar10_flow

Hardware: an accelerator; not run yet.
"""

from experiments.configs import cifar10


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = cifar10.get_config(mode)
  config.loss.consistency = "none"
  return config
