"""A plain flow on the digits of digits.py: the teacher of digits_distill.py.

python -m experiments.train --config=experiments/configs/digits_flow.py --workdir=runs/digits_flow

Hardware: 2 CPU cores.
"""

from experiments.configs import digits


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = digits.get_config(mode)
  config.loss.consistency = "none"
  return config
