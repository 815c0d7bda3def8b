"""The flag --config=<name or file>[:smoke], its overrides --config.<key>=<value>, and mistakes in them."""

import ast
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags

from experiments import config_names
from mfm_jax.training.config import RunConfig, check_key, from_dict

_HELP = (
  "A configuration: one of ours by its name (gmm), or a file (x.py); with :smoke after it shrunk to seconds "
  "on a CPU. list shows ours. --config.<key>=<value> overrides a key, e.g. --config.optimizer.clip=1.0."
)
_KINDS: list[type] = []  # the class of the program's --config


def define(default: str = "", kind: type = RunConfig) -> flags.FlagHolder:
  """The flag --config=<name or file>[:smoke], with --config.<key>=<value> for every key of `kind`."""
  expect(kind)
  return config_flags.DEFINE_config_file("config", config_names.resolve(default) if default else None, _HELP)


def expect(kind: type) -> None:
  """Makes --config one of another class, before the flags are parsed."""
  _KINDS[:] = [kind]


def read(flag: flags.FlagHolder) -> Any:
  """The frozen configuration behind the flag; ValueError for an unknown key or a wrong type."""
  if flag.value is None:
    raise ValueError("--config must name a configuration; got none (--config=list shows those there are)")
  return from_dict(_KINDS[0], flag.value.to_dict())


def parse(argv: list[str]) -> list[str]:
  """absl's parser; mistakes in --config and --config.<key> become one-line ValueErrors first."""
  out, arguments = [], iter(argv)
  for arg in arguments:
    name, equals, value = arg.lstrip("-").partition("=") if arg.startswith("-") else ("", "", "")
    if name == "config":
      given = value if equals else next(arguments, "")
      if given == "list":
        config_names.show()
        sys.exit(0)
      arg = f"--config={config_names.resolve(given)}"
    elif name.startswith("config."):
      hint = check_key(_KINDS[0] if _KINDS else RunConfig, name.removeprefix("config."))
      if hint == tuple[str, ...] and equals:
        arg = f"--{name}={_words(value)}"
    out.append(arg)
  show_in_help()
  try:
    return flags.FLAGS(out)
  except SystemExit:  # of --help, which absl ends with status 1
    sys.exit(0)


def _words(value: str) -> str:
  """Words with commas between them as the tuple of strings that the parser takes; what it knows stays."""
  try:
    ast.literal_eval(value)
  except (SyntaxError, ValueError):
    return repr(tuple(word.strip() for word in value.strip("()[]").split(",") if word.strip()))
  return value


def show_in_help() -> None:
  """Makes --help list the flags that a command takes from other modules of this package, too."""
  for module, defined in flags.FLAGS.flags_by_module_dict().items():
    for flag in defined if module.startswith("experiments.") else []:
      flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
