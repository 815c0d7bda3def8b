"""ImageNet-256 latents steered to human preference within a class, at the paper's settings.

python -m experiments.steer --config=experiments/configs/steer_imagenet.py --workdir=runs/mfm_xl2
python -m experiments.steer --config=experiments/configs/steer_imagenet.py --workdir=runs/mfm_xl2 \\
    --method=mfm_g --config.mfm_g.draws=1 --config.reward.weight=2.5

The paper: probability-flow ODE, 250 Euler steps from t = .01, steering of the drift's own norm
(renormalise=rescale, limit 1), class 281 and its prompt, 128 images, lambda (reward.weight) in {1, 2.5, 5},
N in {1, ..., 32}; MFM-GF needs two. The search has the 8 particles x 4 draws of its code.
ImageReward is optimised, all five judge. Files: those of `common.WEIGHTS`, published at the addresses that a
missing one is reported with; --config.judges=() does without the others,
--config.judges[1].preference.weights=... names another file. --config.decoder is the Stable Diffusion
autoencoder. The run is one of imagenet_*.py or a converted one, at guidance 2.5.
Smoke: a run of imagenet_*.py:smoke, with random tiny networks for decoder, reward and judges.
Hardware: an accelerator. Not run at this size; rehearsed at toy size (docs/benchmarks.md).
"""

from experiments.configs import common

LABEL, PROMPT = 281, "A high-quality, high-resolution photograph of a tabby cat."


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.steer()
  reward, judges = "imagereward", tuple(common.WEIGHTS)
  if mode == "smoke":  # the fastest to compile
    reward, judges = "aesthetic", ("imagereward", "clip")
  config.reward.update(common.preference(reward, mode, prompt=PROMPT))
  config.judges = tuple(common.preference(name, mode, prompt=PROMPT) for name in judges)
  config.label, config.guidance = LABEL, 2.5
  config.decoder = "weights/sd-vae-ft-mse"
  config.methods = ("base", "best_of_n", "dps", "mfm_gf", "mfm_g", "search")
  config.sampler, config.steps, config.start, config.power = "ode", 250, 0.01, 1.0
  for name in ("dps", "mfm_gf", "mfm_g", "hybrid"):
    config[name].renormalise, config[name].limit = "rescale", 1.0
    config[name].jackknife, config[name].scheme = 1, "independent"
  config.mfm_gf.draws = 16
  config.search.particles, config.search.draws = 8, 4
  config.search.selection, config.search.steps, config.search.power = "overall", 250, 2.5
  config.num, config.seeds, config.rows = 128, 1, 128
  config = common.finish_steer(config, mode)
  if mode == "smoke":
    config.label, config.guidance, config.decoder = 1, 0.0, "random:tiny"
    config.steps, config.num, config.seeds, config.rows = 2, 4, 1, 4
    config.mfm_gf.draws, config.mfm_g.draws, config.best_of_n.draws = 2, 1, 2
    config.search.particles, config.search.draws, config.search.steps = 2, 1, 2
  return config
