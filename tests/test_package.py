"""The package: what importing it takes, the list of its public names, and the wheel."""

import importlib.util
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import venv
import zipfile

import pytest
import run_case
from test_imports import ORDER

import mfm_jax

SEEN = "import sys; print(*sorted({'jax', 'flax', 'orbax', 'matplotlib'} & set(sys.modules)))"


def _python(code: str, **environment: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-c", code],
    env=run_case.environment(**environment),
    capture_output=True,
    text=True,
    check=True,
  )


def test_modules_are_imported_when_they_are_used():
  assert sorted(ORDER) == mfm_jax.__all__
  assert set(mfm_jax.__all__) <= set(dir(mfm_jax))
  with pytest.raises(AttributeError, match="module 'mfm_jax' has no attribute 'orakles'"):
    mfm_jax.orakles  # noqa: B018
  out = _python(f"import mfm_jax; {SEEN}; mfm_jax.oracles.paper_mixture(); {SEEN}").stdout.splitlines()
  assert out == ["", "jax"]


@pytest.mark.slow
def test_importing_everything_takes_at_most_twice_what_jax_and_flax_take():
  """Medians of alternating processes; what a training imports, all of it."""
  everything = (
    "import mfm_jax; [getattr(mfm_jax, name) for name in mfm_jax.__all__]; import mfm_jax.training.loop"
  )
  cases = {"libraries": "import jax, flax", "lazy": "import mfm_jax", "everything": everything}
  seconds: dict[str, list[float]] = {name: [] for name in cases}
  for _ in range(5):
    for name, code in cases.items():
      timed = f"import time; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"
      seconds[name].append(float(_python(timed).stdout))
  median = {name: statistics.median(values) for name, values in seconds.items()}
  assert median["everything"] <= 2 * median["libraries"], median
  assert median["lazy"] <= median["libraries"], median


def test_the_list_of_public_names_is_current():
  spec = importlib.util.spec_from_file_location("api", run_case.ROOT / "docs" / "api.py")
  api = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(api)
  page = api.page()
  assert page == api.PATH.read_text(), "python docs/api.py writes it anew"
  assert "` |  |" not in page, "every public name has a docstring"
  assert "| `denoiser_from_velocity(interpolant, t, x, v)` | D from v (MATH 1.2)." in page


@pytest.mark.slow
def test_the_wheel_works_by_itself(tmp_path):
  """Built, installed into a new environment beside the dependencies of this one, used from another folder."""
  source = tmp_path / "source"  # a build leaves folders behind, which a later one would take files from
  for package in ("mfm_jax", "experiments"):
    shutil.copytree(run_case.ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(run_case.ROOT / name, source)
  build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={tmp_path}", source]
  subprocess.run(build, check=True, capture_output=True)
  (wheel,) = tmp_path.glob("*.whl")
  names = set(zipfile.ZipFile(wheel).namelist())
  for package in ("mfm_jax", "experiments"):
    sources = {path.relative_to(run_case.ROOT).as_posix() for path in (run_case.ROOT / package).rglob("*.py")}
    assert {name for name in names if name.startswith(f"{package}/")} == sources
  assert {name.partition("/")[0].partition("-")[0] for name in names} == {"mfm_jax", "experiments"}
  venv.create(tmp_path / "venv", with_pip=False)
  (place,) = (tmp_path / "venv").glob("lib/python*/site-packages")
  zipfile.ZipFile(wheel).extractall(place)
  (place / "dependencies.pth").write_text(str(pathlib.Path(pytest.__file__).parents[1]) + "\n")
  environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
  flags = ["--config=gmm:smoke", *run_case.FLAGS[1:], "--workdir=run"]
  done = subprocess.run(
    [tmp_path / "venv" / "bin" / "python", "-m", "experiments.train", *flags],
    env=environment,
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout.splitlines()[-1])["steps"] == 20
  where = [tmp_path / "venv" / "bin" / "python", "-c", "import mfm_jax; print(mfm_jax.__file__)"]
  shown = subprocess.run(where, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
  assert shown.stdout.startswith(str(place))
