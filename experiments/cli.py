"""What the entry points share: flags, one-line errors, the JSON line at the end."""

import json
import os
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags, logging

from experiments import config_flag
from mfm_jax.training import distributed, run_report
from mfm_jax.training.terminal import coloured

define_config, config, expect = config_flag.define, config_flag.read, config_flag.expect
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "Join the processes of a TPU pod, SLURM, Open MPI or GKE. Elsewhere JAX_COORDINATOR_ADDRESS (host:port), "
  "JAX_NUM_PROCESSES and JAX_PROCESS_ID say so, without this flag.",
)


def run(
  main: Callable[[], dict[str, Any]],
  expand: Callable[[list[str]], list[str]] = list,
  *,
  processes: bool = False,
) -> None:
  """Parses the flags, calls `main` and prints what it returns as one line of JSON.

  `expand` may replace the arguments before they are parsed; `processes` says that several may run `main`
  together, of which the primary prints.

  A user's mistake (ValueError), or a file that cannot be read or written (OSError), ends in one line and
  status 2; --debug shows the traceback.
  """
  use_compilation_cache()

  def guarded(argv):
    if not any(arg.startswith(("--verbosity", "-v")) for arg in sys.argv):
      logging.set_verbosity(logging.WARNING)  # JAX and orbax are talkative at INFO
    if len(argv) > 1:
      raise ValueError(f"every argument must be a --flag; got {argv[1]!r}")
    distributed.join(detect=_DISTRIBUTED.value)
    if not processes:
      distributed.require_one("this command")
    result = main()
    if distributed.is_primary():
      print(json.dumps(result), flush=True)

  try:
    app.run(guarded, flags_parser=lambda argv: config_flag.parse(expand(argv)))
  except (ValueError, OSError, flags.Error) as error:
    if flags.FLAGS.is_parsed() and _DEBUG.value:
      raise
    mark = coloured("error:", "red", sys.stderr)
    print(f"{mark} {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(2)


def report(workdir: str | os.PathLike, name: str, *, of: str = "") -> None:
  """The last thing that the command `name` does in a run folder: see `run_report.finish`."""
  if distributed.is_primary():
    command = shlex.join(["python", "-m", f"experiments.{name}", *sys.argv[1:]])
    run_report.finish(workdir, name, command, of=of)


def use_compilation_cache() -> None:
  """Keeps compiled programs between runs, in $JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "mfm_jax"))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
