"""MFM-B/2 on ImageNet-256 latents, distilled from SiT-B/2 and started at it (paper, Table 5).

python -m experiments.convert --from=<SiT-B/2 weights> --kind=sit --to=runs/sit_b2
python -m experiments.train --config=experiments/configs/imagenet_b2_distill.py \\
    --workdir=runs/imagenet_b2_distill --config.data.path=<as in imagenet_b2.py>

SiT's data lie at time 1, and its output has a second half that is not used. For weights with data at time 0
(--data_at=zero): --config.model.dit.reverse_time=True. A teacher that lies elsewhere: --config.teacher=<run>
--config.init=<run>. Hardware: an accelerator; not run yet.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.imagenet("B", batch_size=512, diagonal_power=0.5)
  config.model.dit.learn_sigma = True
  return common.finish_noise(common.from_teacher(config, "runs/sit_b2"), mode)
