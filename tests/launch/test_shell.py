"""The shell scripts: shellcheck, and launch/slurm.sh with an `srun` of our own."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import run_case

SCRIPTS = sorted(str(path.relative_to(run_case.ROOT)) for path in (run_case.ROOT / "launch").glob("*.sh"))


@pytest.mark.parametrize("script", [*SCRIPTS, ".ci/run"])
def test_shellcheck_finds_nothing(script):
  beside = shutil.which("shellcheck", path=pathlib.Path(sys.executable).parent)
  shellcheck = beside or shutil.which("shellcheck")
  if not shellcheck:  # make setup installs it where there is a wheel of it
    pytest.skip("shellcheck is not installed, and has no wheel for Linux on ARM")
  done = subprocess.run(
    [shellcheck, run_case.ROOT / script], capture_output=True, text=True, check=False, timeout=60
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("status", "again"), [(0, False), (143, True), (2, False)])
def test_a_preempted_job_queues_again_and_no_other(tmp_path, status, again):
  for name, body in {"srun": f'echo "$@" >ran; exit {status}', "scontrol": 'echo "$@" >requeued'}.items():
    (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
    (tmp_path / name).chmod(0o755)
  env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
  done = subprocess.run(
    [run_case.ROOT / "launch" / "slurm.sh", "--config=gmm", "--workdir=a b"],
    cwd=tmp_path,
    env=env,
    check=False,
    timeout=30,
  )
  assert done.returncode == status
  wanted = ".venv/bin/python -m experiments.train --config=gmm --workdir=a b --distributed\n"
  assert (tmp_path / "ran").read_text() == wanted
  assert (tmp_path / "requeued").exists() == again
  if again:
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_a_job_without_flags_says_how_it_is_used():
  done = subprocess.run(
    [run_case.ROOT / "launch" / "slurm.sh"], capture_output=True, text=True, check=False, timeout=30
  )
  assert done.returncode == 2
  assert "sbatch launch/slurm.sh --config=" in done.stdout
