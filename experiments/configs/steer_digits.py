"""Scanned digits steered, without a label, to seven parts of one class and three of another.

python -m experiments.classifier --config=experiments/configs/classifier_digits.py --workdir=runs/classifier
python -m experiments.steer --config=experiments/configs/steer_digits.py --workdir=runs/digits

The reward is log sum_c w_c p(c | x) by the classifier; another one, independent of it, judges the samples.
Hardware: 2 CPU cores. Expected: docs/benchmarks.md.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.steer()
  config.reward.name = "classes"
  config.reward.classifier = "runs/classifier"
  config.reward.classes = (0.0, 0.0, 0.0, 0.7, 0.0, 0.0, 0.0, 0.3, 0.0, 0.0)  # threes and sevens
  config.methods = ("base", "best_of_n", "dps", "mfm_gf", "mfm_g")  # hybrid, smc and search by --method
  config.sampler, config.steps = "sde", 32
  config.mfm_gf.draws = 32
  config.dps.scales = (0.125, 0.25, 0.5, 1.0, 2.0)
  config.num, config.seeds, config.smc.particles = 96, 3, 96
  return common.finish_steer(config, mode)
