"""The published weights of the Inception network of FID, with batch normalisation folded in."""

import pathlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from mfm_jax.convert.files import read_state
from mfm_jax.models import inception
from mfm_jax.types import PyTree

FILE = "pt_inception-2015-12-05-6726825d.pth"
SOURCE = "https://github.com/mseitzer/pytorch-fid/releases"
EPSILON = 1e-3  # of its batch normalisation
_NORM = ("weight", "bias", "running_mean", "running_var")


def read_inception(path: str | pathlib.Path) -> PyTree:
  """Parameters of `models.inception.Inception` from FILE (extra `torch`), or from it as .safetensors.

  Raises:
    ValueError: no such file (the message says where it is published), one that cannot be read, a tensor that
      is missing, unknown or of another shape.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"--inception must name the file {FILE} of {SOURCE}; got {str(path)!r}: no such file")
  try:
    return to_params(read_state(path))
  except ValueError as error:
    raise ValueError(f"{path} must hold the weights of {FILE}, of {SOURCE}: {error}") from error


def to_params(state: Mapping[str, np.ndarray]) -> PyTree:
  """Parameters from the published state dict; y = (W * x - mean) weight / sqrt(var + EPSILON) + bias.

  Raises:
    ValueError: a tensor that is missing, unknown or of another shape.
  """
  expected = dict(shapes())
  # Counts of training steps, which some versions of PyTorch write.
  given = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
  for name in expected:
    if name not in given:
      raise ValueError(f"an Inception state dict must hold {name}; got {len(given)} other tensors")
  for name, value in given.items():
    if name not in expected:
      raise ValueError(f"an Inception state dict must hold its {len(expected)} tensors alone; got {name}")
    if np.shape(value) != expected[name]:
      raise ValueError(f"{name} must have shape {expected[name]}; got {np.shape(value)}")
  out: dict = {"fc": {"kernel": _float32(given["fc.weight"].T)}, "fc_bias": _float32(given["fc.bias"])}
  for name in expected:
    if not name.endswith(".conv.weight"):
      continue
    layer = name.removesuffix(".conv.weight")
    kernel, *norm = (np.asarray(given[f"{layer}.{leaf}"], np.float64) for leaf in ("conv.weight", *_bn()))
    weight, bias, mean, variance = norm
    scale = weight / np.sqrt(variance + EPSILON)
    leaves = {"kernel": kernel.transpose(2, 3, 1, 0) * scale, "bias": bias - mean * scale}
    node = out
    for part in layer.split("."):
      node = node.setdefault(part, {})
    node["conv"] = {leaf: _float32(value) for leaf, value in leaves.items()}
  return out


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
  """Every tensor of the published state dict, (name, shape), counts of steps apart."""
  x = jax.ShapeDtypeStruct((1, inception.SIZE, inception.SIZE, 3), np.float32)
  params = jax.eval_shape(inception.Inception().init, jax.random.key(0), x)["params"]
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    *layer, end = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
    if end == "kernel" and layer[-1] == "conv":
      height, width, inputs, outputs = leaf.shape
      yield ".".join([*layer, "weight"]), (outputs, inputs, height, width)
      yield from ((".".join([*layer[:-1], name]), (outputs,)) for name in _bn())
  yield "fc.weight", (inception.LOGITS, inception.POOL)
  yield "fc.bias", (inception.LOGITS,)


def _bn() -> list[str]:
  return [f"bn.{leaf}" for leaf in _NORM]


def _float32(value: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(value, np.float32)
