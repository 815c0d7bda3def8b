"""python -m experiments.train: its output, its mistakes, its data."""

import json
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import run_case

from mfm_jax.training.config import RunConfig, from_dict
from mfm_jax.training.run import load_run

SMOKE = run_case.FLAGS


def test_the_last_line_is_the_summary(trained):
  folder, done = trained
  assert {"params_sha256", "steps", "seconds", "seconds_compile"} <= set(done.json)
  assert done.json["steps"] == 20
  assert done.json == json.loads((folder / "summary.json").read_text())
  assert load_run(folder, ema="raw").sha256 == done.json["params_sha256"]
  assert done.err == ""


def test_progress_is_a_line_an_interval_with_terms_rate_and_time_left(trained):
  *lines, report, _ = trained[1].out.splitlines()
  assert report == f"report: {trained[0] / 'report.html'}"
  assert [line.split()[1] for line in lines] == ["5/20", "10/20", "15/20", "20/20"]
  for line in lines:
    assert re.fullmatch(r"step \d+/20(  \w+ [\d.e+-]+){4}  [\d.]+ steps/s  \d+:\d\d left", line)


def test_flags_reach_the_run_folder(trained):
  stored = json.loads((trained[0] / "config.json").read_text())
  assert from_dict(RunConfig, stored["config"]) == run_case.smoke()


def test_a_finished_run_says_so_with_the_same_figures(trained, commands):
  folder, done = trained
  again = commands("train", *SMOKE, f"--workdir={folder}")
  assert again.out.startswith(f"{folder} is finished: 20 of 20 steps\n")
  assert again.json == done.json


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([*SMOKE, "--config.stepz=1"], "unknown config key config.stepz (did you mean steps?)"),
    ([*SMOKE, "--config.loss.weigting=l2"], "config.loss.weigting (did you mean weighting?)"),
    ([*SMOKE, "--config.steps=many"], "--config.steps=many: invalid literal for int()"),
    ([*SMOKE, "--config.steps=2.5"], "--config.steps=2.5: invalid literal for int()"),
    ([*SMOKE, "--config.steps=0"], "steps must be at least 1; got 0"),
    ([*SMOKE, "--config.loss.consistency=semi"], "consistency must be one of semigroup"),
    ([*SMOKE, "--config.loss.diagonal=teacher"], "config.teacher must be oracle or a run folder"),
    ([*SMOKE, "--config.model.name=vit"], "model.name=vit needs images"),
    ([*SMOKE, "--config.data.name=cifar"], "data.name must be one of mixture"),
    ([*SMOKE, "--stepz=1"], "Unknown command line flag 'stepz'"),
    ([*SMOKE, "extra"], "every argument must be a --flag; got 'extra'"),
    (
      ["--config=nowhere.py"],
      "must name a file or one of our configurations; got 'nowhere.py' (--config=list",
    ),
    (["--config", "digit"], "one of our configurations; got 'digit' (did you mean digits?)"),
    (["--config=configs/gmn.py"], "got 'configs/gmn.py' (did you mean gmm?)"),
    ([SMOKE[0].replace(":smoke", ":smoek")], "must have the mode smoke or none; got 'smoek'"),
    ([*SMOKE, "--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir"),
    ([], "--config must name a configuration; got none"),
  ],
  ids=lambda value: "" if isinstance(value, str) else "-".join(value[len(SMOKE) :] or value)[-30:],
)
def test_a_mistake_is_one_line_and_writes_nothing(flags, message, commands, tmp_path):
  done = commands("train", *flags, f"--workdir={tmp_path / 'run'}")
  assert message in done.mistake
  assert not (tmp_path / "run").exists()


def test_a_missing_workdir(commands):
  assert commands("train", *SMOKE).mistake == "error: --workdir must name a run folder; got none"


def test_a_foreign_folder_is_untouched(commands, tmp_path):
  (tmp_path / "thesis.txt").write_text("mine")
  assert "a folder without config.json" in commands("train", *SMOKE, f"--workdir={tmp_path}").mistake
  assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
  assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_workdir_that_cannot_be_made(commands, tmp_path):
  (tmp_path / "file").write_text("")
  done = commands("train", *SMOKE, f"--workdir={tmp_path / 'file' / 'run'}")
  assert "Not a directory" in done.mistake


