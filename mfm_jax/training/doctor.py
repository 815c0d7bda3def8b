"""What a machine has for this project, and what is broken."""

import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from packaging.requirements import Requirement

_PACKAGE = "mfm_jax"
_LITTLE = 2 << 30  # bytes of disk: a checkpoint of a large run may not fit
# What says that an accelerator is there, the backend that uses it, and how to get it.
_HARDWARE = (
  ("/proc/driver/nvidia/version", "gpu", "an NVIDIA GPU", 'pip install "jax[cuda13]" -c requirements.txt'),
  ("/dev/accel0", "tpu", "a TPU", 'pip install "jax[tpu]" -c requirements.txt'),
)


def examine() -> dict[str, Any]:
  """Looks at everything.

  Returns:
    python, platform, versions, extras, devices, cache, data, disk, computation: see docs/cli.md; `problems`,
    what is required and broken, and `notes`, what is worth knowing, as sentences.
  """
  out: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
  problems: list[str] = []
  notes: list[str] = []
  out["versions"], out["extras"] = _versions(problems, notes)
  for name, look in (("devices", _devices), ("computation", _computation)):
    try:
      out[name] = look(notes)
    except Exception as error:  # whatever a broken driver or library raises
      out[name] = None
      problems.append(f"{name}: {' '.join(str(error).split()) or type(error).__name__}")
  out["cache"], out["data"], out["disk"] = _cache(notes), _data(problems), _disk(notes)
  return {**out, "problems": problems, "notes": notes}


def _versions(problems: list[str], notes: list[str]) -> tuple[dict[str, str | None], dict[str, Any]]:
  """Versions of what is required, and of the parts of each extra, by the metadata of the project."""
  required: dict[str, str | None] = {_PACKAGE: _version(_PACKAGE), "jaxlib": _version("jaxlib")}
  extras: dict[str, dict[str, str | None]] = {}
  try:
    wanted = [Requirement(text) for text in importlib.metadata.requires(_PACKAGE) or []]
  except importlib.metadata.PackageNotFoundError:
    notes.append("mfm_jax is not installed, so that no versions were compared: pip install -e .")
    return required, extras
  for need in wanted:
    found = _version(need.name)
    extra = re.search(r"""extra\s*==\s*["'](\w+)["']""", str(need.marker))
    if extra:
      extras.setdefault(extra[1], {})[need.name] = found
      continue
    required[need.name] = found
    if found is None:
      problems.append(f"{need.name} must be installed; got none")
    elif not need.specifier.contains(found, prereleases=True):
      problems.append(f"{need.name} must be {need.specifier}; got {found}")
  return required, extras


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _devices(notes: list[str]) -> dict[str, Any]:
  """Backend, kind and number of the devices that JAX sees."""
  found = jax.devices()
  for sign, backend, what, how in _HARDWARE:
    if pathlib.Path(sign).exists() and backend != jax.default_backend():
      notes.append(f"{what} is here, and JAX does not use it: {how}")
  return {
    "backend": jax.default_backend(),
    "kind": found[0].device_kind,
    "count": len(found),
    "cores": os.cpu_count(),
  }


def _computation(notes: list[str]) -> dict[str, float]:
  """Seconds of compiling and running a small product with its gradient; raises where it is wrong."""
  del notes
  x = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
  step = jax.jit(jax.grad(lambda x: 0.5 * jnp.sum(x @ x.T)))
  compiled, compiling = _timed(lambda: step.lower(x).compile())
  got, running = _timed(lambda: np.asarray(compiled(x)))
  want = np.broadcast_to(x.sum(0), x.shape)
  error = float(np.abs(got - want).max() / np.abs(want).max())
  if not error <= 1e-2:  # of bfloat16, which some devices multiply in
    raise ValueError(f"a gradient must be right to 1e-2; got the relative error {error:.1e}")
  return {"seconds_compile": round(compiling, 3), "seconds": round(running, 5)}


def _timed(act: Callable[[], Any]) -> tuple[Any, float]:
  start = time.perf_counter()
  return act(), time.perf_counter() - start


def _cache(notes: list[str]) -> dict[str, Any]:
  """Folder, number and bytes of the compiled programs that are kept."""
  folder = pathlib.Path(jax.config.values["jax_compilation_cache_dir"] or "")
  sizes = [path.stat().st_size for path in folder.glob("*") if path.is_file()] if folder.is_dir() else []
  there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
  if not os.access(there, os.W_OK):
    notes.append(f"programs are compiled anew at every start: {folder} is not writable")
  return {"path": str(folder), "files": len(sizes), "bytes": sum(sizes)}


def _data(problems: list[str]) -> dict[str, Any]:
  """The data sets in MFM_DATA_DIR and in the folder of TensorFlow Datasets."""
  given = os.environ.get("MFM_DATA_DIR", "")
  if given and not pathlib.Path(given).is_dir():
    problems.append(f"MFM_DATA_DIR must name a folder; got {given!r}")
  tfds = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  return {
    "MFM_DATA_DIR": {"path": given, "found": _folders(given)},
    "TFDS_DATA_DIR": {"path": tfds, "found": _folders(tfds)},
  }


def _folders(path: str) -> list[str]:
  folder = pathlib.Path(path).expanduser()
  if not path or not folder.is_dir():
    return []
  return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def _disk(notes: list[str]) -> dict[str, Any]:
  """Bytes of the file system of this folder, where runs go by default."""
  usage = shutil.disk_usage(".")
  if usage.free < _LITTLE:
    notes.append(f"little disk is free here: {usage.free / 2**30:.2f} GiB")
  return {"path": str(pathlib.Path.cwd()), "bytes_free": usage.free, "bytes": usage.total}


def text(found: dict[str, Any]) -> str:
  """What `examine` found, for people; `problems` and `notes` apart."""
  extras = [f"{extra} ({_listed(parts)})" for extra, parts in found["extras"].items()]
  devices, computation, cache = found["devices"], found["computation"], found["cache"]
  data = [
    f"${name} ({place['path'] or 'not set'}): {', '.join(place['found']) or 'none'}"
    for name, place in found["data"].items()
  ]
  lines = {
    "system": f"Python {found['python']}, {found['platform']}",
    "versions": _listed(found["versions"]),
    "extras": ", ".join(extras),
    "devices": devices
    and f"{devices['count']} {devices['kind']} ({devices['backend']}), {devices['cores']} cores",
    "computation": computation
    and f"compiled in {computation['seconds_compile']} s, ran in {1e3 * computation['seconds']:.2f} ms",
    "cache": f"{cache['files']} programs, {cache['bytes'] / 2**20:.1f} MiB in {cache['path']}",
    "data": "; ".join(data),
    "disk": f"{found['disk']['bytes_free'] / 2**30:.1f} GiB free in {found['disk']['path']}",
  }
  return "\n".join(f"{name:<12} {value or 'broken'}" for name, value in lines.items())


def _listed(versions: dict[str, str | None]) -> str:
  return ", ".join(f"{name} {version}" if version else f"no {name}" for name, version in versions.items())
