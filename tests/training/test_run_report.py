"""The report of a run folder: whatever is there, and politely nothing of what is not."""

import json
import os
import re

import numpy as np
import pytest
import run_case

from mfm_jax.training import folder, provenance, report_steering, report_training, run_report
from mfm_jax.training.config import to_dict
from mfm_jax.training.finetune_config import FinetuneConfig
from mfm_jax.training.folder import DataInfo
from mfm_jax.training.steer_config import RewardConfig, SteerConfig
from mfm_jax.viz import grids

PNG = grids.png_bytes(np.zeros((8, 8, 3), np.uint8))
INFO = DataInfo(shape=(2,), num_classes=0, data_std=1.0, image=False)
SUMMARY = {"params_sha256": "ab12", "steps": 20, "seconds": 125.4, "held_out/diagonal": 1.23456}
ROW = {"method": "base", "steps": 8, "draws": 0, "particles": None, "scale": 1.0}
FIGURES = {"reward": -3.0, "reward_se": 0.1, "sw2": 0.5, "sw2_se": None, "diversity": 2.0}
COST = {"nfe": 8, "seconds": 1.5}
FLOOR = {"sw2": 0.1, "sw2_se": None, "mmd2": 0.0, "log_z": -1.0}


def lines(values):
  return "".join(
    json.dumps({"step": step, "name": name, "value": value, "seconds": step}) + "\n"
    for name, curve in values.items()
    for step, value in curve
  )


@pytest.fixture
def run(tmp_path):
  """A run folder with nothing but its configuration."""
  folder.write_config(tmp_path, run_case.smoke({"steps": 20}), INFO, folder.RUN)
  return tmp_path


def steered(workdir, name, methods, config=None, **more):
  """A result of experiments.steer in the folder."""
  config = config or SteerConfig(methods=tuple(methods), steps=8, num=32, seeds=2)
  rows = [{**ROW, **FIGURES, **COST, "method": method, **more} for method in methods]
  result = {
    "objective": "sw2",
    "methods": rows,
    "floor": FLOOR,
  }
  path = workdir / "steer" / f"{name}.json"
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps({**result, "out": [], "step": 20, "ema": "0.999", "config": to_dict(config)}))
  age = len(list(path.parent.glob("*.json")))
  os.utime(path, (age, age))


def test_a_folder_with_a_configuration_alone_has_a_report(run):
  done = run_report.write(run)
  assert done["sections"] == ["Configuration", "All keys of the configuration"]
  page = (run / "report.html").read_text()
  assert done["bytes"] == len(page.encode())
  assert done["path"] == str(run / "report.html")
  assert "Meta Flow Map on mixture" in page
  changed = page.split("All keys of the configuration</h2>")[0]
  assert re.search(r">model\.width</th><td[^>]*>16</td><td[^>]*>128<", changed)
  assert "optimizer.beta" not in changed
  assert 'highlights"><div>' not in page


def test_everything_in_the_folder_has_its_section(run):
  curve = [(10, 1.0), (20, 0.1)]
  names = ("train/loss", "train/diagonal", "held_out/diagonal", "train/grad_norm")
  broken = {"train/consistency": [(10, float("nan"))]}
  (run / "metrics.jsonl").write_text(lines({**dict.fromkeys(names, curve), **broken}) + '{"step": 3')
  (run / "summary.json").write_text(json.dumps(SUMMARY))
  (run / "samples").mkdir()
  for name in ("samples_0000010", "samples_0000020", "posterior_0000020", "marginal", "posterior"):
    (run / "samples" / f"{name}.png").write_bytes(PNG)
  rows = [{"t": 0.5, "sw2": 0.25, "floor": 0.2}]
  (run / "evaluation.json").write_text(json.dumps({"step": 20, "posterior": rows, "value_sharp": []}))
  (run / report_training.JUDGED).write_text(json.dumps([{"judged": "real", "accuracy": 0.9}]))
  steered(run, "steer", ["base", "mfm_gf"])
  np.savez(run / "steer" / "base.npz", x1=np.zeros((3, 2)), path_t=[0.1, 1.0], path_value=np.ones((2, 3)))
  provenance.record(run, "train", "python -m experiments.train --x=<1>")
  done = run_report.write(run)
  assert done["sections"] == [
    "Samples",
    "Posterior draws",
    "Steering",
    "Reward against cost",
    "Panel against reward hacking",
    "Value along the way",
    "Judged samples",
    "Posterior fidelity",
    "Training",
    "Configuration",
    "All keys of the configuration",
  ]
  page = (run / "report.html").read_text()
  for text in (
    "2 min 5 s",
    "1.23<",
    "After 20 steps",
    "−3.00 <small>± 0.10</small>",
    "exact samples",
    "sliced W2",
    "experiments.train --x=&lt;1&gt;",
    "sampling seeds</dt><dd>0, 1<",
    "ab12",
  ):
    assert text in page, text
  assert "After 10 steps" not in page
  assert "consistency error" not in page
  ids = re.findall(r' id="([^"]+)"', page)
  assert len(set(ids)) == len(ids)


