"""From pictures to decoded samples by the commands: prepare_latents, train, sample, steer."""

import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import run_case
import vae_case
from PIL import Image
from test_cli_docs import _table

CONFIGS = run_case.ROOT / "experiments/configs"


@pytest.fixture(scope="module")
def prepared(commands, tmp_path_factory):
  """(flags, folder of latents, JSON of the training split)."""
  root = tmp_path_factory.mktemp("latents")
  pictures = vae_case.write_pictures(root / "pictures", {"train": 9, "val": 6})
  flags = [f"--source={pictures}", f"--vae={vae_case.write_vae(root / 'vae')}", f"--size={vae_case.SIZE}"]
  flags += ["--batch=2", "--shard=4"]
  commands("prepare_latents", *flags, f"--out={root / 'latents'}", "--split=test").json  # noqa: B018
  return flags, root / "latents", commands("prepare_latents", *flags, f"--out={root / 'latents'}").json


def files(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in (folder / "train").iterdir() if path.name[0] != "."}


def test_what_is_prepared_is_documented_and_mistakes_are_one_line(prepared, commands, tmp_path):
  flags, folder, found = prepared
  assert set(found) == set(_table("prepare_latents", "JSON key"))
  assert (found["examples"], found["classes"], found["shape"], found["written"]) == (27, 3, [4, 4, 4], 7)
  done = commands("prepare_latents", *flags, f"--out={folder}", "--shard=5")
  assert "can be completed only with its own settings; got shard_size=5, 4 there" in done.mistake
  done = commands("prepare_latents", flags[0], f"--vae={tmp_path}", f"--out={tmp_path / 'out'}")
  assert "as published at huggingface.co/stabilityai/sd-vae-ft-mse" in done.mistake


@pytest.mark.slow
def test_a_killed_preparation_goes_on(prepared, commands, tmp_path):
  flags, folder, _ = prepared
  command = [sys.executable, "-m", "experiments.prepare_latents", *flags, f"--out={tmp_path}"]
  running = subprocess.Popen(command, cwd=run_case.ROOT, env=run_case.environment())
  deadline = time.monotonic() + 120
  while not any((tmp_path / "train").glob("0*")) and running.poll() is None and time.monotonic() < deadline:
    time.sleep(0.001)
  running.send_signal(signal.SIGKILL)
  assert running.wait() == -signal.SIGKILL
  before = files(tmp_path)
  assert 1 < len(before) < 8
  assert commands("prepare_latents", *flags, f"--out={tmp_path}").json["written"] == 8 - len(before)
  assert files(tmp_path) == files(folder)


@pytest.mark.slow
def test_a_run_on_latents_is_sampled_and_steered_through_its_autoencoder(prepared, commands, tmp_path):
  flags, folder, _ = prepared
  config, run = f"--config={CONFIGS / 'imagenet_b2.py'}:smoke", f"--workdir={tmp_path / 'run'}"
  data = {"name": "latents", "path": folder, "shape": (4, 4, 4), "latent_scale": vae_case.CONFIG.scale}
  changes = [f"--config.data.{key}={value}" for key, value in data.items()]
  done = commands("train", config, run, *changes, "--config.steps=4", "--config.eval_batches=1")
  assert done.json["steps"] == 4
  vae = flags[1]
  for mode, shape in (("marginal", (3,)), ("posterior", (2, 3))):
    how = [f"--mode={mode}", "--num=3", "--num_contexts=2", f"--out={tmp_path / mode}.npz"]
    found = commands("sample", run, vae, *how).json
    with np.load(found["out"]) as file:
      assert (file["image"].shape, file["image"].dtype) == ((*shape, 8, 8, 3), np.uint8)
    with Image.open(found["picture"]) as picture:
      assert picture.mode == "RGB"
  other = vae_case.write_vae(tmp_path / "other", seed=1)
  done = commands("sample", run, f"--vae={other}", "--num=3")
  assert "the autoencoder must be the one that the run's latents are of" in done.mistake
  classifier = [f"--config={CONFIGS / 'classifier_digits.py'}:smoke", f"--workdir={tmp_path / 'classifier'}"]
  pictures = {"name": "images", "path": flags[0].removeprefix("--source="), "size": vae_case.SIZE}
  changes = [f"--config.data.{key}={value}" for key, value in pictures.items()]
  commands("classifier", *classifier, *changes, "--config.batch_size=8").json  # noqa: B018
  steer = [f"--config={CONFIGS / 'steer_digits.py'}:smoke", "--config.steps=2", "--config.seeds=1", "--num=4"]
  steer += ["--config.reward.classes=(1.0,0.0,0.0)", f"--config.reward.classifier={tmp_path / 'classifier'}"]
  steer += [vae.replace("--vae", "--config.decoder"), "--method=mfm_gf", f"--out={tmp_path / 's.npz'}"]
  done = commands("steer", *steer, run)
  assert np.isfinite(done.json["methods"][0]["reward"])
  assert (tmp_path / "s.png").exists()
