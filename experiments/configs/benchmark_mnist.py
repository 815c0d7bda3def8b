"""MNIST steered to a mixture of classes (the paper's 7.1.2): every method against the number of draws.

python -m experiments.benchmark --suite=mnist --workdir=runs/benchmark_mnist \
    --config.run.data.path=<folder of idx files> --config.classifier.data.path=<the same>

Without the paths: $MFM_DATA_DIR/mnist. Trains the map of mnist.py (9 million parameters) and the classifier
of the reward, steers without a label to a tenth of ones and of threes, two tenths of fives and of sevens, and
four of nines. Figure: L2 between the class proportions, by a judge that is independent of the reward, and
these weights. 4096 samples, 500 steps, three seeds; SMC by populations of 64. DPS has a row with 500 steps
and one with as many as the cost of MFM-GF with N = 16 buys.
Hardware: one GPU. Not yet measured; benchmark_mnist_cpu.py is its small version.
"""

from experiments.configs import classifier_mnist, common, mnist

WEIGHTS = (0.0, 0.1, 0.0, 0.1, 0.0, 0.2, 0.0, 0.2, 0.0, 0.4)


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.benchmark(run=mnist.get_config(mode), classifier=classifier_mnist.get_config(mode))
  steer = config.steer
  steer.reward.name, steer.reward.classes = "classes", WEIGHTS
  steer.steps, steer.num, steer.seeds = 500, 4096, 3
  steer.rows, steer.tuning = 8192, 3
  steer.dps.scales = (0.125, 0.25, 0.5, 1.0, 2.0)
  steer.smc.particles = 64
  config.samplers, config.draws = ("sde",), (1, 2, 4, 8, 16, 32)
  config.dps_steps = (0, 4_125)
  return common.finish_benchmark(config, mode)
