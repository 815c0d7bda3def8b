"""What the experiments on ImageNet take, counted: the tables of docs/reproducing.md and docs/scaling.md.

python docs/costs.py [--tflops=989] [--tflops_float32=67] [--mfu=0.4]

Counts the multiplications and additions of the programs, from shapes alone. Hours are these over the peak of
one device (defaults: data sheet of an H200, bf16 for the network, float32 for decoder and reward) times the
utilisation: computed, not measured.
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp

from experiments.configs import imagenet_b2, imagenet_b2_distill, imagenet_xl2, imagenet_xl2_distill
from mfm_jax.flow_map import posterior_map
from mfm_jax.models import autoencoder, clip
from mfm_jax.rewards.preprocess import Preprocess
from mfm_jax.training import dry_run, flops, run
from mfm_jax.training.config import RunConfig, from_dict

CONFIGS = {"B/2": imagenet_b2, "XL/2": imagenet_xl2}
DISTILLED = {"B/2": imagenet_b2_distill, "XL/2": imagenet_xl2_distill}
PICTURES, STEPS, FID = 128, 250, 50_000  # steered pictures, steps of a path, samples of an FID
TUNING_STEPS, TUNING_BATCH = 10_000, 18
PANELS, PANEL = 20, 512  # samples every 500 steps of it


@dataclasses.dataclass(frozen=True)
class Flops:
  """Of the network (bf16), and of decoder and reward (float32)."""

  network: float = 0.0
  score: float = 0.0

  def __add__(self, other: "Flops") -> "Flops":
    return Flops(self.network + other.network, self.score + other.score)

  def __rmul__(self, count: float) -> "Flops":
    return Flops(count * self.network, count * self.score)


def configuration(module) -> RunConfig:
  """A shipped configuration."""
  return from_dict(RunConfig, module.get_config().to_dict())


def evaluations(config: RunConfig) -> tuple[Flops, Flops]:
  """One posterior draw of one example, forward alone and with its gradient in the state."""
  info = dry_run.info_of(config)
  config = dataclasses.replace(
    config, model=dataclasses.replace(config.model, dit=dataclasses.replace(config.model.dit, remat="none"))
  )
  model = run.parts(config, info).model
  params = jax.eval_shape(model.init, jax.random.key(0))
  x = jnp.zeros((1, *info.shape))

  def draw(params, x):
    return posterior_map(
      model.velocity(params), x, jnp.zeros(1), x, {"label": jnp.zeros(1, int)}, steps=1
    ).sum()

  both = flops.count(jax.value_and_grad(draw, argnums=1), params, x)
  return Flops(network=flops.count(draw, params, x)), Flops(network=both)


def scores() -> tuple[Flops, Flops, Flops]:
  """Decoding one 256x256 picture; decoding and HPSv2's picture tower, forward alone and with the gradient."""
  vae, net = autoencoder.AutoencoderConfig(), clip.build(clip.PRESETS["ViT-H-14"])
  params = jax.eval_shape(lambda key: (autoencoder.init(key, vae), net.init(key)["image"]), jax.random.key(0))
  resize = Preprocess(size=net.config.image_size, fit="longest")

  def decode(params, latent):
    return autoencoder.decode(vae, params[0], latent)

  def score(params, latent):
    return net.image(params[1], resize(decode(params, latent))).sum()

  latent = jnp.zeros((1, 32, 32, 4))
  counted = (decode, score, jax.value_and_grad(score, argnums=1))
  return tuple(Flops(score=flops.count(function, params, latent)) for function in counted)


def experiments() -> dict[str, Flops]:
  """Name -> what it takes."""
  out = {}
  decode, score, score_gradient = scores()
  for size in CONFIGS:
    for name, module in (("from data", CONFIGS[size]), ("from a teacher", DISTILLED[size])):
      config = configuration(module)
      step = dry_run.step_flops(config, dry_run.info_of(config))
      out[f"train {size} {name}, {config.steps:,} steps of {config.batch_size}"] = Flops(
        network=config.steps * step
      )
    forward, gradient = evaluations(configuration(CONFIGS[size]))
    for steps in (1, 2, 4):
      out[f"{size}: FID, {FID:,} samples in {steps} step{'s' * (steps > 1)}"] = FID * (
        steps * forward + decode
      )
    out[f"{size}: FID of posterior draws at four t"] = 4 * FID * (forward + decode)
  # The last size: XL/2.
  drawn, drawn_gradient = forward + score, gradient + score_gradient
  for n in (1, 4, 16):
    out[f"XL/2: MFM-G, N = {n}, {PICTURES} pictures"] = PICTURES * STEPS * (forward + n * drawn_gradient)
    if n > 1:
      out[f"XL/2: MFM-GF, N = {n}, {PICTURES} pictures"] = PICTURES * STEPS * (forward + n * drawn)
  out[f"XL/2: DPS, {PICTURES} pictures"] = PICTURES * STEPS * drawn_gradient
  out[f"XL/2: search, M = 8, N = 4, {PICTURES} pictures"] = PICTURES * STEPS * 32 * drawn
  out[f"XL/2: Best-of-1000, {PICTURES} pictures"] = PICTURES * 1_000 * (STEPS * forward + score)
  step = TUNING_BATCH * (3 * forward + forward + drawn_gradient)  # trained (forward, backward), frozen, draw
  panel = PANEL * (STEPS * forward + score)
  out[f"XL/2: fine-tuning, {TUNING_STEPS:,} steps of {TUNING_BATCH}"] = TUNING_STEPS * step + PANELS * panel
  return out


def main():
  """Prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  for name, value in (("tflops", 989.0), ("tflops_float32", 67.0), ("mfu", 0.4)):
    parser.add_argument(f"--{name}", type=float, default=value)
  flags = parser.parse_args()
  decode, score, score_gradient = scores()
  rows = {"decoder": decode, "decoder and HPSv2": score, "the same with its gradient": score_gradient}
  print("| of one picture | GFLOP |\n|---|---|")
  for size, module in CONFIGS.items():
    forward, gradient = evaluations(configuration(module))
    rows |= {f"{size}, one evaluation": forward, f"{size}, with the gradient in the state": gradient}
  for name, found in rows.items():
    print(f"| {name} | {(found.network + found.score) / 1e9:,.0f} |")
  print("\n| experiment | network, PFLOP | decoder and reward, PFLOP | device hours |\n|---|---|---|---|")

  for name, found in experiments().items():
    seconds = found.network / flags.tflops + found.score / flags.tflops_float32
    hours = seconds / 1e12 / flags.mfu / 3600
    print(f"| {name} | {found.network / 1e15:,.0f} | {found.score / 1e15:,.0f} | {hours:,.2g} |")


if __name__ == "__main__":
  main()
