"""python -m experiments.benchmark: rows, what is left in the folder, going on, mistakes."""

import json

import numpy as np
import pytest
import run_case

SMALL = ["--config.steer.seeds=1", "--config.draws=(1,4)", "--config.samplers=(sde, ode)"]
ORACLE = ["--suite=gmm:smoke", "--oracle", *SMALL, "--config.steer.dps.renormalise=clip"]
METHODS = "--config.steer.methods=base,best_of_n,dps,mfm_gf,smc,search"


@pytest.fixture(scope="module")
def done(commands, tmp_path_factory):
  folder = tmp_path_factory.mktemp("benchmark")
  return folder, commands("benchmark", *ORACLE, METHODS, f"--workdir={folder}")


def test_a_row_for_every_method_and_number_of_draws(done):
  folder, result = done
  stored = json.loads((folder / "benchmark.json").read_text())
  assert {**result.json, "config": stored["config"]} == stored
  assert all(row["error"] is None for row in stored["rows"])
  assert stored["parameters"] == "oracle"
  assert stored["objective"] == "sw2"
  assert stored["floor"]["sw2"] > 0
  rows = [(row["sampler"], row["method"], row["draws"]) for row in stored["rows"]]
  for sampler in ("sde", "ode"):
    expected = [("base", 0), ("best_of_n", 1), ("best_of_n", 4), ("dps", 0), ("mfm_gf", 4)]
    assert [row[1:] for row in rows if row[0] == sampler and row[1] != "smc"] == expected
  assert [row for row in rows if row[1] == "smc"] == [("sde", "smc", 4)]
  assert [row for row in rows if row[1] == "search"] == [("", "search", 1), ("", "search", 4)]
  assert len(set(rows)) == len(rows)
  assert {row["steps"] for row in stored["rows"]} == {8}
  assert (folder / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_a_method_that_diverges_is_a_row_of_its_own(commands, tmp_path):
  flags = ["--suite=gmm:smoke", "--oracle", "--config.steer.seeds=1", "--config.steer.methods=('dps','base')"]
  steps, scale = "--config.dps_steps=(0,16)", "--config.steer.dps.scales=(1e30,)"
  done = commands("benchmark", *flags, steps, scale, "--config.samplers=('sde',)", f"--workdir={tmp_path}")
  errors = [(row["method"], row["steps_asked"], row["error"]) for row in done.json["rows"]]
  assert errors[2] == ("base", 0, None)
  for (method, asked, error), expected in zip(errors, (0, 16), strict=False):
    assert (method, asked) == ("dps", expected)
    assert "finite" in error or "NaN" in error


def test_rows_that_are_there_are_not_measured_again(done, commands):
  folder, first = done
  path = folder / "benchmark.json"
  content = json.loads(path.read_text())
  kept = [row for row in content["rows"] if row["method"] != "mfm_gf"]
  path.write_text(json.dumps({**content, "rows": kept}))
  again = commands("benchmark", *ORACLE, METHODS, f"--workdir={folder}")
  assert f"going on with {path}: {len(kept)} rows" in again.out
  assert "mfm_gf, N = 4: seed 0" in again.out
  assert "dps: seed 0" not in again.out

  def figures(done):
    return {(r["sampler"], r["method"], r["draws"]): r["sw2"] for r in done.json["rows"]}

  assert figures(again) == pytest.approx(figures(first), rel=1e-5)
  other = commands("benchmark", *ORACLE, METHODS, f"--workdir={folder}", "--config.steer.steps=9")
  assert "is of another benchmark; got config.steer.steps: 8 -> 9" in other.mistake


def test_the_rows_are_measured_in_parts_and_gathered(commands, tmp_path):
  flags = ["--suite=gmm:smoke", "--oracle", "--config.steer.seeds=1", "--config.samplers=('ode',)"]
  flags += ["--config.steer.methods=('base','best_of_n')", f"--workdir={tmp_path}"]
  parts = [commands("benchmark", *flags, f"--part={i}/2").json["rows"] for i in (1, 0)]
  assert [[row["method"] for row in rows] for rows in parts] == [["best_of_n"] * 2, ["base"]]
  assert not (tmp_path / "benchmark.json").exists()
  done = commands("benchmark", *flags)
  assert "samples," not in done.out.partition("passes each")[0]  # nothing was measured again
  assert sorted(map(str, done.json["rows"])) == sorted(str(row) for rows in parts for row in rows)
  other = commands("benchmark", *flags, "--config.steer.steps=9", "--part=0/2")
  assert "is of another benchmark" in other.mistake


def test_a_run_is_trained_once_and_measured(commands, tmp_path):
  methods, samplers = "--config.steer.methods=('mfm_gf',)", "--config.samplers=('sde',)"
  flags = ["--suite=gmm:smoke", "--config.steer.seeds=1", "--config.draws=(1,4)", methods, samplers]
  size = [f"--config.run.{key}={value}" for key, value in run_case.SIZE.items()]
  done = commands("benchmark", *flags, *size, f"--workdir={tmp_path / 'a'}")
  assert len(done.json["rows"]) == 1
  assert (tmp_path / "a" / "run" / "summary.json").exists()
  given = commands(
    "benchmark", *flags, *size, f"--workdir={tmp_path / 'b'}", f"--run={tmp_path / 'a' / 'run'}"
  )
  assert given.json["parameters"] == done.json["parameters"]
  assert given.json["rows"][0]["sw2"] == pytest.approx(done.json["rows"][0]["sw2"], rel=1e-5)
  assert not (tmp_path / "b" / "run").exists()


@pytest.mark.slow
def test_estimators_of_the_gradient(commands, tmp_path):
  flags = ["--oracle", "--config.variance.schemes=('independent','sobol')", f"--workdir={tmp_path}"]
  done = commands("benchmark", "--suite=variance:smoke", *flags)
  rows = done.json["rows"]
  assert len(rows) == 2 * 3 * 2  # rewards, estimators, schemes
  first = rows[0]
  assert (first["estimator"], first["scheme"], first["ratio"]) == ("mfm_gf", "independent", 1.0)
  for row in rows:
    assert row["error"] == pytest.approx(np.mean(list(row["errors"].values())))
    assert row["error_se"] >= 0
    assert row["nfe"] == (16 if row["estimator"] == "mfm_gf" else 32)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      ["--suite=cifar"],
      "--suite must be one of gmm, imagenet_fid, imagenet_steering, inpainting, mnist, mnist_cpu, variance, "
      "variance_digits, throughput; got",
    ),
    (["--suite=gmm:smoke", "--config=x.py"], "--suite and --config exclude each other"),
    (["--suite=gmm:smoke", "--part=0/2"], "--part needs kind=steering, and --run or --oracle"),
    ([*ORACLE, "--part=2/2"], "--part must be i/n with i from 0 to n - 1; got 2/2"),
    ([*ORACLE, "--config.strengths=(2.0,)"], "strengths must be absent where methods are compared by sw2"),
    (["--suite=gmm:smoke", "--oracle", "--run=x"], "--run and --oracle exclude each other"),
    (["--suite=variance:smoke"], "a benchmark without config.run needs --run or --oracle; got neither"),
    (["--suite=inpainting:smoke", "--oracle"], "--oracle must be absent for kind=inverse"),
    ([*ORACLE, "--ema=raw"], "for kind=fid and with --ema; got"),
    (
      ["--suite=gmm:smoke", "--config.kind=variance", "--config.run.loss.consistency=none"],
      "posterior draws need a run trained as a map",
    ),
    (["--suite=inpainting:smoke", "--config.inverse.num=500"], "num must be at most 360"),
    (["--suite=mnist:smoke", "--config.run.data.path=nowhere"], "nowhere"),
    ([], "--config must name a configuration; got none"),
    (["--suite=gmm:smoke", "--run=nowhere"], "no such folder"),
    ([*ORACLE, "--config.draws=(1,0)"], "draws must be at least 1; got 0"),
    (
      ["--suite=gmm:smoke", "--oracle", "--config.draws=(1,)"],
      "largest draws, for mfm_gf must be at least 2; got 1",
    ),
    ([*ORACLE, "--config.samplers=ode,heun"], "samplers must be one of ode, sde; got 'heun'"),
    ([*ORACLE, "--config.kind=speed"], "kind must be one of steering, variance, inverse, fid; got 'speed'"),
    (["--suite=gmm:smoke", "--config.steer.teacher=oracle", "--run=x"], "--run and --oracle exclude"),
    ([*ORACLE, "--config.run.steqs=5"], "unknown config key config.run.steqs (did you mean steps?)"),
    ([*ORACLE, "--config.variance.repeats=1"], "variance.repeats must be at least 2; got 1"),
    ([*ORACLE, "--config.steer.smc.particles=5"], "num must be a multiple of smc.particles; got num=32"),
  ],
)
def test_mistakes(flags, message, commands, tmp_path):
  done = commands("benchmark", *flags, f"--workdir={tmp_path / 'x'}")
  assert message in done.mistake
  assert not (tmp_path / "x" / "benchmark.json").exists()


def test_a_folder_must_be_named(commands):
  assert "--workdir must name a folder; got none" in commands("benchmark", *ORACLE).mistake
