"""Commands as a user starts them, each a process of its own, without paying for its imports.

One server imports what all entry points need, which starts no threads, and forks for every command. The
child's arguments, output, exit status and signals are those of `python -m experiments.<name>`.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import run_case

_SERVER = """
import gc, json, os, runpy, sys, traceback
import matplotlib.pyplot, PIL.Image, sklearn.datasets, tensorboardX
from experiments import cli
from experiments.configs import common
from mfm_jax.training import demo_steering, fidelity, generate, loop, showcase

PIL.Image.preinit()
gc.set_threshold(100_000, 20, 20)
gc.freeze()  # no child looks for garbage in what all share
for line in sys.stdin:
  request = json.loads(line)
  child = os.fork()
  if child:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    continue
  for number, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(os.path.join(request["folder"], name), os.O_CREAT | os.O_WRONLY), number)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  sys.argv = request["argv"]
  status = 0
  try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
  except SystemExit as stop:
    status = stop.code or 0
  except BaseException:
    traceback.print_exc()
    status = 1
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
"""


@dataclasses.dataclass(frozen=True)
class Done:
  """What a command left."""

  status: int
  out: str
  err: str

  @property
  def json(self) -> dict[str, Any]:
    """The object on the last line; the command must have succeeded."""
    assert self.status == 0, self.err
    return json.loads(self.out.splitlines()[-1])

  @property
  def mistake(self) -> str:
    """The one line that a user's mistake ends in; checks status, output and that there is no more."""
    assert self.status == 2, self.out + self.err
    lines = self.err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines, self.err
    assert len(lines) == 1, self.err
    assert "{" not in self.out, "no figures after a mistake"
    return lines[0]


class Commands:
  """Call it: `commands("sample", "--workdir=...")`. Use as a context manager."""

  def __enter__(self):
    self._server = subprocess.Popen(
      [sys.executable, "-c", _SERVER],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=run_case.environment(),
      cwd=run_case.ROOT,
    )
    return self

  def __exit__(self, *exc):
    self._server.stdin.close()
    self._server.wait()
    self._server.stdout.close()

  def __call__(self, name: str, *argv: str | os.PathLike) -> Done:
    with tempfile.TemporaryDirectory() as folder:
      request = {"argv": [f"experiments.{name}", *map(str, argv)], "folder": folder}
      self._server.stdin.write(json.dumps(request) + "\n")
      self._server.stdin.flush()
      status = int(self._server.stdout.readline())
      out, err = (pathlib.Path(folder, stream).read_text() for stream in ("stdout", "stderr"))
    return Done(status, out, err)
