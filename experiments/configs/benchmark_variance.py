"""Estimators of grad V at equal draws: MFM-GF, MFM-G and their hybrid, by schemes of draws (MATH 11).

python -m experiments.benchmark --suite=variance --oracle --workdir=runs/benchmark_variance
python -m experiments.benchmark --suite=variance --run=runs/gmm --workdir=runs/benchmark_variance_map

The first with the exact posterior map of the paper's mixture; a quadratic and the paper's sharp reward.
Hardware: 2 CPU cores, 10 minutes. Expected: docs/benchmarks.md.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.benchmark(kind="variance")
  return common.finish_benchmark(config, mode)
