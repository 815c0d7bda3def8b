"""A map of the paper's mixture, fine-tuned to a broad quadratic reward about (2, 2) (MFM-FT, paper Eq. 43).

python -m experiments.train --config=experiments/configs/gmm.py --workdir=runs/gmm
python -m experiments.finetune --config=experiments/configs/finetune_gmm.py --workdir=runs/gmm_ft
python -m experiments.sample --workdir=runs/gmm_ft --num=4096

Hardware: 2 CPU cores. Expected: docs/benchmarks.md. Bar: 4096 samples within sliced W2 0.25 and squared MMD
3e-3 of the exact tilt (the base is at 2.3 and 0.11).
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.finetune("runs/gmm")
  config.reward.name, config.reward.centre, config.reward.sigma = "quadratic", (2.0, 2.0), 2.0
  config.draws.per_state = 4
  config.steps, config.batch_size = 1_000, 256
  config.optimizer.learning_rate = 1e-3
  config.ema = (0.99, 0.999)
  config.log_every, config.eval_every, config.checkpoint_every = 100, 500, 500
  config.eval_num = 4096
  return common.finish_finetune(config, mode)
