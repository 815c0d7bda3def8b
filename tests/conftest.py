"""What every test shares: a strict, single-platform jax, the golden files and the real data.

The settings of the environment are made before jax is imported and reach the programs that tests
start, too. Each can be overridden from outside, e.g. JAX_PLATFORMS=cuda.
"""

import gc
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Iterator

_ROOT = pathlib.Path(__file__).resolve().parents[1]

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests and the programs that they start compile the same small functions again and again: a second
# run takes three quarters of the time. A damaged entry is a warning and a compilation.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
if os.environ["JAX_PLATFORMS"] == "cpu" and "optimization_level" not in os.environ.get("XLA_FLAGS", ""):
  # Most tests take longer to compile than to run: without optimisation the suite takes 3/4 of the time, and
  # with the older of two code generators half of that. Test processes that fill the cores gain nothing from
  # a module compiled in parts. An unknown flag would end every program.
  flags = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
  ]
  if importlib.metadata.version("jaxlib").startswith("0.10."):
    flags.append("--xla_cpu_use_fusion_emitters=false")
  os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
if "PYTEST_XDIST_WORKER" in os.environ:
  # Test processes share the cores: one thread each is faster than all threads each.
  os.environ.setdefault("OMP_NUM_THREADS", "1")
  os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
  if "xla_cpu_multi_thread_eigen" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
      os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    ).strip()

# Collecting garbage would take a twentieth of the time; most of what jax leaves behind is freed by counts.
gc.set_threshold(100_000, 20, 20)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# A key used twice and a broadcast over a missing axis are errors here. Flax and Optax hold to both.
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


class Golden:
  """The golden files of one folder: `golden("B_glass_velocity")` is a dict of NumPy arrays."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder

  def __call__(self, name: str) -> dict[str, np.ndarray]:
    """All arrays of `<name>.npz`."""
    with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
      return {key: file[key] for key in file.files}

  def json(self, name: str) -> dict:
    """The content of `<name>.json` (`configs`, `tolerances`)."""
    return json.loads((self.folder / f"{name}.json").read_text())

  def names(self, pattern: str = "*") -> list[str]:
    """The names, sorted, of the .npz files that match a shell pattern."""
    return sorted(path.stem for path in self.folder.glob(f"{pattern}.npz"))


def pytest_addoption(parser: pytest.Parser) -> None:
  parser.addoption(
    "--golden",
    default=str(_ROOT / "tests" / "golden"),
    metavar="FOLDER",
    help="folder of golden .npz and .json files (default: tests/golden)",
  )


def _golden(config: pytest.Config) -> Golden:
  folder = config.invocation_params.dir / config.getoption("golden")
  if not any(folder.glob("*.npz")):
    raise pytest.UsageError(f"--golden must name a folder of .npz files; got {str(folder)!r}")
  return Golden(folder)


@pytest.fixture(scope="session")
def golden(pytestconfig: pytest.Config) -> Golden:
  """Loader of the golden files in the folder that --golden names."""
  return _golden(pytestconfig)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
  """Cases of `golden_files`: which there are is up to the folder; those that start with `slow` are slow."""
  marker = metafunc.definition.get_closest_marker("golden_files")
  if marker is None:
    return
  before, after = (*marker.args, "")[:2]
  names = _golden(metafunc.config).names(f"{before}*{after}")
  cases = [name.removeprefix(before).removesuffix(after) for name in names]
  slow = marker.kwargs.get("slow", ())
  marks = [pytest.mark.slow if case.startswith(slow) else () for case in cases]
  metafunc.parametrize("case", [pytest.param(c, marks=m) for c, m in zip(cases, marks, strict=True)])


@pytest.fixture(scope="session")
def mfm_data_dir() -> pathlib.Path:
  """The folder of real data sets that MFM_DATA_DIR names; skips where it is not set."""
  value = os.environ.get("MFM_DATA_DIR")
  if not value:
    pytest.skip("MFM_DATA_DIR is not set: no real data sets here")
  folder = pathlib.Path(value)
  if not folder.is_dir():
    raise pytest.UsageError(f"MFM_DATA_DIR must name a folder; got {value!r}")
  return folder


@pytest.fixture
def x64() -> Iterator[None]:
  """Double precision inside one test, for checks at tolerance 1e-8."""
  with jax.enable_x64(True):
    yield
