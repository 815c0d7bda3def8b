"""A Meta Flow Map on the digits of digits.py, distilled from the flow of digits_flow.py.

python -m experiments.train --config=experiments/configs/digits_flow.py --workdir=runs/digits_flow
python -m experiments.train --config=experiments/configs/digits_distill.py --workdir=runs/digits_distill

Both terms from the teacher by GLASS (MATH 4.2, 4.5). To compare with training from data at equal steps:
--config.steps=1000 here and with digits.py. Hardware: 2 CPU cores. Expected: docs/benchmarks.md.
"""

from experiments.configs import digits


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = digits.get_config(mode)
  config.teacher = "runs/digits_flow"
  config.loss.diagonal, config.loss.consistency = "teacher", "eulerian_teacher"
  return config
