"""Commands up to where their work begins: are their flags and their configuration accepted?

python -m parse_only reads [[name, *flags], ...] as JSON and prints [[name, *flags], answer] for each: "", or
the error that `python -m experiments.<name>` would end in. A command has a process of its own.
"""

import collections
import contextlib
import io
import json
import os
import runpy
import sys

from absl import flags

from experiments import cli, config_flag
from experiments.configs import common  # noqa: F401  # imported once for all commands, as those below
from mfm_jax.training import distributed, generate, loop  # noqa: F401


def _parse_each(commands: list[list[str]], answers: io.TextIOBase) -> None:
  """Stands for cli.run: every command in turn, in a fork of the program that has defined its flags."""

  def check():
    if "config" in flags.FLAGS:
      config_flag.read(flags.FLAGS["config"])
    return {}

  def run(main, *args, **how):
    for command in commands:
      sys.argv[1:] = command[1:]
      told = io.StringIO()
      if _child():
        continue
      quiet = contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO())
      with quiet[0], quiet[1], contextlib.suppress(SystemExit):
        real(check, *args, **how)
      print(json.dumps([command, told.getvalue()]), file=answers, flush=True)
      os._exit(0)

  real, cli.run = cli.run, run
  runpy.run_module(f"experiments.{commands[0][0]}", run_name="__main__", alter_sys=True)


def _child() -> int:
  """0 in a fork; in its parent, when it has ended, its process id."""
  child = os.fork()
  if child:
    os.waitpid(child, 0)
  return child


if __name__ == "__main__":
  distributed.join, distributed.is_primary = lambda **how: None, lambda: True
  programs = collections.defaultdict(list)
  for each in json.load(sys.stdin):
    programs[each[0]].append(each)
  for mine in programs.values():
    if not _child():
      _parse_each(mine, sys.stdout)
      os._exit(0)
