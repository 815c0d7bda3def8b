"""FID of a trained map on ImageNet 256, and of its posterior draws (paper, section 7; K-step refinement).

python -m experiments.benchmark --suite=imagenet_fid --run=runs/imagenet_xl2 --workdir=runs/benchmark_fid \\
    --config.steer.decoder=<sd-vae-ft-mse> --config.fid.images.inception=<weights> \\
    --config.fid.images.reference=VIRTUAL_imagenet256_labeled.npz

50,000 samples of balanced labels in 1, 2 and 4 steps; 50,000 training pictures noised to t in
{0, .1, .2, .5}, one draw of each. Without the reference: the run's own training data, decoded. Resumable row
by row, in any number of processes. Published: 1.97 with 4 steps for MFM-XL/2 (second-hand). Hardware:
accelerators; not run yet.
"""

from experiments.configs import common


def get_config(mode: str = ""):
  """`mode`: "" or "smoke"."""
  config = common.benchmark(kind="fid")
  # The scale that the published map is trained at; at 1 it has no labelled examples.
  config.fid.guidance = 2.5
  return common.finish_benchmark(config, mode)
