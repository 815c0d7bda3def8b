"""A map of ImageNet-256 latents fine-tuned to HPSv2, with a prompt for each class, at the paper's settings.

python -m experiments.finetune --config=experiments/configs/finetune_imagenet.py --workdir=runs/imagenet_ft \\
    --config.base=runs/mfm_xl2

The paper: HPSv2, prompts by class, lambda (multiplier) in {10, 25, 50}, 10,000 steps, 512 samples by the ODE
every 500; its code: RAdam from 1e-4 with a warm-up of 250, batches of 18, averages of .999. Ours has four
draws a state where the code has one, and sigma^2 of the interpolant where that has a constant 200, whose
fixed point is not the tilted law (MFM-FT, eq. 43; --config.loss.sigma_squared=200). Several devices need a
batch that they divide. Labels alone are trained, at guidance 2.5, because the null label has no prompt.
`class_names` is imagenet_class_index.json or a text, a name a line; the base's data must be there
(config.data of its run; --data of `convert`).
One draw of a state is alive at a time (loss.chunk), decode and reward are rematerialised. The other four of
`common.WEIGHTS` judge the samples of every panel; --config.judges=() does without them.
Smoke: a base of imagenet_*.py:smoke in runs/smoke, with random tiny networks for decoder, reward and judge.
Hardware: an accelerator. Not run at this size; rehearsed at toy size (docs/benchmarks.md).
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.finetune("runs/smoke" if mode == "smoke" else "runs/mfm_xl2")
  names = "weights/imagenet_class_index.json"
  reward, judges = "hpsv2", [name for name in common.WEIGHTS if name != "hpsv2"]
  if mode == "smoke":  # the fastest to compile
    judges = ["aesthetic"]
  config.reward.update(common.preference(reward, mode, class_names=names))
  config.judges = tuple(common.preference(name, mode, class_names=names) for name in judges)
  config.multiplier = 10.0
  config.decoder = "random:tiny" if mode == "smoke" else "weights/sd-vae-ft-mse"
  config.draws.per_state, config.draws.label_dropout, config.draws.guidance = 4, 0.0, 2.5
  config.loss.chunk = 1
  config.steps, config.batch_size = 10_000, 18
  config.optimizer.name, config.optimizer.learning_rate = "radam", 1e-4
  config.optimizer.schedule, config.optimizer.warmup, config.optimizer.clip = "constant", 250, 1.5
  config.ema = (0.999,)
  config.log_every, config.eval_every, config.checkpoint_every = 50, 500, 500
  config.eval_num = 512
  config = common.finish_finetune(config, mode)
  if mode == "smoke":
    config.steps, config.batch_size, config.eval_num, config.eval_every = 4, 4, 4, 0
    config.log_every, config.checkpoint_every = 2, 4
  return config
