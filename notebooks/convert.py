"""The notebooks beside this file as .ipynb files, which Colab and Jupyter open: `make notebooks`.

A cell begins at "# %%" (markdown at "# %% [markdown]"), as jupytext has it. The cell that installs the
library in Colab gets the address of the repository that this clone came from.
"""

import json
import pathlib
import re
import subprocess
from typing import Any

FOLDER = pathlib.Path(__file__).resolve().parent


def main():
  """Writes <name>.ipynb for every <name>.py."""
  origin = subprocess.run(
    ["git", "-C", FOLDER, "remote", "get-url", "origin"], capture_output=True, text=True
  )
  repository = address(origin.stdout.strip())
  for path in sorted(FOLDER.glob("*.py")):
    if path.name != pathlib.Path(__file__).name:
      content = json.dumps(notebook(path.read_text(), repository), indent=1, ensure_ascii=False) + "\n"
      path.with_suffix(".ipynb").write_text(content)
      print(path.with_suffix(".ipynb"))
  print(f"in Colab they install {repository or 'what REPOSITORY in their first cell of code says'}")


def address(origin: str) -> str:
  """What pip installs a git remote from, without credentials; "" for one that only this machine sees."""
  match = re.fullmatch(r"(?:https://|ssh://|)(?:[^@/]+@)?([\w.-]+\.\w+)[:/](.+)", origin)
  return f"git+https://{match[1]}/{match[2]}" if match else ""


def notebook(source: str, repository: str) -> dict[str, Any]:
  """The notebook (nbformat 4.5) of a text in cells, without outputs."""
  source = source.replace('REPOSITORY = ""', f'REPOSITORY = "{repository}"')
  _, *parts = re.split(r"^# %%(.*)\n", source, flags=re.MULTILINE)
  cells = []
  for i, (kind, text) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
    cell: dict[str, Any] = {"id": f"cell-{i}", "metadata": {}}
    if kind.strip() == "[markdown]":
      text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
      cell["cell_type"] = "markdown"
    else:
      cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
    cells.append({**cell, "source": text.strip("\n").splitlines(keepends=True)})
  kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
  return {
    "cells": cells,
    "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
  }


if __name__ == "__main__":
  main()
