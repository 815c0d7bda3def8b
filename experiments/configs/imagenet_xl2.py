"""MFM-XL/2 on ImageNet-256 latents, from data: the published hyper-parameters (paper, Table 5).

python -m experiments.train --config=experiments/configs/imagenet_xl2.py --workdir=runs/imagenet_xl2 \\
    --config.data.path=<as in imagenet_b2.py>

imagenet_xl2_distill.py is the published run, from a teacher. Hardware: an accelerator; not run yet.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  return common.finish_noise(common.imagenet("XL", batch_size=360, diagonal_power=1.0), mode)