def test_a_fine_tuned_run_has_its_panel_beside_the_base(tmp_path):
  config = FinetuneConfig(base="runs/gmm", steps=20)
  folder.write_config(tmp_path, config, INFO, folder.FINETUNED, run=run_case.smoke())
  names = ("reward", "diversity", "distance_to_base", "kl")
  (tmp_path / "metrics.jsonl").write_text(lines({f"eval/{name}": [(10, 1.0), (20, 2.0)] for name in names}))
  base = {"base/reward": -1.0, "base/diversity": 3.0}
  (tmp_path / "summary.json").write_text(json.dumps({**SUMMARY, "eval/reward": 2.0, **base}))
  done = run_report.write(tmp_path)
  assert done["sections"][0] == "Panel against reward hacking"
  page = (tmp_path / "report.html").read_text()
  assert "fine-tuned to a reward" in page
  cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", page.split("<tbody>")[1].split("</tbody>")[0])
  assert cells == ["base", "−1", "3", "", "", "after 20 steps", "2", "2", "2", "2"]


def test_methods_steered_one_by_one_stand_together_where_all_else_is_the_same(tmp_path):
  steered(tmp_path, "mfm_gf", ["mfm_gf"], seconds=1.0)
  steered(tmp_path, "other", ["dps"], SteerConfig(methods=("dps",), steps=9, num=32, seeds=2))
  steered(tmp_path, "base", ["base"])
  steered(tmp_path, "again", ["mfm_gf"], seconds=2.0)
  found = report_steering.read(tmp_path)
  assert [(row["method"], row["seconds"]) for row in found.rows] == [("base", 1.5), ("mfm_gf", 2.0)]
  # Closed forms are steered in a folder without a run.
  assert run_report.write(tmp_path)["sections"][:2] == ["Steering", "Reward against cost"]


@pytest.mark.parametrize(
  ("reward", "text"),
  [
    ({"name": "likelihood", "sigma": 0.5, "weight": 2.0}, "2 times the Gaussian log-likelihood"),
    ({"name": "quadratic", "centre": (1.0, -2.0), "sigma": 0.5}, "c = (1, -2) and σ = 0.5"),
    ({"name": "classes", "classes": (1.0, 0.0, 3.0)}, "towards 25% of class 0 and 75% of class 2"),
    ({"name": "python", "function": "a:b"}, "the Python function `a:b`, without a gradient"),
  ],
)
def test_the_reward_is_said_in_words(tmp_path, reward, text):
  steered(tmp_path, "base", ["base"], SteerConfig(methods=("base",), reward=RewardConfig(**reward)))
  assert text in report_steering.sections(report_steering.read(tmp_path))[0].text


def test_folders_without_anything_are_refused(tmp_path):
  for workdir, what in ((tmp_path, "a folder without either"), (tmp_path / "no", "no such folder")):
    with pytest.raises(
      ValueError, match=f"workdir must hold a run or steered samples; got {workdir}: {what}"
    ):
      run_report.write(workdir)


def test_a_report_that_cannot_be_written_is_a_line_and_no_failure(run, capsys):
  run_report.finish(run, "train", "command")
  assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
  (run / "summary.json").write_text("{")
  run_report.finish(run, "train", "command")
  assert capsys.readouterr().out.startswith("no report: Expecting property name")


def test_a_record_says_what_made_a_result_and_stays_when_a_finished_command_is_called_again(tmp_path):
  provenance.record(tmp_path, "train", "first", of="ab")
  provenance.record(tmp_path, "train", "second", of="ab")
  provenance.record(tmp_path, "steer", "third")
  provenance.record(tmp_path, "steer", "fourth")
  found = provenance.read(tmp_path)
  assert {name: record["command"] for name, record in found.items()} == {"train": "first", "steer": "fourth"}
  record = found["train"]
  assert record["devices"].startswith("1 x ")
  assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d\+00:00", record["date"])
  assert re.fullmatch(r"([0-9a-f]{40}( and changes)?)?", record["commit"])
  assert {"mfm_jax", "jax", "python", "system", "processor", "processes"} <= set(record)
  assert provenance.read(tmp_path / "nothing") == {}
