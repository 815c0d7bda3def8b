"""The FID benchmark: its rows, what is published beside them, going on row by row, what is refused."""

import json

import fid_case
import numpy as np
import pytest

from experiments.configs import benchmark_imagenet_fid
from mfm_jax.metrics import published
from mfm_jax.metrics.reference import Fingerprint
from mfm_jax.training import benchmark, evaluation, fid_suite, image_metrics, shares
from mfm_jax.training.benchmark_config import BenchmarkConfig
from mfm_jax.training.config import from_dict


def config(**changes) -> BenchmarkConfig:
  values = benchmark_imagenet_fid.get_config("smoke").to_dict()
  values["fid"]["steps"] = (1, 4)
  values["fid"] |= changes
  return from_dict(BenchmarkConfig, values)


@pytest.fixture(autouse=True)
def closed_form(monkeypatch):
  """A run in closed form, features that cost nothing."""
  monkeypatch.setattr(benchmark, "load_run", lambda *args, **kwargs: fid_case.run())
  monkeypatch.setattr(evaluation, "extractor", fid_case.extractor)
  monkeypatch.setattr(shares, "CHUNK", fid_case.CHUNK)


def test_rows_and_going_on(tmp_path, monkeypatch, capsys):
  found = benchmark.benchmark(config(), tmp_path, run="run")
  rows = [(row["part"], row["steps"], row.get("t")) for row in found["rows"]]
  assert rows == [("samples", 1, None), ("samples", 4, None), ("posterior", 1, 0.0), ("posterior", 1, 0.5)]
  assert all(np.isfinite(row["fid"]) and row["num"] == 32 for row in found["rows"])
  four = found["rows"][1]
  assert (four["published"], four["published_source"]) == (1.97, "second-hand")
  assert found["rows"][0]["published"] is None
  assert found["extractor"]["weights_sha256"] == "abc"
  assert "DMF-XL/2+" in capsys.readouterr().out
  assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")

  # One row is measured again, with the statistics of the reference that are there.
  path, measured = tmp_path / "benchmark.json", []
  stored = json.loads(path.read_text())
  path.write_text(
    json.dumps({**stored, "rows": [row for row in stored["rows"] if row is not stored["rows"][1]]})
  )
  real = image_metrics.of_run
  monkeypatch.setattr(image_metrics, "of_run", lambda *a, **k: measured.append(k["steps"]) or real(*a, **k))
  monkeypatch.setattr(image_metrics, "of_source", lambda *args: pytest.fail("the reference is known"))
  again = benchmark.benchmark(config(), tmp_path, run="run")
  assert measured == [4]
  assert again["rows"][-1] == pytest.approx(four)

  other = Fingerprint(convention="adm", weights_sha256="def")
  monkeypatch.setattr(evaluation, "extractor", lambda *args, **kwargs: (fid_case.extract, other))
  path.write_text(json.dumps({**stored, "rows": stored["rows"][1:]}))
  with pytest.raises(ValueError, match=r"of another benchmark; got .*weights_sha256: 'abc' -> 'def'"):
    benchmark.benchmark(config(), tmp_path, run="run")


def test_mistakes(tmp_path):
  for changes, message in (
    ({"steps": (0,)}, r"fid\.steps must be at least 1; got 0"),
    ({"times": (2.0,)}, r"fid\.times must lie in"),
    ({"steps": (), "times": ()}, r"rows of fid\.steps and fid\.times must be at least 1; got 0"),
    ({"metrics": ("is",)}, r"fid\.metrics must hold fid; got is"),
    ({"metrics": ("fid", "posterior_fid")}, r"fid\.metrics must be one of .*; got 'posterior_fid'"),
    ({"images": {"write_samples": "a.npz"}}, r"write_samples and write_reference must be ''; |must be ''"),
    ({"guidance": 3.0}, r"guidance must be a scale the run was trained with \(1.0\); got 3.0"),
  ):
    with pytest.raises(ValueError, match=message):
      benchmark.benchmark(config(**changes), tmp_path, run="run")
  with pytest.raises(ValueError, match=r"--oracle must be absent for kind=inverse, for kind=fid"):
    benchmark.benchmark(config(), tmp_path, oracle=True)
  with pytest.raises(ValueError, match=r"needs --run or --oracle"):
    benchmark.benchmark(config(), tmp_path)


def test_what_is_published():
  assert published.at(4).fid == 1.97
  assert published.at(1) is None
  assert fid_suite.keys(config(times=()).fid) == [
    {"part": "samples", "steps": 1},
    {"part": "samples", "steps": 4},
  ]
