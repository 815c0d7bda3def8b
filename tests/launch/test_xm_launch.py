"""launch/xm_launch.py: arguments and dry runs everywhere; launching, where XManager is installed."""

import importlib.util
import pathlib
import subprocess
import sys
import types

import pytest
import run_case

PATH = run_case.ROOT / "launch" / "xm_launch.py"


@pytest.fixture(scope="module")
def xm_launch() -> types.ModuleType:
  """The launcher, which is no part of a package."""
  spec = importlib.util.spec_from_file_location("xm_launch", PATH)
  module = importlib.util.module_from_spec(spec)
  sys.modules["xm_launch"] = module
  spec.loader.exec_module(module)
  return module


def launched(*args: str, **environment: str) -> subprocess.CompletedProcess:
  """`python launch/xm_launch.py` of this Python."""
  return subprocess.run(
    [sys.executable, PATH, *args],
    env=run_case.environment(**environment),
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )


def test_every_combination_is_a_work_unit_with_its_own_folder(xm_launch):
  sweeps = ["config.seed=0,1", "config.ema=(0.9,0.99),(0.5,)", "num=3"]
  units = xm_launch.work_units("train", ["--config=gmm"], sweeps, "runs/s")
  assert [unit.name for unit in units] == [
    f"seed={seed},ema={ema},num=3" for seed in (0, 1) for ema in ("_0.9_0.99_", "_0.5_")
  ]
  given = ("--config=gmm", "--config.seed=1", "--config.ema=(0.5,)", "--num=3")
  assert units[-1].args == (
    "-m",
    "experiments.train",
    *given,
    "--workdir=runs/s/seed=1,ema=_0.5_,num=3",
  )
  assert [unit.name for unit in xm_launch.work_units("train", [], [], "runs/s")] == ["run"]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"command": "trian"}, "--command must be a module of experiments/; got 'trian'"),
    ({"workdir": ""}, "--workdir must name a folder; got none"),
    ({"given": ["--workdir=x"]}, "--workdir must come before --"),
    ({"sweeps": ["workdir=x,y"]}, "--workdir must come before --"),
    ({"sweeps": ["config.seed"]}, "--sweep must be <flag>=<value>,<value>; got 'config.seed'"),
    ({"sweeps": ["config.seed="]}, "--sweep must be <flag>=<value>,<value>; got 'config.seed='"),
    ({"sweeps": ["config.seed=1,,2"]}, "--sweep must be <flag>=<value>,<value>"),
    ({"sweeps": ["config.seed=1,1"]}, "the values of a --sweep must differ; got 'config.seed=1,1'"),
    ({"sweeps": ["config.seed=1", "config.seed=2"]}, "every flag must be swept once; got config.seed, "),
    ({"sweeps": ["config.init=a/b,a b"]}, "must differ in their file names; got config.init=a/b,a b"),
  ],
)
def test_mistakes_in_a_sweep(xm_launch, changes, message):
  arguments = {"command": "train", "given": [], "sweeps": [], "workdir": "runs/s", **changes}
  with pytest.raises(ValueError, match=message.replace("(", r"\(")):
    xm_launch.work_units(**arguments)


def test_accelerators(xm_launch):
  assert xm_launch.parse_accelerator("") == {}
  assert xm_launch.parse_accelerator("tpu_v3=8") == {"tpu_v3": 8}
  for text in ("tpu_v3", "tpu_v3=0", "tpu_v3=x", "=8"):
    with pytest.raises(ValueError, match=f"--accelerator must be <type>=<count>, .* got '{text}'"):
      xm_launch.parse_accelerator(text)


def test_a_dry_run_prints_commands_and_needs_no_xmanager(tmp_path):
  (tmp_path / "xmanager").mkdir()
  (tmp_path / "xmanager" / "__init__.py").write_text("raise ImportError('asked for')\n")
  flags = ["--workdir=runs/a b", "--sweep=config.seed=0,1"]
  given = ["--", "--config=gmm"]
  done = launched("--dry_run", *flags, *given, PYTHONPATH=str(tmp_path))
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.splitlines() == [
    f"python -m experiments.train --config=gmm --config.seed={seed} '--workdir=runs/a b/seed={seed}'"
    for seed in (0, 1)
  ]
  done = launched(*flags, *given, PYTHONPATH=str(tmp_path))
  assert done.returncode == 1
  assert done.stderr == "error: launching needs XManager: pip install '.[launch]' (asked for)\n"


def _needs_xmanager():
  return pytest.importorskip("xmanager", reason="XManager is not installed: pip install '.[launch]'")


@pytest.mark.slow
def test_a_local_sweep_runs_resumes_and_counts_failures(tmp_path):
  _needs_xmanager()
  flags = [f"--workdir={tmp_path / 'a b'}", "--sweep=config.interpolant=linear,wrong"]
  given = ["--", *run_case.FLAGS, "--config.steps=4"]
  done = launched(*flags, *given, HOME=str(tmp_path))  # where XManager keeps its records
  assert "1 of 2 work units finished" in done.stdout, done.stderr
  assert done.returncode == 1
  folders: list[pathlib.Path] = sorted((tmp_path / "a b").iterdir())
  assert [folder.name for folder in folders] == ["interpolant=linear"]
  summary = (folders[0] / "summary.json").read_bytes()
  flags[1] = "--sweep=config.interpolant=linear"
  done = launched(*flags, *given, HOME=str(tmp_path))
  assert "is finished: 4 of 4 steps" in done.stdout
  assert "1 of 1 work units finished" in done.stdout
  assert (folders[0] / "summary.json").read_bytes() == summary


def test_jobs_for_vertex(xm_launch, monkeypatch):
  """What reaches Vertex AI, with everything that would reach out replaced."""
  _needs_xmanager()
  import asyncio

  from xmanager import xm_local

  packaged, added = [], []

  class Work:
    def __init__(self, job):
      self.job = job

    async def wait_until_complete(self):
      if "--config.seed=0" in self.job.args.to_list(str):
        raise RuntimeError("lost")

  class Experiment:
    async def __aenter__(self):
      return self

    async def __aexit__(self, *exc):
      pass

    def package(self, what):
      packaged.extend(what)
      return ["image"]

    async def add(self, job):
      added.append(job)
      return Work(job)

  monkeypatch.setattr(xm_local, "create_experiment", lambda title: Experiment())
  units = xm_launch.work_units("train", ["--config=gmm"], ["config.seed=0,1"], "/gcs/b/s")
  assert asyncio.run(xm_launch.launch(units, "vertex", {"tpu_v3": 8})) == ["seed=0"]
  (image,) = packaged
  assert pathlib.Path(image.executable_spec.dockerfile).is_file()
  assert [tuple(job.args.to_list(str)) for job in added] == [unit.args for unit in units]
  for job in added:
    assert isinstance(job.executor, xm_local.Vertex)
    assert {str(key): value for key, value in job.executor.requirements.task_requirements.items()} == {
      "TPU_V3": 8
    }