def test_resuming_with_another_interpolant(trained, commands):
  done = commands("train", *SMOKE, "--config.interpolant=trigonometric", f"--workdir={trained[0]}")
  assert "own configuration; got config.interpolant: 'linear' -> 'trigonometric'" in done.mistake


def test_debug_shows_the_traceback(commands, tmp_path):
  (tmp_path / "thesis.txt").write_text("mine")
  done = commands("train", *SMOKE, f"--workdir={tmp_path}", "--debug")
  assert done.status not in (0, 2)
  assert "Traceback (most recent call last)" in done.err
  assert "ValueError: workdir must be a run folder" in done.err


def test_the_status_of_the_program_itself(tmp_path):
  """Without the server of `cli_case`: a mistake is status 2 and one line of a real program, too."""
  command = [sys.executable, "-m", "experiments.train", *SMOKE, "--config.stepz=1", f"--workdir={tmp_path}"]
  done = subprocess.run(
    command, capture_output=True, text=True, check=False, env=run_case.environment(), cwd=run_case.ROOT
  )
  assert (done.returncode, done.stdout) == (2, "")
  assert re.fullmatch(r"error: unknown config key config\.stepz .*\n", done.stderr)


def test_a_loss_that_is_not_finite(commands, tmp_path):
  blow_up = ["--config.optimizer.learning_rate=1e30", "--config.optimizer.warmup=0"]
  done = commands("train", *SMOKE, *blow_up, "--config.checkpoint_every=1", f"--workdir={tmp_path}")
  assert re.search(
    r"error: every term of the loss must be finite; got \w+ = (nan|inf) at step 2; "
    rf"last good checkpoint: step 1 in {tmp_path}/checkpoints$",
    done.mistake,
  )
  assert load_run(tmp_path).step == 1


# ---- a folder of idx files ----


def _write_idx(folder, n=64):
  """MNIST's layout, 8x8 images of one bright row each, which is their class."""
  folder.mkdir()
  for prefix in ("train", "t10k"):
    label = (np.arange(n) % 4).astype(np.uint8)
    images = np.zeros((n, 8, 8), np.uint8)
    images[np.arange(n), 2 * label] = 255
    header = struct.pack(">4B3I", 0, 0, 8, 3, n, 8, 8)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    header = struct.pack(">4BI", 0, 0, 8, 1, n)
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + label.tobytes())


def _idx_flags(folder):
  config = run_case.ROOT / "experiments/configs/mnist.py"
  data = {"data.path": folder, "data.size": 8, "data.classes": 4}
  sizes = {"model.name": "mlp", "model.depth": 1, "model.width": 16, "steps": 4, "eval_every": 0}
  return [
    f"--config={config}:smoke",
    *[f"--config.{key}={value}" for key, value in {**data, **sizes}.items()],
  ]


def test_a_folder_of_idx_files_trains_and_samples(commands, tmp_path):
  _write_idx(tmp_path / "idx")
  flags = [*_idx_flags(tmp_path / "idx"), f"--workdir={tmp_path / 'run'}"]
  assert commands("train", *flags).json["steps"] == 4
  pictures = {path.name for path in (tmp_path / "run" / "samples").iterdir()}
  assert pictures == {"samples_0000004.png", "posterior_0000004.png"}
  info = load_run(tmp_path / "run").info
  assert (info.shape, info.num_classes, info.image) == ((8, 8, 1), 4, True)
  done = commands("sample", f"--workdir={tmp_path / 'run'}", "--num=8", "--label=3", "--guidance=2")
  assert done.json["shape"] == [8, 8, 8, 1]


def test_damaged_and_missing_idx_files_are_mistakes(commands, tmp_path):
  _write_idx(tmp_path / "idx")
  file = tmp_path / "idx" / "t10k-images-idx3-ubyte"
  file.write_bytes(file.read_bytes()[:-100])
  flags = [*_idx_flags(tmp_path / "idx"), f"--workdir={tmp_path / 'run'}"]
  assert f"{file} is cut short" in commands("train", *flags).mistake
  file.unlink()
  assert "must hold one of t10k-images-idx3-ubyte" in commands("train", *flags).mistake
  assert not (tmp_path / "run").exists()
