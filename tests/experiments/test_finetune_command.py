"""python -m experiments.finetune: what it prints and leaves, what becomes of its folder, what it refuses."""

import json
import re

import numpy as np
import pytest
import run_case

CONFIG = f"--config={run_case.ROOT / 'experiments/configs/finetune_gmm.py'}:smoke"
SMALL = ["--config.eval_every=0", "--config.optimizer.schedule=constant"]


@pytest.fixture(scope="module")
def tuned(trained, commands, tmp_path_factory):
  """A fine-tuned run, and what its command printed."""
  folder = tmp_path_factory.mktemp("tuned") / "run"
  return folder, commands("finetune", CONFIG, *SMALL, f"--config.base={trained[0]}", f"--workdir={folder}")


def test_the_last_line_is_the_summary_that_the_documentation_describes(tuned):
  folder, done = tuned
  assert done.json == json.loads((folder / "summary.json").read_text())
  section = (run_case.ROOT / "docs/cli.md").read_text().split("## finetune\n")[1].split("\n## ")[0]
  keys = section.split("| JSON key |")[1].split("\n\n")[0]
  documented = set(re.findall(r"^\| `([\w/]+)`", keys, flags=re.MULTILINE))
  assert set(done.json) == {name for name in documented if not name.endswith("class_l2")}
  config = json.loads((folder / "config.json").read_text())["config"]
  for cell in re.findall(r"^\| (.*?) \|", section.split("| Key |")[1].split("\n\n")[0], flags=re.MULTILINE)[
    1:
  ]:
    for key in re.findall(r"`([\w.*]+)`", cell):
      group, _, name = key.partition(".")
      assert group in config, key
      assert name in ("", "*", *(config[group] if name else ())), key
  names = {"config.json", "checkpoints", "metrics.jsonl", "tensorboard", "samples", "summary.json"}
  assert {path.name for path in folder.iterdir()} == names | {"provenance.json", "report.html"}


def test_the_same_command_says_that_it_is_finished(tuned, trained, commands):
  again = commands("finetune", CONFIG, *SMALL, f"--config.base={trained[0]}", f"--workdir={tuned[0]}")
  assert "is finished: 20 of 20 steps" in again.out
  assert again.json == tuned[1].json


@pytest.mark.parametrize(
  ("flags", "shape"),
  [
    ([], (3, 2)),
    (["--sampler=sde"], (3, 2)),
    (["--mode=posterior", "--num_contexts=2"], (2, 3, 2)),
    (["--mode=posterior", "--num_contexts=2", "--sampler=glass"], (2, 3, 2)),
  ],
  ids=["ode", "sde", "posterior", "glass"],
)
def test_its_folder_is_sampled_like_any_run(flags, shape, tuned, commands, tmp_path):
  out = tmp_path / "x.npz"
  done = commands("sample", f"--workdir={tuned[0]}", "--num=3", "--steps=3", *flags, f"--out={out}")
  assert (done.json["shape"], done.json["step"]) == (list(shape), 20)
  with np.load(out) as file:
    assert np.isfinite(file["x1"]).all()


@pytest.mark.parametrize("mode", ["marginal", "posterior"])
def test_the_map_is_refused(mode, tuned, commands):
  done = commands("sample", f"--workdir={tuned[0]}", "--sampler=map", f"--mode={mode}")
  assert "one-step posterior draws need a run trained as a map" in done.mistake


def test_it_is_steered_through_glass(tuned, commands, tmp_path):
  config = f"--config={run_case.ROOT / 'experiments/configs/steer_gmm.py'}:smoke"
  flags = [config, f"--workdir={tuned[0]}", "--method=mfm_gf", f"--out={tmp_path / 'x.npz'}"]
  assert "need posterior draws: of a run trained as a map" in commands("steer", *flags).mistake
  done = commands("steer", *flags, "--config.glass_steps=2")
  assert done.json["objective"] == "reward", "its law is not the base's, so the exact tilt is not known"


def test_mistakes(trained, tuned, commands, tmp_path):
  base, new = f"--config.base={trained[0]}", f"--workdir={tmp_path / 'new'}"
  for flags, message in (
    ([base], "--workdir must name a run folder; got none"),
    ([new], "no such folder"),  # runs/gmm
    (
      [new, base, "--config.draws.per_stat=2"],
      "unknown config key config.draws.per_stat (did you mean per_state?)",
    ),
    ([new, base, "--config.multiplier=0"], "multiplier must be positive; got 0"),
    (
      [new, base, "--config.draws.guidance=2.0"],
      "guidance must be a scale the run was trained with (1.0); got 2.0",
    ),
    ([new, f"--config.base={tuned[0]}"], "one-step posterior draws need a run trained as a map"),
  ):
    assert message in commands("finetune", CONFIG, *flags).mistake
  assert not (tmp_path / "new").exists()
