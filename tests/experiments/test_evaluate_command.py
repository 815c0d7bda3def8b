"""python -m experiments.evaluate: tables, evaluation.json, mistakes."""

import json

import numpy as np
import pytest

SMALL = ["--contexts=4", "--draws=16", "--times=0.3"]


def test_tables_and_the_last_line_and_the_file_agree(trained, commands):
  metrics = "--metrics=posterior,value,conditioning"
  done = commands("evaluate", f"--workdir={trained[0]}", metrics, *SMALL)
  assert json.loads((trained[0] / "evaluation.json").read_text()) == done.json
  tables = {name: rows for name, rows in done.json.items() if name not in ("step", "ema")}
  assert set(tables) == {"posterior", "value_sharp", "value_quadratic", "conditioning"}
  for name, rows in tables.items():
    assert name in done.out
    if name != "conditioning":
      assert [row["t"] for row in rows] == [0.3]
    assert np.isfinite([value for row in rows for value in row.values() if not isinstance(value, str)]).all()


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      ["--metrics=fld"],
      "metrics must be one of posterior, value, conditioning, fid, sfid, is, precision_recall",
    ),
    (
      ["--metrics=fid"],
      "metrics fid need pictures; got data of shape (2,): latents are measured through the",
    ),
    (["--metrics="], "number of metrics must be at least 1; got 0"),
    (["--times=2"], "times must lie in [0.0, 1.0]; got 2.0"),
    (["--times=early"], "could not convert string to float: 'early'"),
    (["--steps=-1"], "flag --steps=-1"),
    (["--contexts=-1"], "flag --contexts=-1"),
    (["--ema=0.9"], "ema must be one of 0.5, 0.999, raw; got '0.9'"),
  ],
)
def test_mistakes(flags, message, trained, commands):
  assert message in commands("evaluate", f"--workdir={trained[0]}", *flags).mistake


def test_samples_without_weights_say_where_these_are_published(commands):
  flags = ["--samples=batch.npz", "--reference=adm.npz", "--metrics=fid"]
  message = (
    "--inception must name the file pt_inception-2015-12-05-6726825d.pth of https://github.com/mseitzer"
  )
  assert message in commands("evaluate", *flags).mistake
  assert "metrics posterior, which need a run" in commands("evaluate", "--samples=batch.npz").mistake
