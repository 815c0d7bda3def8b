"""The ImageNet experiments rehearsed at toy size: suite, steering, fine-tuning, by random weights."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def suite(commands, tmp_path_factory):
  """The folder of the suite's smoke form, and what it printed."""
  folder = tmp_path_factory.mktemp("suite")
  return folder, commands("benchmark", "--suite=imagenet_steering:smoke", f"--workdir={folder}")


def test_the_suite(suite, commands):
  folder, done = suite
  rows = done.json["rows"]
  found = [(row["method"], row["draws"], row["particles"], row["strength"]) for row in rows]
  assert found == [
    ("base", 0, None, None),
    ("best_of_n", 1, None, None),
    ("best_of_n", 3, None, None),
    ("dps", 0, None, 1.0),
    ("dps", 0, None, 5.0),
    ("mfm_gf", 2, None, 1.0),
    ("mfm_gf", 2, None, 5.0),
    ("mfm_g", 1, None, 1.0),
    ("mfm_g", 2, None, 1.0),
    ("mfm_g", 1, None, 5.0),
    ("mfm_g", 2, None, 5.0),
    ("search", 1, 1, None),
  ]
  for row in rows:
    assert row["error"] is None
    for name in ("reward", "judge_imagereward", "judge_clip"):
      assert np.isfinite([row[name], row[f"{name}_se"]]).all()
    assert row["cost_ratio"] == pytest.approx(9 / row["nfe"])  # Best-of-3 with two steps
  assert {row["cost_ratio_published"] for row in rows} == {None, 201.0}
  assert done.json["best_of_n"]["candidates"] == 3
  assert len(done.json["best_of_n"]["rows"]) == 8
  assert "a single particle beats Best-of-1000" in done.out
  assert (folder / "benchmark.png").exists()
  path = folder / "benchmark.json"
  content = json.loads(path.read_text())
  path.write_text(json.dumps({**content, "rows": [row for row in rows if row["method"] != "search"]}))
  again = commands("benchmark", "--suite=imagenet_steering:smoke", f"--workdir={folder}")
  assert again.out.count("passes each") == 1
  assert [row["method"] for row in again.json["rows"]] == [row["method"] for row in rows]


def test_steering_and_its_report(suite, commands):
  run = suite[0] / "run"
  done = commands("steer", "--config=steer_imagenet:smoke", f"--workdir={run}", "--method=base,mfm_g")
  row = done.json["methods"][1]
  assert np.isfinite([row["judge_clip"], row["judge_clip_se"]]).all()
  with np.load(run / "steer" / "mfm_g.npz") as file:
    np.testing.assert_array_equal(file["label"], 1)
    assert file["judge_imagereward"].shape == (4,)
  page = (run / "report.html").read_text()
  assert "Panel against reward hacking" in page
  assert "the score by aesthetic" in page
  done = commands("steer", "--config=steer_imagenet", f"--workdir={run}", "--config.decoder=random:tiny")
  assert "weights must name ImageReward.pt of https://huggingface.co" in done.mistake


def test_fine_tuning_with_a_prompt_for_each_class(suite, commands, tmp_path):
  names = tmp_path / "names.txt"
  names.write_text("".join(f"class {i}\n" for i in range(1000)))
  flags = ["--config.reward.preference.prompt=A photo of a {}.", f"--config.base={suite[0] / 'run'}"]
  flags += [f"--config.reward.preference.class_names={names}", f"--workdir={tmp_path / 'run'}"]
  done = commands("finetune", "--config=finetune_imagenet:smoke", *flags)
  assert done.json["steps"] == 4
  figures = ("eval/reward", "base/reward", "eval/judge_aesthetic", "base/judge_aesthetic", "eval/kl")
  assert np.isfinite([done.json[name] for name in figures]).all()
  assert ">aesthetic</th>" in (tmp_path / "run" / "report.html").read_text()
