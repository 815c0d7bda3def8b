"""The paper's mixture (7.1.1): every method against the number of draws, by ODE and SDE.

python -m experiments.benchmark --suite=gmm --workdir=runs/benchmark_gmm
python -m experiments.benchmark --suite=gmm --oracle --workdir=runs/benchmark_gmm_oracle

The second has closed-form posteriors, so that only the estimators' error is left (MFM-G and the hybrid are
far slower there: they are differentiated through the posterior's ODE). 4096 samples against 4096 exact ones,
three sampling seeds. The paper: 1000 steps (--config.steer.steps=1000), 20 seeds of SMC.
Hardware: 2 CPU cores, several hours in full; a part: --config.draws=2,8,32 --config.steer.steps=100, and
--config.steer.methods=... Expected: docs/benchmarks.md.
"""

from experiments.configs import common, gmm, steer_gmm


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.benchmark(run=gmm.get_config(mode), steer=steer_gmm.get_config())
  config.steer.seeds = 3
  config.steer.smc.particles = 4096
  config.draws_g = config.draws[1:]  # the bound of MFM-G needs two draws
  return common.finish_benchmark(config, mode)
