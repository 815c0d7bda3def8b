"""The notebooks run from the first cell to the last, at tiny sizes, and become .ipynb files."""

import ast
import json
import pathlib
import runpy
import sys

import jax
import pytest
from PIL import Image

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
PICTURES = {
  "bring_your_own_flow": {"posterior", "samples"},
  "bring_your_own_reward": {"chessboard", "hacking", "ring"},
  "inspect_mfm": {"posterior", "steered", "value"},
}


def test_every_notebook_is_here():
  assert {path.stem for path in FOLDER.glob("*.py")} - {"convert"} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
  monkeypatch.setenv("MFM_TINY", "1")
  monkeypatch.setenv("MFM_RUN", str(tmp_path / "run"))
  monkeypatch.setenv("MFM_FIGURES", str(tmp_path / "figures"))
  # As a user has it: the strictness of the tests is for the library.
  with jax.numpy_rank_promotion("allow"):
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
  pictures = list((tmp_path / "figures").iterdir())
  assert {path.stem for path in pictures} == PICTURES[name]
  for path in pictures:
    assert Image.open(path).convert("L").getextrema()[0] < 128


@pytest.fixture(scope="module")
def convert():
  return runpy.run_path(str(FOLDER / "convert.py"))


@pytest.mark.parametrize("name", PICTURES)
def test_a_converted_notebook_has_every_cell_and_says_where_it_installs_from(name, convert):
  source = (FOLDER / f"{name}.py").read_text()
  notebook = json.loads(json.dumps(convert["notebook"](source, "git+https://host.test/me/mfm_jax")))
  assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
  cells = notebook["cells"]
  assert len(cells) == source.count("\n# %%")
  assert len({cell["id"] for cell in cells}) == len(cells)
  assert cells[0]["cell_type"] == "markdown"
  assert "".join(cells[0]["source"]).startswith("# ")
  code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
  assert 'REPOSITORY = "git+https://host.test/me/mfm_jax"' in code[0]
  original = source.replace('REPOSITORY = ""', 'REPOSITORY = "git+https://host.test/me/mfm_jax"')
  assert ast.dump(ast.parse("\n".join(code))) == ast.dump(ast.parse(original))
  for cell in cells:
    text = "".join(cell["source"])
    assert text
    assert text == text.strip("\n")
    if cell["cell_type"] == "code":
      assert (cell["outputs"], cell["execution_count"]) == ([], None)
      ast.parse(text)


@pytest.mark.parametrize(
  ("origin", "address"),
  [
    ("https://host.test/me/x.git", "git+https://host.test/me/x.git"),
    ("https://name:secret@host.test/me/x", "git+https://host.test/me/x"),
    ("git@host.test:me/x.git", "git+https://host.test/me/x.git"),
    ("ssh://git@host.test/me/x.git", "git+https://host.test/me/x.git"),
    ("/home/me/x", ""),
    ("", ""),
  ],
)
def test_the_address_is_that_of_the_origin_without_credentials(origin, address, convert):
  assert convert["address"](origin) == address


@pytest.mark.parametrize("repository", ["", "git+https://host.test/me/x"])
def test_in_colab_the_first_cell_installs(repository, monkeypatch):
  calls = []
  monkeypatch.setitem(sys.modules, "google.colab", object())
  monkeypatch.setattr("subprocess.run", lambda command, check: calls.append(command))
  for name in PICTURES:
    source = (FOLDER / f"{name}.py").read_text().replace('REPOSITORY = ""', f'REPOSITORY = "{repository}"')
    cell = next(part for part in source.split("\n# %%") if "REPOSITORY" in part)
    if repository:
      exec(cell, {})
      assert calls.pop()[1:] == ["-m", "pip", "install", "--quiet", repository]
    else:
      with pytest.raises(ValueError, match="set REPOSITORY to the address of the library; got none"):
        exec(cell, {})
