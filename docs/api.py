"""Writes docs/api.md: the public names of mfm_jax with the first lines of their docstrings.

python docs/api.py

Public are functions and classes without an underscore, where they are defined; of a package also what its
__all__ takes from its modules. Nothing is imported: sources are parsed.
"""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATH = ROOT / "docs" / "api.md"
_HEAD = """# Public names

Written by `python docs/api.py` from the docstrings. `import mfm_jax` imports a module or package
when it is first used (`mfm_jax.oracles`); modules within a package are imported by name.
"""


def page() -> str:
  """The whole of docs/api.md."""
  library = ROOT / "mfm_jax"
  parts = [_HEAD]
  for path in sorted(library.rglob("*.py"), key=_order):
    tree = ast.parse(path.read_text())
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    is_package = path.name == "__init__.py"
    title = "##" if is_package or path.parent == library else "###"
    rows = [f"| `{_heading(node)}` | {_first_line(node)} |" for node in _public(tree)]
    parts.append(f"{title} {name}\n\n{_first_line(tree)}\n")
    if shown := _all(tree) if name != "mfm_jax" else []:
      parts.append(f"From its modules: {', '.join(f'`{each}`' for each in shown)}.\n")
    if rows:
      parts.append("\n".join(["| Name | |", "|---|---|", *rows]) + "\n")
  return "\n".join(parts)


def _order(path: pathlib.Path) -> tuple:
  """A package before its modules."""
  return path.parent, path.name != "__init__.py", path.name


def _public(tree: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
  """Functions and classes that a module defines and shows, in its order."""
  return [
    node
    for node in tree.body
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
  ]


def _all(tree: ast.Module) -> list[str]:
  """The names in __all__, which is a list of strings."""
  for node in tree.body:
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
      return ast.literal_eval(node.value)
  return []


def _heading(node: ast.FunctionDef | ast.ClassDef) -> str:
  """A function with the names of its arguments, a class with its name alone."""
  if isinstance(node, ast.ClassDef):
    return f"class {node.name}"
  arguments = node.args
  names = [arg.arg for arg in [*arguments.posonlyargs, *arguments.args]]
  if arguments.vararg:
    names.append(f"*{arguments.vararg.arg}")
  elif arguments.kwonlyargs:
    names.append("*")
  names += [arg.arg for arg in arguments.kwonlyargs]
  if arguments.kwarg:
    names.append(f"**{arguments.kwarg.arg}")
  return f"{node.name}({', '.join(names)})"


def _first_line(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
  """Of the docstring, to its first empty line: some sentences take two; `|` would end a cell."""
  note = (ast.get_docstring(node) or "").partition("\n\n")[0]
  return " ".join(note.split()).replace("|", "\\|")


if __name__ == "__main__":
  PATH.write_text(page())
