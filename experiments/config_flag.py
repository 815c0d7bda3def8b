"""The flag --config=<file>.py[:smoke] with its overrides --config.<key>=<value>, and the mistakes in it."""

import pathlib
from typing import Any

from absl import flags
from ml_collections import config_flags

from mfm_jax.training.config import RunConfig, check_key, from_dict

_KINDS: list[type] = []  # the class of the program's --config


def define(default: str | None = None, kind: type = RunConfig) -> flags.FlagHolder:
  """The flag --config=<file>.py[:smoke], with --config.<key>=<value> for every key of `kind`."""
  expect(kind)
  return config_flags.DEFINE_config_file("config", default, "Configuration file, e.g. x.py:smoke.")


def expect(kind: type) -> None:
  """Makes --config one of another class, before the flags are parsed."""
  _KINDS[:] = [kind]


def read(flag: flags.FlagHolder) -> Any:
  """The frozen configuration behind the flag; ValueError for an unknown key or a wrong type."""
  if flag.value is None:
    raise ValueError("--config must name a configuration file; got none")
  return from_dict(_KINDS[0], flag.value.to_dict())


def parse(argv: list[str]) -> list[str]:
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
