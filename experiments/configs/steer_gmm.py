"""The paper's mixture steered to its sharp likelihood (7.1.1), by every method.

python -m experiments.steer --config=experiments/configs/steer_gmm.py --workdir=runs/gmm
python -m experiments.steer --config=experiments/configs/steer_gmm.py --workdir=runs/oracle \\
    --config.teacher=oracle --method=mfm_gf,dps

The first steers a run of gmm.py, the second the closed-form posteriors, where what is left is the estimator's
error (MFM-G is far slower there: it is differentiated through the posterior's ODE). --config.sampler=ode
integrates the flow instead of the SDE, --config.mfm_gf.draws=8 makes all of them cheaper.
Hardware: 2 CPU cores. Expected: docs/benchmarks.md.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.steer()
  config.reward.name, config.reward.sigma = "likelihood", 0.2
  config.sampler, config.steps = "sde", 250
  config.mfm_gf.draws = 32
  # A sharp reward makes single gradients huge: MFM-G's are kept within what weights of its draws can give.
  # Without the jackknife, whose differences add to the noise that it cuts: chosen on a reward of sigma .4.
  config.mfm_g.bounded, config.mfm_g.jackknife = True, 1
  config.num, config.seeds, config.smc.particles = 4096, 1, 4096
  return common.finish_steer(config, mode)
