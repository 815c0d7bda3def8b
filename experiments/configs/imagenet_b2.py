"""MFM-B/2 on ImageNet-256 latents, from data: the published hyper-parameters (paper, Table 5).

python -m experiments.prepare_latents --source=<ImageNet> --vae=<sd-vae-ft-mse> --out=latents [--split=test]
python -m experiments.train --config=experiments/configs/imagenet_b2.py --workdir=runs/imagenet_b2 \\
    --config.data.path=latents

With --config.data.name=arrays it is a folder of train.npz and test.npz: latents (n, 32, 32, 4) times .18215,
and labels.
imagenet_b2_distill.py is the same from a teacher. Hardware: an accelerator; not run yet.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  return common.finish_noise(common.imagenet("B", batch_size=512, diagonal_power=0.5), mode)
