"""The paper's ImageNet experiment: single steered particles against Best-of-1000 over counted cost.

python -m experiments.benchmark --suite=imagenet_steering --run=runs/mfm_xl2 --workdir=runs/imagenet_steering

The settings, files and run of steer_imagenet.py. One reward is optimised, all five judge; 128 images a row,
error bars over them (--config.steer.seeds for seeds). Best-of-{1, 10, 100, 1000} of 128 groups (128,000
samples), DPS, MFM-GF and MFM-G by N, the search by M; lambda {1, 2.5, 5} for those that depend on it.
Published: the abstract's claim, and the counted cost, at 250 steps, of MFM-G with N = 1, 4, 16 (201, 59, 15
times less than Best-of-1000) and of MFM-GF with N = 1, 16 (335, 30; with one draw ours has no gradient, so
that the first has no row). Another reward: --config.steer.reward.name=hpsv2 with its preference.weights.
The rows by several machines with one folder: --part=0/4, ..., --part=3/4, then once without.
Smoke: trains imagenet_b2.py:smoke on noise, with random tiny networks for decoder, reward and judges.
Hardware: an accelerator; 1.0e8 passes by count, a third of them for Best-of-1000. Not run at this size;
rehearsed at toy size (docs/benchmarks.md).
"""

from experiments.configs import common, imagenet_b2, steer_imagenet

PUBLISHED = (
  ("mfm_g", 1, 201.0),
  ("mfm_g", 4, 59.0),
  ("mfm_g", 16, 15.0),
  ("mfm_gf", 1, 335.0),
  ("mfm_gf", 16, 30.0),
)


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  run = imagenet_b2.get_config(mode) if mode == "smoke" else None
  config = common.benchmark(run=run, steer=steer_imagenet.get_config(mode))
  config.samplers, config.draws = ("ode",), (1, 2, 4, 8, 16, 32)
  config.draws_best, config.particles = (1, 10, 100, 1000), (1, 2, 4, 8, 16, 32, 64)
  config.strengths = (1.0, 2.5, 5.0)
  names = ("method", "draws", "cost_ratio")
  config.published = tuple(dict(zip(names, figures, strict=True)) for figures in PUBLISHED)
  config.claim = "a single particle beats Best-of-1000 (abstract of arXiv:2601.14430)"
  steer = config.steer.to_dict()
  config = common.finish_benchmark(config, mode)
  if mode == "smoke":
    config.steer.update(steer)
    config.draws, config.draws_best, config.particles, config.strengths = (1, 2), (1, 3), (1,), (1.0, 5.0)
    config.run.steps = 4
  return config
