"""A rehearsal of the ImageNet experiments at toy size: pictures, stand-ins for weights, and the commands."""

import dataclasses
import importlib.util
import pathlib
import shutil
from typing import Any

from mfm_jax import checks, convert
from mfm_jax.convert import autoencoder
from mfm_jax.convert import preference as layouts
from mfm_jax.data import arrays, datasets, image_folder
from mfm_jax.models import clip
from mfm_jax.models.random_params import random_params
from mfm_jax.rewards import published
from mfm_jax.training import stand_ins
from mfm_jax.viz import grids

CIFAR10 = "cifar10-subset"  # folder of strips in $MFM_DATA_DIR
PICTURES = {"train": 2000, "test": 64}  # that are taken of it
ARCHITECTURE = "tiny"  # of `clip.PRESETS`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Materials:
  """Files of a rehearsal, in the layouts in which those of the experiments are published.

  Attributes:
    images: folder of train/<class>/ and val/<class>/.
    vae: folder of the autoencoder.
    inception: weights of the FID network.
    clip: weights of CLIP; a tokenizer is beside them.
    class_names: names in the order of the labels.
  """

  images: pathlib.Path
  vae: pathlib.Path
  inception: pathlib.Path
  clip: pathlib.Path
  class_names: pathlib.Path


def prepare(folder: str | pathlib.Path, images: str = "") -> Materials:
  """Writes what is not there yet.

  Args:
    folder: where to.
    images: folder of pictures as ImageNet's; "" writes one of CIFAR-10, from the strips in $MFM_DATA_DIR.

  Raises:
    ValueError: no such folder of pictures, or without `images` no $MFM_DATA_DIR.
  """
  folder = pathlib.Path(folder)
  pictures = pathlib.Path(images) if images else folder / "images"
  if not images and not pictures.is_dir():
    unfinished = folder / ".images"
    shutil.rmtree(unfinished, ignore_errors=True)
    write_cifar10(datasets.data_path("", CIFAR10), unfinished)
    unfinished.rename(pictures)
  known = Materials(
    images=pictures,
    vae=folder / "vae",
    inception=folder / "inception.safetensors",
    clip=folder / "clip" / "clip.safetensors",
    class_names=folder / "clip" / "names.txt",
  )
  classes = image_folder.pictures(pictures, "train").classes
  known.clip.parent.mkdir(parents=True, exist_ok=True)
  known.class_names.write_text("\n".join(classes) + "\n")
  stand_ins.write_clip_vocabulary(known.clip.parent)
  if not (known.vae / autoencoder.FILE).exists():
    convert.write_autoencoder(known.vae, *stand_ins.handmade_autoencoder())
  net = clip.build(clip.PRESETS[ARCHITECTURE])
  states = {
    known.inception: stand_ins.inception_state,
    known.clip: lambda: layouts.to_state(random_params(net.init), layouts.clip_leaves("open_clip")),
  }
  for path, make in states.items():
    if not path.exists():
      convert.write_state(path, make(), {})
  return known


def write_cifar10(strips: pathlib.Path, folder: pathlib.Path) -> None:
  """The first `PICTURES` of CIFAR-10 in strips (`arrays.strip_folder`) as a folder laid out as ImageNet's.

  Raises:
    ValueError: strips that are not there or cannot be read.
  """
  names = (strips / "classes.txt").read_text().split()
  for split, count in PICTURES.items():
    source = arrays.strip_folder(strips, split)
    checks.at_least(f"number of {split} pictures in {strips}", len(source), count)
    assert source.label is not None  # strips are labelled
    for i in range(count):
      place = folder / image_folder.SPLITS[split] / names[source.label[i]]
      place.mkdir(parents=True, exist_ok=True)
      grids.save_png(place / f"{i:05d}.png", source.x1[i])


def reward_flags(files: Materials) -> list[str]:
  """The keys of a reward by CLIP, as steer and finetune take them."""
  keys: dict[str, Any] = {"name": "clip", "preference.architecture": ARCHITECTURE}
  # Without its library a tokenizer cannot be read.
  known = importlib.util.find_spec("tokenizers") is not None
  keys["preference.weights"] = files.clip if known else published.RANDOM
  return [f"--config.reward.{key}={value}" for key, value in keys.items()]


