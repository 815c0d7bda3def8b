"""Inpainting of scanned digits: are posterior samples by steering as spread as they should be?

python -m experiments.benchmark --suite=inpainting --workdir=runs/benchmark_inpainting
python -m experiments.benchmark --suite=inpainting --run=runs/digits --workdir=runs/benchmark_inpainting

Every test digit (360) with the right and with the lower half hidden: 720 observations with noise of standard
deviation .2, 19 samples of the posterior of each by MFM-GF without a label. The settings were chosen on
training digits. Bar: central intervals of nominal 90 % cover between 80 % and 97 % of the hidden pixels whose
posterior standard deviation is at least .05. Hardware: 2 CPU cores. Expected: docs/benchmarks.md.
"""

from experiments.configs import common, digits


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.benchmark(kind="inverse", run=digits.get_config(mode))
  config.inverse.rows = 1_140
  return common.finish_benchmark(config, mode)
