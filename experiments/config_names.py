"""The configurations that come with the project, by name."""

import ast
import difflib
import json
import pathlib

CONFIGS = pathlib.Path(__file__).parent / "configs"


def shipped() -> dict[str, str]:
  """Name -> first line of the docstring, of our configurations."""
  files = sorted(path for path in CONFIGS.glob("*.py") if path.stem not in ("__init__", "common"))
  notes = {path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in files}
  return {name: note.partition("\n")[0] for name, note in notes.items()}


def resolve(given: str) -> str:
  """The file, with its mode, that `given` names: one of ours by its name, or a file.

  Raises:
    ValueError: neither, with the nearest name, or another mode than smoke.
  """
  path, colon, mode = given.partition(":")
  if mode not in ("", "smoke"):
    raise ValueError(f"--config=<file>:<mode> must have the mode smoke or none; got {mode!r}")
  ours = shipped()
  if path in ours:
    return f"{CONFIGS / path}.py{colon}{mode}"
  if not pathlib.Path(path).is_file():
    close = difflib.get_close_matches(pathlib.Path(path).stem, ours, n=1)
    hint = f"did you mean {close[0]}?" if close else "--config=list shows ours"
    raise ValueError(f"--config must name a file or one of our configurations; got {path!r} ({hint})")
  return given


def show() -> None:
  """Prints our configurations, the JSON line last."""
  ours = shipped()
  for name, line in ours.items():
    print(f"{name:<{max(map(len, ours))}}  {line}")
  print(json.dumps({"configs": ours}), flush=True)
