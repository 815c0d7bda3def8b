"""The paper's mixture in the plane (7.1.1): a map from data by the semigroup objective.

python -m experiments.train --config=experiments/configs/gmm.py --workdir=runs/gmm

Hardware: 2 CPU cores. Expected: docs/benchmarks.md. Bar: relative sliced W2 of one-step posterior draws
<= 0.13 at every t (`python -m experiments.evaluate --workdir=runs/gmm --metrics=posterior,value`).
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.default("mixture")
  config.data.labelled = False
  config.steps = 5_000
  config.batch_size = 512
  config.model.name, config.model.width, config.model.depth = "mlp", 128, 3
  config.loss.weighting = "l2"  # with the weight of MATH 9; adaptive is for heavy-tailed image errors
  config.optimizer.learning_rate = 2e-3
  config.ema = (0.99, 0.999)
  config.log_every, config.eval_every, config.checkpoint_every = 500, 2_500, 1_000
  return common.finish(config, mode)
