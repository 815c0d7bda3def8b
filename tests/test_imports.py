"""The layout holds: imports point up one list, and each library stays in its room.

Everything is read from the syntax trees; nothing is imported. The checker is a function from
sources to violations, so that the tests can show that it sees what it is there to see.
"""

import ast
import graphlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# A module or package of mfm_jax may import from itself and from those above it.
ORDER = (
  "types",
  "checks",
  "interpolants",
  "times",
  "flow_map",
  "glass",
  "precondition",
  "oracles",
  "models",
  "convert",
  "losses",
  "data",
  "sampling",
  "rewards",
  "steering",
  "metrics",
  "finetuning",
  "viz",
  "training",
)
# Takes callables, so that closed forms and other people's networks run through it.
NETWORK_FREE = ("losses", "sampling", "steering")
# Where a library may be imported at all: prefixes of modules.
ROOMS = {"flax": "mfm_jax.models", "orbax": "mfm_jax.training.checkpoint"}
# Not in the library: command line and configuration belong to the entry points.
OUTSIDE = (
  "absl.app",
  "absl.flags",
  "experiments",
  "launch",
  "ml_collections",
  "notebooks",
  "tests",
)
# Extras and heavy frameworks: only inside the function that needs them.
OPTIONAL = (
  "diffusers",
  "open_clip",
  "tensorflow",
  "tokenizers",
  "torch",
  "torchvision",
  "transformers",
  "wandb",
  "xmanager",
)
ENTRY_POINT_LINES = 80
FILE_LINES = 400
SOURCES = ("mfm_jax", "experiments", "launch", "notebooks", "tests", "docs")


class Import(NamedTuple):
  line: int
  target: str  # dotted; for `from a import b` this is a.b
  deferred: bool  # inside a function


