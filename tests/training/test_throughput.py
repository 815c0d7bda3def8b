"""Figures of speed are there, add up, and can be compared."""

import json

import jax
import numpy as np
import pytest
import run_case

from mfm_jax.training import step, throughput
from mfm_jax.training.throughput import ThroughputConfig


@pytest.fixture(scope="module")
def found():
  what = ThroughputConfig(
    repeats=3,
    consistency=("semigroup", "eulerian"),
    methods=("base", "mfm_gf", "mfm_g"),
    draws=(2,),
    peak=0.1,
  )
  return throughput.throughput(run_case.smoke(), what)


def test_every_program_has_its_row(found):
  names = ["train semigroup", "train eulerian", "steer base", "steer mfm_gf 2", "steer mfm_g 2"]
  assert [row["name"] for row in found["rows"]] == names
  for row in found["rows"]:
    assert 0 < row["seconds_low"] <= row["seconds"] <= row["seconds_high"]
    assert row["images"] == pytest.approx(16 / row["seconds"])
    assert row["mfu"] == pytest.approx(row["flops"] / row["seconds"] / 0.1e12)
    assert row["bytes_peak"] > 1e6
  train, eulerian, base, guided, steep = found["rows"]
  assert train["bytes"] > 0
  assert min(train["input_images"], train["live_ratio"], eulerian["live_ratio"]) > 0
  assert (base["nfe"], guided["nfe"], steep["nfe"]) == (1, 1 + 4, 1 + 8)
  # One forward; one and two draws; one, and two with their backward passes.
  assert [row["flops"] / base["flops"] for row in (guided, steep)] == [3, 7]


def test_the_timed_steps_stay_finite(monkeypatch):
  """Products of constants take an accelerator less power, and so less time."""
  last, compile_step = [], step.compile_step

  def watched(*args):
    compiled = compile_step(*args)

    def run(*args):
      state, metrics = compiled(*args)
      last[:] = [state.params, metrics["skipped"]]
      return state, metrics

    vars(run)["memory_analysis"] = compiled.memory_analysis
    return run

  monkeypatch.setattr(step, "compile_step", watched)
  throughput.throughput(run_case.smoke(), ThroughputConfig(repeats=3, consistency=("semigroup",)))
  assert not last[1]
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last[0]))


def test_an_earlier_measurement_is_compared_by_name(found, tmp_path):
  path = tmp_path / "old.json"
  old = {"rows": [{**row, "seconds": 2 * row["seconds"]} for row in found["rows"][:2]]}
  path.write_text(json.dumps(old))
  compared = throughput.compare(found, path)
  assert [row["name"] for row in compared] == ["train semigroup", "train eulerian"]
  assert [row["speed_up"] for row in compared] == pytest.approx([2, 2])
  path.write_text("[]")
  with pytest.raises(ValueError, match="--compare must name the JSON of a throughput"):
    throughput.compare(found, path)


@pytest.mark.parametrize(
  ("kind", "peak"),
  [
    ("NVIDIA H200", 989),
    ("TPU v4", 275),
    ("TPU v5 lite", 197),
    ("TPU v5e", 197),
    ("TPU v5p", 459),
    ("TPU v5", 459),
  ],
)
def test_the_peak_is_that_of_the_device(kind, peak):
  assert throughput.peak_of(kind) == peak


def test_no_peak_is_known_of_a_processor():
  assert throughput.peak_of(jax.local_devices(backend="cpu")[0].device_kind) == 0
  row = {"times": [1.0], "memory": None, "rows": 1, "flops": 8}
  assert throughput._finished(row, 0.0)["mfu"] is None
