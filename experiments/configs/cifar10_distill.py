"""A Meta Flow Map on the CIFAR-10 of cifar10.py, distilled from, and started at, the flow of cifar10_flow.py.

python -m experiments.train --config=experiments/configs/cifar10_flow.py --workdir=runs/cifar10_flow
python -m experiments.train --config=experiments/configs/cifar10_distill.py --workdir=runs/cifar10_distill

Hardware: an accelerator; not run yet.
"""

from experiments.configs import cifar10


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = cifar10.get_config(mode)
  config.teacher = config.init = "runs/cifar10_flow"
  config.loss.diagonal, config.loss.consistency = "teacher", "eulerian_teacher"
  return config
