"""What the entry points share: flags, one-line errors, the JSON line at the end."""

import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from mfm_jax.training.config import RunConfig, check_key, from_dict

_KINDS: list[type] = []  # the class of the program's --config
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def define_config(default: str | None = None, kind: type = RunConfig) -> flags.FlagHolder:
  """The flag --config=<file>.py[:smoke], with --config.<key>=<value> for every key of `kind`."""
  _KINDS[:] = [kind]
  return config_flags.DEFINE_config_file("config", default, "Configuration file, e.g. x.py:smoke.")


def config(flag: flags.FlagHolder) -> Any:
  """The frozen configuration behind the flag; ValueError for an unknown key or a wrong type."""
  if flag.value is None:
    raise ValueError("--config must name a configuration file; got none")
  return from_dict(_KINDS[0], flag.value.to_dict())


def run(main: Callable[[], dict[str, Any]], expand: Callable[[list[str]], list[str]] = list) -> None:
  """Parses the flags, calls `main` and prints what it returns as one line of JSON.

  `expand` may replace the arguments before they are parsed.

  A user's mistake (ValueError), or a file that cannot be read or written (OSError), ends in one line and
  status 2; --debug shows the traceback.
  """
  use_compilation_cache()

  def guarded(argv):
    if not any(arg.startswith(("--verbosity", "-v")) for arg in sys.argv):
      logging.set_verbosity(logging.WARNING)  # JAX and orbax are talkative at INFO
    if len(argv) > 1:
      raise ValueError(f"every argument must be a --flag; got {argv[1]!r}")
    print(json.dumps(main()), flush=True)

  try:
    app.run(guarded, flags_parser=lambda argv: _parse(expand(argv)))
  except (ValueError, OSError, flags.Error) as error:
    if flags.FLAGS.is_parsed() and _DEBUG.value:
      raise
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(2)


def use_compilation_cache() -> None:
  """Keeps compiled programs between runs, in $JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    jax.config.update("jax_compilation_cache_dir", str(home / "mfm_jax"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _parse(argv):
  """absl's parser; mistakes in --config and --config.<key> become one-line ValueErrors first."""
  for arg, after in zip(argv[1:], [*argv[2:], ""]):
    name, equals, value = arg.lstrip("-").partition("=") if arg.startswith("-") else ("", "", "")
    if name == "config":
      path, _, mode = (value if equals else after).partition(":")
      if not pathlib.Path(path).is_file():
        raise ValueError(f"--config must name a file; got {path!r}")
      if mode not in ("", "smoke"):
        raise ValueError(f"--config=<file>:<mode> must have the mode smoke or none; got {mode!r}")
    elif name.startswith("config."):
      check_key(_KINDS[0] if _KINDS else RunConfig, name.removeprefix("config."))
  return flags.FLAGS(argv)
