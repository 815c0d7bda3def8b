"""MFM-XL/2 on ImageNet-256 latents, distilled from DMF-XL/2+ and started at it: the published run (Table 5).

python -m experiments.convert --from=<DMF-XL/2+ weights> --kind=dmf --to=runs/dmf_xl2
python -m experiments.train --config=experiments/configs/imagenet_xl2_distill.py \\
    --workdir=runs/imagenet_xl2_distill --config.data.path=<as in imagenet_b2.py>

The teacher was trained with guidance (teacher_guidance 2.5, the published .6). Ours also trains scale 1 with
labels (guidance_base_rate; published 0). A teacher that lies elsewhere: --config.teacher=<run>
--config.init=<run>. Published: FID 1.97 with 4 steps. Hardware: an accelerator; not run yet.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.imagenet("XL", batch_size=360, diagonal_power=1.0)
  config.model.dit.reverse_time = True  # DMF's data lie at time 0
  return common.finish_noise(common.from_teacher(config, "runs/dmf_xl2", built_in=2.5), mode)
