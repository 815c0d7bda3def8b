"""benchmark_variance.py on scanned digits: the class reward of steer_digits.py, states from held-out digits.

python -m experiments.benchmark --suite=variance_digits --workdir=runs/benchmark_variance_digits

With --run=runs/digits it trains no map. No closed form is known: 1024 draws of the hybrid stand for the
truth. Hardware: 2 CPU cores. Expected: docs/benchmarks.md.
"""

from experiments.configs import classifier_digits, common, digits, steer_digits


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.benchmark(
    kind="variance", run=digits.get_config(mode), classifier=classifier_digits.get_config(mode)
  )
  reward = steer_digits.get_config().reward.to_dict()
  config.variance.rewards = ({**reward, "classifier": ""},)
  config.variance.states, config.variance.repeats, config.variance.reference = 64, 3, 1_024
  return common.finish_benchmark(config, mode)