def imports(source: str, module: str, *, package: bool = False) -> Iterator[Import]:
  """Every import of a source, also in functions and branches, with relative names resolved."""

  def visit(node: ast.AST, deferred: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield Import(node.lineno, alias.name, deferred)
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        parents = module.split(".")
        parents = parents[: len(parents) - node.level + package]
        base = ".".join([*parents, *([base] if base else [])])
      for alias in node.names:
        yield Import(node.lineno, f"{base}.{alias.name}", deferred)
    inside = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
      yield from visit(child, inside)

  yield from visit(ast.parse(source), False)


def within(name: str, prefix: str) -> bool:
  return name == prefix or name.startswith(prefix + ".")


def unit(module: str) -> str:
  """The entry of ORDER that a module of mfm_jax belongs to; empty for mfm_jax itself."""
  return module.partition(".")[2].partition(".")[0]


def module_name(path: str) -> str:
  return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def import_violations(sources: Mapping[str, str]) -> list[str]:
  """Breaches of the layout in sources of mfm_jax, keyed by path ("mfm_jax/losses/weighting.py")."""
  found = []
  graph: dict[str, set[str]] = {}
  modules = {module_name(path) for path in sources}
  for path, source in sources.items():
    module = module_name(path)
    here = unit(module)
    graph[module] = set()
    if here and here not in ORDER:
      found.append(f"{path}: {here} has no place in the import order")
      continue
    for line, target, deferred in imports(source, module, package=path.endswith("/__init__.py")):
      where = f"{path}:{line}: {target}"
      for library, room in ROOMS.items():
        if within(target, library) and not within(module, room):
          found.append(f"{where}: {library} is imported only in {room}")
      if any(within(target, name) for name in OUTSIDE):
        found.append(f"{where}: not for the library")
      if not deferred and any(within(target, name) for name in OPTIONAL):
        found.append(f"{where}: only inside the function that needs it")
      if not within(target, "mfm_jax"):
        continue
      there = unit(target)
      if not here:  # the package's own face may show everything
        continue
      if there not in ORDER:
        found.append(f"{where}: not a module of the import order")
      elif ORDER.index(there) > ORDER.index(here):
        found.append(f"{where}: {there} stands below {here} in the import order")
      elif there == "models" and here in NETWORK_FREE:
        found.append(f"{where}: {here} takes callables and never imports models")
      # `from a import b` names a module where a.b is one, and otherwise something in a.
      file = target if target in modules else target.rpartition(".")[0]
      if file != module:
        graph[module].add(file)
  try:
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    found.append("import cycle: " + " <- ".join(error.args[1]))
  return found


def length_violations(sources: Mapping[str, str]) -> list[str]:
  """Files over 400 lines, and entry points (experiments/<name>.py) that are not under 80."""
  found = []
  for path, source in sources.items():
    lines = len(source.splitlines())
    folder, _, name = path.rpartition("/")
    if folder == "experiments" and not name.startswith("_") and lines >= ENTRY_POINT_LINES:
      found.append(f"{path}: an entry point has < {ENTRY_POINT_LINES} lines; got {lines}")
    if lines > FILE_LINES:
      found.append(f"{path}: a file has at most {FILE_LINES} lines; got {lines}")
  return found


def read(*folders: str) -> dict[str, str]:
  paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
  return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def test_imports_of_the_library_keep_the_layout():
  sources = read("mfm_jax")
  assert "mfm_jax/types.py" in sources
  assert import_violations(sources) == []


def test_files_are_short():
  sources = read(*SOURCES)
  assert "tests/test_imports.py" in sources
  assert length_violations(sources) == []


@pytest.mark.parametrize(
  ("path", "source", "rule"),
  [
    ("mfm_jax/types.py", "from mfm_jax import glass", "stands below"),
    ("mfm_jax/types.py", "from . import glass", "stands below"),
    ("mfm_jax/losses/weights.py", "from ..training.step import step", "stands below"),
    ("mfm_jax/losses/__init__.py", "from ..training import step", "stands below"),
    ("mfm_jax/glass.py", "def f():\n  import mfm_jax.training", "stands below"),
    ("mfm_jax/glass.py", "import mfm_jax", "not a module of the import order"),
    ("mfm_jax/glass.py", "from mfm_jax import __version__", "not a module of the import order"),
    ("mfm_jax/helpers.py", "", "no place in the import order"),
    ("mfm_jax/helpers/more.py", "", "no place in the import order"),
    ("mfm_jax/sampling/ode.py", "from mfm_jax.models import mlp", "takes callables"),
    ("mfm_jax/steering/value.py", "def f():\n  from mfm_jax.models import mlp", "takes callables"),
    ("mfm_jax/losses/weights.py", "import mfm_jax.models.mlp", "takes callables"),
    ("mfm_jax/training/state.py", "from flax import struct", "flax is imported only in"),
    ("mfm_jax/__init__.py", "import flax.linen as nn", "flax is imported only in"),
    ("mfm_jax/training/loop.py", "import orbax.checkpoint as ocp", "orbax is imported only in"),
    ("mfm_jax/convert/torch.py", "import torch", "only inside the function"),
    ("mfm_jax/data/x.py", "try:\n  import tensorflow as tf\nexcept E: ...", "only inside"),
    ("mfm_jax/data/x.py", "class A:\n  from torch import nn", "only inside the function"),
    ("mfm_jax/training/run.py", "from experiments import cli", "not for the library"),
    ("mfm_jax/training/run.py", "def f():\n  import ml_collections", "not for the library"),
    ("mfm_jax/data/x.py", "from absl import flags", "not for the library"),
    ("mfm_jax/data/x.py", "import absl.flags", "not for the library"),
  ],
)
def test_the_checker_sees(path, source, rule):
  (violation,) = import_violations({path: source})
  assert violation.startswith(path)
  assert rule in violation


def test_the_checker_sees_a_cycle():
  sources = {
    "mfm_jax/models/unet.py": "from mfm_jax.models.layers import Block",
    "mfm_jax/models/layers.py": "def f():\n  from mfm_jax.models import unet",
  }
  (violation,) = import_violations(sources)
  assert violation.startswith("import cycle")


@pytest.mark.parametrize(
  ("path", "source"),
  [
    ("mfm_jax/__init__.py", "from mfm_jax import training, types\nfrom mfm_jax.glass import f"),
    ("mfm_jax/models/unet.py", "import flax.linen as nn\nfrom .layers import Block"),
    ("mfm_jax/training/checkpoint.py", "import orbax.checkpoint as ocp\nimport mfm_jax.types"),
    ("mfm_jax/convert/torch.py", "def f():\n  import torch"),
    ("mfm_jax/data/x.py", "from absl import logging\nimport tensorflow_datasets as tfds"),
    ("mfm_jax/checks.py", "from mfm_jax.types import Array"),
  ],
)
def test_the_checker_lets_pass(path, source):
  assert import_violations({path: source}) == []


def test_the_line_count_sees_long_files():
  line = "x = 1\n"
  sources = {
    "experiments/train.py": line * 80,
    "experiments/sample.py": line * 79,
    "experiments/__init__.py": line * 100,
    "experiments/configs/gmm.py": line * 100,
    "mfm_jax/glass.py": line * 401,
    "mfm_jax/times.py": line * 400,
  }
  found = length_violations(sources)
  assert [violation.partition(":")[0] for violation in found] == [
    "experiments/train.py",
    "mfm_jax/glass.py",
  ]
