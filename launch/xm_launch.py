"""Trainings through XManager, one for each combination of swept keys: on this machine or on Vertex AI.

python launch/xm_launch.py --workdir=runs/sweep --sweep=config.seed=0,1,2 \\
    --sweep=config.optimizer.learning_rate=1e-3,3e-4 -- --config=gmm --config.steps=2000
python launch/xm_launch.py --where=vertex --accelerator=tpu_v3=8 --workdir=/gcs/<bucket>/sweep ... -- ...

After -- come the flags of the command (--command=train, or another of experiments/). Every work unit has its
own folder in --workdir, named by its values: the same launch again resumes what was stopped and leaves alone
what is finished. Local work units run one after another. --dry_run prints the commands and needs no XManager
(pip install '.[launch]').
"""

import asyncio
import dataclasses
import itertools
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]

_WHERE = flags.DEFINE_enum("where", "local", ["local", "vertex"], "Where the work units run.")
_COMMAND = flags.DEFINE_string("command", "train", "Module of experiments/.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the folders of all work units.")
_SWEEP = flags.DEFINE_multi_string("sweep", [], "<flag>=<value>,<value>: every combination is a work unit.")
_ACCELERATOR = flags.DEFINE_string("accelerator", "", "Vertex: <type>=<count>, e.g. tpu_v3=8 or a100=1.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands, launch nothing.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkUnit:
  """One training: its name, which is that of its folder, and the arguments of Python."""

  name: str
  args: tuple[str, ...]


def parse_sweep(text: str) -> tuple[str, list[str]]:
  """The flag and its values of `config.seed=0,1`; commas within brackets are part of a value.

  Raises:
    ValueError: no flag, no value, or the same value twice.
  """
  name, equals, values = text.lstrip("-").partition("=")
  split = re.split(r",(?![^(\[]*[)\]])", values)
  if not name or not equals or "" in split:
    raise ValueError(f"--sweep must be <flag>=<value>,<value>; got {text!r}")
  if len(set(split)) < len(split):
    raise ValueError(f"the values of a --sweep must differ; got {text!r}")
  return name, split


def work_units(command: str, given: Sequence[str], sweeps: Sequence[str], workdir: str) -> list[WorkUnit]:
  """Every combination of the swept values.

  Args:
    command: module of experiments/.
    given: flags of the command, the same for all.
    sweeps: see `parse_sweep`; the last varies fastest.
    workdir: folder of their folders.

  Raises:
    ValueError: an unknown command, no workdir, one among the flags or swept, a flag swept twice, and what
      `parse_sweep` raises.
  """
  if not (ROOT / "experiments" / f"{command}.py").is_file():
    raise ValueError(f"--command must be a module of experiments/; got {command!r}")
  if not workdir:
    raise ValueError("--workdir must name a folder; got none")
  swept = [parse_sweep(text) for text in sweeps]
  names = [name for name, _ in swept]
  if len(set(names)) < len(names):
    raise ValueError(f"every flag must be swept once; got {', '.join(names)}")
  if "workdir" in [*names, *(flag.lstrip("-").partition("=")[0] for flag in given)]:
    raise ValueError("--workdir must come before --: it is the folder of the work units' folders")
  units = []
  for values in itertools.product(*(values for _, values in swept)):
    own = [f"{name}={value}" for name, value in zip(names, values, strict=True)]
    name = ",".join(_file_name(setting.removeprefix("config.")) for setting in own) or "run"
    args = [*given, *(f"--{setting}" for setting in own), f"--workdir={workdir}/{name}"]
    units.append(WorkUnit(name=name, args=("-m", f"experiments.{command}", *args)))
  if len({unit.name for unit in units}) < len(units):
    raise ValueError(f"the values of a --sweep must differ in their file names; got {' '.join(sweeps)}")
  return units


def parse_accelerator(text: str) -> dict[str, int]:
  """{type: count} of `tpu_v3=8`, empty for none; ValueError for anything else."""
  if not text:
    return {}
  found = re.fullmatch(r"(\w+)=([1-9]\d*)", text)
  if not found:
    raise ValueError(f"--accelerator must be <type>=<count>, e.g. tpu_v3=8; got {text!r}")
  return {found[1]: int(found[2])}


async def launch(units: Sequence[WorkUnit], where: str, accelerator: dict[str, int]) -> list[str]:
  """Runs the work units as one XManager experiment; returns the names of those that failed.

  Local ones run one after another, in the Python of this process; those on Vertex AI at once, each on one
  machine in an image of this checkout (launch/Dockerfile), and are waited for.
  """
  try:
    from xmanager import xm, xm_local
  except ImportError as error:
    raise ValueError(f"launching needs XManager: pip install '.[launch]' ({error})") from None
  local = where == "local"
  if local:
    executor = xm_local.Local()
  else:
    executor = xm_local.Vertex(requirements=xm.JobRequirements(**accelerator))
  running: list[tuple[str, Any]] = []
  failed: list[str] = []
  try:
    async with xm_local.create_experiment("mfm") as experiment:
      if local:
        what = xm.binary(executor.Spec(), sys.executable, env_vars={"PYTHONPATH": str(ROOT)})
      else:
        what = xm.dockerfile_container(executor.Spec(), str(ROOT), str(ROOT / "launch" / "Dockerfile"))
      (executable,) = experiment.package([what])
      for unit in units:
        running.append((unit.name, await experiment.add(xm.Job(executable, executor, args=list(unit.args)))))
        if local:
          await _ended(*running[-1], failed)
      if not local:
        for name, work in running:
          await _ended(name, work, failed)
  except Exception:
    if not failed:  # at its end an experiment raises again what a work unit has raised
      raise
  return failed


async def _ended(name, work, failed) -> None:
  """Waits for a work unit; one that failed does not stop the others."""
  try:
    await work.wait_until_complete()
  except Exception as error:  # whatever the backend raises
    print(f"{name}: {error}", file=sys.stderr)
    failed.append(name)


def _file_name(text: str) -> str:
  return re.sub(r"[^\w.=+-]+", "_", text)


def main(argv: Sequence[str]) -> None:
  """Launches, or prints."""
  try:
    units = work_units(_COMMAND.value, argv[1:], _SWEEP.value, _WORKDIR.value)
    accelerator = parse_accelerator(_ACCELERATOR.value)
    if _DRY_RUN.value:
      for unit in units:
        print(shlex.join(["python", *unit.args]))
      return
    failed = asyncio.run(launch(units, _WHERE.value, accelerator))
  except ValueError as error:
    sys.exit(f"error: {error}")
  print(f"{len(units) - len(failed)} of {len(units)} work units finished")
  if failed:
    sys.exit(1)


if __name__ == "__main__":
  app.run(main)
