"""docs/cli.md names every flag, JSON key, column and array of every command, and no other."""

import json
import re

import inception_case
import numpy as np
import pytest
import run_case
import safetensors.numpy

from mfm_jax.metrics import samples

TEXT = (run_case.ROOT / "docs" / "cli.md").read_text()
PARTS = {"benchmark": ("speed",)}  # modules with flags of a command
OTHERS = {
  "__init__",
  "cli",
  "config_flag",
  "config_names",
  *[name for names in PARTS.values() for name in names],
}
COMMANDS = sorted({path.stem for path in (run_case.ROOT / "experiments").glob("*.py")} - OTHERS)


def _table(command: str, header: str) -> dict[str, str]:
  """First cell (without backticks) -> the rest of the row, of the table that `header` begins, if any."""
  sections = re.split(r"^## (\w+)$", TEXT, flags=re.MULTILINE)
  section = dict(zip(sections[1::2], sections[2::2], strict=True))[command]
  rows = re.search(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", section, flags=re.MULTILINE)
  cells = [row.strip("| ").split(" | ", 1) for row in rows[1].splitlines()] if rows else []
  return {name.replace("`", ""): rest for name, rest in cells}


def _columns(rows: str, command: str = "evaluate", header: str = "Rows") -> list[str]:
  return re.findall(r"`(\w+)`", _table(command, header)[rows])


def test_every_command_has_a_section():
  assert sorted(re.findall(r"^## (\w+)$", TEXT, flags=re.MULTILINE)) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_are_those_of_the_program(command):
  folder = run_case.ROOT / "experiments"
  source = "".join((folder / f"{name}.py").read_text() for name in (command, *PARTS.get(command, ())))
  flags = {f"--{name}" for name in re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', source)}
  if "cli.define_config(" in source:
    flags.add("--config")
  assert set(_table(command, "Flag")) - {"--config.<key>"} == flags


def test_the_folder_and_the_keys_of_train(trained):
  folder, done = trained
  assert set(done.json) == set(_table("train", "JSON key"))
  documented = {name.rstrip("/") for name in _table("train", "Name")}
  assert documented <= {path.name for path in folder.iterdir()}


def test_the_keys_and_arrays_of_sample(labelled, commands, tmp_path):
  flags = ["--mode=posterior", "--num=2", "--num_contexts=2", "--label=1", f"--out={tmp_path / 'x.npz'}"]
  done = commands("sample", f"--workdir={labelled}", *flags)
  assert set(done.json) == set(_table("sample", "JSON key"))
  with np.load(done.json["out"]) as file:
    assert set(file.files) == set(_table("sample", "Array")) - {"image"}  # of latents


def test_the_keys_and_columns_of_evaluate(trained, commands):
  small = ["--metrics=posterior,value,conditioning", "--contexts=4", "--draws=16", "--times=0.3"]
  result = commands("evaluate", f"--workdir={trained[0]}", *small).json
  others = {"value", "samples", "extractor", "images", "posterior_fid"}  # of images
  assert set(result) == set(_table("evaluate", "JSON key")) - others
  for name, rows in (
    ("posterior", "posterior of mixtures"),
    ("value_sharp", "value_sharp, value_quadratic"),
    ("value_quadratic", "value_sharp, value_quadratic"),
    ("conditioning", "conditioning"),
  ):
    assert list(result[name][0]) == _columns(rows)


def _figures(columns: set[str]) -> set[str]:
  """The documented columns of a row of steer, without those that only other data have."""
  means = {"reward", "sw2", "mmd2", "log_z", "class_l2", "judge_score", "diversity", "distance_to_base"}
  return columns | {f"{name}_se" for name in columns & means}


def test_the_keys_columns_and_arrays_of_steer(labelled, commands, tmp_path):
  config = f"--config={run_case.ROOT / 'experiments/configs/steer_gmm.py'}:smoke"
  done = commands("steer", config, f"--workdir={labelled}", "--method=base", f"--out={tmp_path / 'x.npz'}")
  assert set(done.json) == set(_table("steer", "JSON key"))
  columns = set(_table("steer", "Column")) - {"judge_<name>"}
  assert set(done.json["methods"][0]) == _figures(columns - {"class_l2", "log_z", "judge_score"})
  with np.load(tmp_path / "x.npz") as file:
    assert set(file.files) == set(_table("steer", "Array")) - {"judged", "judge_<name>"}


def test_the_keys_and_columns_of_benchmark(commands, tmp_path):
  flags = ["--suite=gmm:smoke", "--oracle", "--config.steer.methods=('base',)", f"--workdir={tmp_path}"]
  done = commands("benchmark", *flags)
  assert set(done.json) == set(_table("benchmark", "JSON key"))
  left_out = {"class_l2", "log_z", "judge_score", "judge_<name>"}
  columns = _figures(set(_table("steer", "Column")) - left_out)
  own = {"sampler", "steps_asked", "strength", "cost_ratio", "cost_ratio_published", "error"}
  assert set(done.json["rows"][0]) == columns | own


def test_the_keys_and_columns_of_a_benchmark_of_speed(commands, tmp_path):
  config = f"--config={run_case.ROOT / 'experiments/configs/gmm.py'}:smoke"
  flags = ["--suite=throughput", config, "--repeats=1", "--methods=mfm_gf", "--draws=2"]
  done = commands("benchmark", *flags, f"--out={tmp_path / 'old.json'}")
  assert json.loads((tmp_path / "old.json").read_text()) == done.json
  again = commands("benchmark", *flags, f"--compare={tmp_path / 'old.json'}")
  assert set(again.json) == {"rows", *_table("benchmark", "JSON key of throughput")}
  assert [row["name"] for row in again.json["compared"]] == ["train semigroup", "steer mfm_gf 2"]
  both = set(_columns("throughput", "benchmark"))
  of_steering = set(_columns("throughput, steering", "benchmark"))
  of_training = set(_columns("throughput, training", "benchmark"))
  assert [set(row) for row in done.json["rows"]] == [both | of_training, both | of_steering]


def test_the_keys_of_report(trained, commands):
  done = commands("report", f"--workdir={trained[0]}")
  assert set(done.json) == set(_table("report", "JSON key"))


def test_the_keys_of_classifier(classifier):
  assert set(classifier[1].json) == set(_table("classifier", "JSON key"))


@pytest.mark.slow
def test_the_keys_and_columns_of_an_evaluation_of_pictures(commands, tmp_path):
  files = {name: str(tmp_path / f"{name}.npz") for name in ("samples", "reference", "write_reference")}
  rng, weights = np.random.default_rng(0), tmp_path / "weights.safetensors"
  for name in ("samples", "reference"):
    samples.write_samples(files[name], [rng.integers(0, 256, (8, 9, 9, 3), np.uint8)], 8, np.arange(8) % 2)
  safetensors.numpy.save_file(inception_case.state(), weights)
  flags = [f"--{name}={file}" for name, file in files.items()] + [f"--inception={weights}"]
  small = ["--num=8", "--few", "--subset=4", "--splits=2"]
  metrics = "--metrics=fid,sfid,is,precision_recall,kid,class_fid"
  result = commands("evaluate", *flags, *small, metrics).json
  assert set(result) == {"samples", "extractor", "images"}
  assert set(result["extractor"]) == set(_columns("extractor", header="JSON key"))
  assert list(result["images"][0]) == _columns("images")
  # The reference's statistics stand for it, and are refused under another convention.
  flags = [f"--samples={files['samples']}", f"--reference={files['write_reference']}", *flags[-1:], *small]
  again = commands("evaluate", *flags, "--metrics=fid").json
  assert again["images"][0]["fid"] == pytest.approx(result["images"][0]["fid"], rel=1e-6)
  other = commands("evaluate", *flags, "--metrics=fid", "--convention=pytorch_fid")
  assert "convention 'adm' there, 'pytorch_fid' here" in other.mistake


@pytest.mark.slow
def test_the_keys_of_the_demo_and_of_an_evaluation_of_images(commands, tmp_path):
  config = f"--config={run_case.ROOT / 'experiments/configs/digits.py'}:smoke"
  done = commands("demo", config, f"--workdir={tmp_path}")
  assert set(done.json) == set(_table("demo", "JSON key")) | set(_table("train", "JSON key"))
  assert set(done.json["steering"][0]) == _figures(
    set(_table("steer", "Column")) - {"sw2", "mmd2", "log_z", "judge_<name>"}
  )
  page = (tmp_path / "report.html").read_text()
  for title in (
    "Judged samples",
    "Posterior draws",
    "70% of class 3 and 30% of class 7",
    "Reward against cost",
    "Class proportions",
    "Value along the way",
    "Paths from",
  ):
    assert title in page
  small = ["--metrics=posterior,value", "--contexts=3", "--draws=4", "--times=0.5"]
  result = commands("evaluate", f"--workdir={tmp_path}", *small).json
  assert list(result["posterior"][0]) == _columns("posterior of other data") + _columns("posterior of images")
  assert list(result["value"][0]) == _columns("value")
