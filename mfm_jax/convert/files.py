"""Files of published weights: safetensors, and .pt without unpickling anything but tensors."""

import pathlib

import numpy as np
import safetensors
import safetensors.numpy

_TORCH = (".pt", ".pth", ".ckpt")


def read_state(
  path: str | pathlib.Path, *, entry: str = "", name: str = "--from", source: str = ""
) -> dict[str, np.ndarray]:
  """The tensors of a file as float32 arrays by name.

  Args:
    path: .safetensors, or .pt, .pth, .ckpt (which needs the extra `torch`).
    entry: of a .pt that holds several state dicts, such as "ema" or "model"; "" where it holds one, or has
      "ema" or "state_dict" among them.
    name: what errors call the path.
    source: which file it should be and where it is published, for errors.

  Raises:
    ValueError: no such file, another kind of file, one that is damaged or holds other things than tensors, no
      or an unknown entry where the file has several; torch not installed for a file that needs it.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"{name} must name {source or 'a file of weights'}; got {path}: no such file")
  if path.suffix == ".safetensors":
    state = _read_safetensors(path)
  elif path.suffix in _TORCH:
    state = _read_torch(path)
  else:
    raise ValueError(f"{name} must end in .safetensors, {', '.join(_TORCH)}; got {path}")
  state = _entry(state, entry, path)
  return {tensor: np.asarray(value, np.float32) for tensor, value in state.items()}


def write_state(path: str | pathlib.Path, state: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
  """Writes .safetensors with metadata.

  Raises:
    ValueError: another ending, a file that is there.
  """
  path = pathlib.Path(path)
  if path.suffix != ".safetensors":
    raise ValueError(f"weights are written as .safetensors; got {path}")
  if path.exists():
    raise ValueError(f"weights must go to a new file; {path} is there")
  path.parent.mkdir(parents=True, exist_ok=True)
  contiguous = {name: np.asarray(value, order="C") for name, value in state.items()}
  safetensors.numpy.save_file(contiguous, path, metadata)


def _read_safetensors(path):
  try:
    return safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, OSError, KeyError) as error:  # KeyError: a type that NumPy lacks
    raise ValueError(f"{path} must be a safetensors file of float tensors; got {error!r}") from error


def _read_torch(path):
  try:
    import torch
  except ImportError as error:
    raise ValueError(f"torch must be installed to read {path}: pip install 'mfm_jax[torch]'") from error
  import argparse

  try:
    # Checkpoints of SiT and its successors hold the arguments of their program beside the tensors.
    with torch.serialization.safe_globals([argparse.Namespace]):
      loaded = torch.load(path, map_location="cpu", weights_only=True)
  except Exception as error:
    raise ValueError(f"{path} must be a checkpoint of tensors alone; got {error}") from error
  return _arrays(loaded, torch)


def _arrays(value, torch):
  """Nested dictionaries with their tensors as float32 arrays, and nothing else."""
  if isinstance(value, torch.Tensor):
    return value.detach().to(torch.float32).numpy()
  if not isinstance(value, dict):
    return None
  found = {str(name): _arrays(item, torch) for name, item in value.items()}
  return {
    name: item for name, item in found.items() if item is not None and (not isinstance(item, dict) or item)
  }


def _entry(state, entry, path):
  """The one state dict of `state` that is meant."""
  groups = {name: value for name, value in (state or {}).items() if isinstance(value, dict)}
  if not groups:
    if entry:
      raise ValueError(f"--entry must be absent for {path}, which holds one state dict; got {entry}")
    if not state:
      raise ValueError(f"{path} must hold tensors by name; got none")
    return state
  default = [name for name in ("ema", "state_dict", *groups) if name in groups]
  choice = entry or (default[0] if len(groups) == 1 or default[0] in ("ema", "state_dict") else "")
  if choice not in groups:
    raise ValueError(f"--entry must be one of {', '.join(groups)} of {path}; got {entry!r}")
  if any(isinstance(value, dict) for value in groups[choice].values()):
    raise ValueError(f"{choice} of {path} must hold tensors by name; got groups of them")
  return groups[choice]
