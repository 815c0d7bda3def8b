"""What made the contents of a run folder: for each command the code, its versions and the hardware."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

from mfm_jax import types
from mfm_jax.viz.files import write_atomically

FILE = "provenance.json"  # in the run folder: name of a command -> `here`


def here(command: str = "") -> dict[str, str]:
  """The code, versions and hardware of this process, and the command line, as it is given."""
  device = jax.devices()[0]
  return {
    "command": command,
    "date": datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes"),
    "mfm_jax": importlib.metadata.version("mfm_jax"),
    "commit": commit(),
    "jax": jax.__version__,
    "python": platform.python_version(),
    "system": f"{platform.system()} {platform.machine()}",
    "devices": f"{jax.device_count()} x {device.device_kind}",
    "processes": str(jax.process_count()),
    "processor": f"{_processor()}, {os.cpu_count()} cores",
  }


def commit() -> str:
  """The git commit of the code, with "and changes" where files differ from it; "" where it is not known."""
  package = pathlib.Path(types.__file__).parent
  try:
    top = _git(package, "rev-parse", "--show-toplevel")
    # An installed package may lie in the repository of somebody else's project.
    if pathlib.Path(top, "mfm_jax").resolve() == package.resolve():
      changed = _git(package, "status", "--porcelain", "--untracked-files=no")
      return _git(package, "rev-parse", "HEAD") + " and changes" * bool(changed)
  except (OSError, subprocess.SubprocessError):
    pass
  # pip leaves the commit of what it installed from a repository.
  origin = importlib.metadata.distribution("mfm_jax").read_text("direct_url.json") or "{}"
  return json.loads(origin).get("vcs_info", {}).get("commit_id", "")


def record(workdir: str | os.PathLike, name: str, command: str, *, of: str = "") -> None:
  """Keeps `here` in the folder as the origin of what the command `name` left there.

  Args:
    workdir: the run folder.
    name: of the command, such as "train".
    command: its command line.
    of: identity of the result; where it is that of the last record, a finished command was called again and
      the record stays.
  """
  records = read(workdir)
  if of and records.get(name, {}).get("of") == of:
    return
  records[name] = {**here(command), **({"of": of} if of else {})}
  write_atomically(pathlib.Path(workdir) / FILE, (json.dumps(records, indent=2) + "\n").encode())


def read(workdir: str | os.PathLike) -> dict[str, dict[str, Any]]:
  """All records of a folder; none of a folder without."""
  path = pathlib.Path(workdir) / FILE
  return json.loads(path.read_text()) if path.exists() else {}


def _git(folder: pathlib.Path, *arguments: str) -> str:
  done = subprocess.run(
    ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
  )
  return done.stdout.strip()


def _processor() -> str:
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor()
  names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
  return names[0] if names else platform.processor()