def commands(root: str | pathlib.Path, files: Materials, *, steps: int = 200) -> dict[str, list[str]]:
  """Modules with their flags, by title, in their order: what a user types at full size, with smaller sizes.

  Args:
    root: folder of latents, runs and benchmark.
    files: of `prepare`.
    steps: of the training.
  """
  root = pathlib.Path(root)
  run, tuned, latents = root / "run", root / "finetuned", root / "latents"
  vae, inception = f"--vae={files.vae}", f"--inception={files.inception}"
  encode = [f"--source={files.images}", vae, f"--out={latents}", "--size=32", "--batch=50", "--shard=500"]
  rewarded = [*reward_flags(files), f"--config.decoder={files.vae}"]
  few = ["--few", "--num=32", "--split=test", "--splits=2", "--subset=16"]
  steered = {
    "judges": "()",
    "label": 3,  # a cat, as the prompt of the configuration has it
    "steps": 25,
    "num": 16,
    "rows": 16,
    "mfm_gf.draws": 4,
    "mfm_g.draws": 1,
  }
  tuning = {
    "base": run,
    "judges": "()",
    "reward.preference.class_names": files.class_names,
    "multiplier": 0.05,  # the reward differs by about 20 from picture to picture
    "steps": 30,
    "batch_size": 16,
    "draws.per_state": 2,
    "optimizer.learning_rate": 3e-4,
    "optimizer.warmup": 10,
    "log_every": 10,
    "eval_every": 0,
    "eval_num": 32,
    "checkpoint_every": 15,
  }
  return {
    "latents": ["experiments.prepare_latents", *encode],
    "latents, held out": ["experiments.prepare_latents", *encode, "--split=test"],
    "training": ["experiments.train", f"--workdir={run}", *_training(latents, files.vae, steps)],
    "samples": ["experiments.sample", f"--workdir={run}", vae, "--steps=4"],
    "posterior draws": ["experiments.sample", f"--workdir={run}", vae, "--mode=posterior", "--num=8"],
    "evaluation": [
      "experiments.evaluate",
      f"--workdir={run}",
      "--metrics=posterior,fid,is,kid,precision_recall,posterior_fid",
      "--times=0.5",
      "--contexts=8",
      "--draws=16",
      vae,
      inception,
      *few,
    ],
    "steering": [
      "experiments.steer",
      f"--workdir={run}",
      "--config=steer_imagenet",
      "--method=base,best_of_n,mfm_gf,mfm_g",
      *rewarded,
      *_keys(steered),
    ],
    "fine-tuning": [
      "experiments.finetune",
      f"--workdir={tuned}",
      "--config=finetune_imagenet",
      *rewarded,
      *_keys(tuning),
    ],
    "FID benchmark": [
      "experiments.benchmark",
      "--suite=imagenet_fid:smoke",
      f"--run={run}",
      f"--workdir={root / 'benchmark'}",
      f"--config.steer.decoder={files.vae}",
      f"--config.fid.images.inception={files.inception}",
      "--config.fid.images.num=16",
      "--config.fid.steps=(1,4)",
      "--config.fid.times=(0.5,)",
    ],
    "samples, fine-tuned": ["experiments.sample", f"--workdir={tuned}", vae, "--steps=10"],
    "report": ["experiments.report", f"--workdir={run}"],
    "report, fine-tuned": ["experiments.report", f"--workdir={tuned}"],
  }


def _training(latents: pathlib.Path, vae: pathlib.Path, steps: int) -> list[str]:
  """imagenet_b2 but for its sizes and its pace."""
  changes = {
    "data.path": latents,
    "data.shape": "(16,16,4)",
    "data.latent_scale": 1.0,  # the autoencoder's own
    "decoder": vae,
    "model.precondition": True,  # learns from scratch in fewer steps
    "model.patch": 4,
    "model.width": 96,
    "model.depth": 4,
    "model.heads": 4,
    "model.dtype": "float32",
    "model.dit.encoder_depth": 3,
    "model.dit.remat": "none",
    "loss.weighting": "l2",  # adaptive weights are for networks that start from a trained flow
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup": 20,
    "steps": steps,
    "batch_size": 32,
    "ema": "(0.98,)",
    "log_every": 20,
    "eval_every": max(steps // 2, 1),
    "eval_batches": 2,
    "checkpoint_every": max(steps // 2, 1),
  }
  return ["--config=imagenet_b2", *_keys(changes)]


def _keys(changes: dict[str, Any]) -> list[str]:
  return [f"--config.{key}={value}" for key, value in changes.items()]


def figures(results: dict[str, dict[str, Any]]) -> dict[str, float]:
  """What the commands found, of their JSON by title."""
  evaluated, tuned = results["evaluation"], results["fine-tuning"]
  rewards = {row["method"]: row["reward"] for row in results["steering"]["methods"]}
  return {
    "fid": evaluated["images"][0]["fid"],
    "posterior_fid": {str(row["t"]): row["posterior_fid"] for row in evaluated["posterior_fid"]},
    "reward": rewards,
    "reward_finetuned": tuned["eval/reward"],
    "reward_base": tuned["base/reward"],
  }
