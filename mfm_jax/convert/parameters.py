"""State dicts as parameters and back, strictly: every tensor is used once, and none is missing."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.convert import names
from mfm_jax.models import dit
from mfm_jax.models.dit import DiTConfig

State = dict[str, np.ndarray]


def strip_prefix(state: Mapping[str, np.ndarray], kind: str) -> tuple[State, str]:
  """The tensors under their own names, and the prefix that was taken away.

  A training program puts its module into others: "module." of data parallelism, any number of "model.", and
  for a Meta Flow Map one "dit.". Whatever stands before x_embedder.proj.weight must stand before all names.

  Raises:
    ValueError: tensors that do not share a prefix.
  """
  checks.one_of("kind", kind, names.KINDS)
  end = "x_embedder.proj.weight"
  first = next((name for name in state if name.endswith(end)), None)
  if first is None:
    raise ValueError(f"a {kind} state dict must hold {end}; got {_some(state)}")
  prefix = first.removesuffix(end)
  for name in state:
    if not name.startswith(prefix):
      raise ValueError(f"every name must start with {prefix!r}, as {first} does; got {name}")
  return {name.removeprefix(prefix): value for name, value in state.items()}, prefix


def to_params(state: Mapping[str, np.ndarray], kind: str, config: DiTConfig) -> tuple[dict, list[str]]:
  """Parameters of a DiT from a state dict whose prefix has been stripped.

  Args:
    state: float tensors by name.
    kind: one of `names.KINDS`.
    config: of the network; its encoder depth and flags cannot be read from tensors.

  Returns:
    (the tree below "net", the names of tensors that the kind is known to hold and that are not used).

  Raises:
    ValueError: a tensor that is missing, unknown, or of a shape that does not fit the others.
  """
  depth, width = _depth(state), _get(state, "x_embedder.proj.bias").shape[0]
  known = names.entries(kind, config, depth)
  unused = _check_names(state, kind, known)
  shapes = _shapes(state, kind, config, width)
  out: dict = {}
  for entry in known:
    values = [_get(state, name) for name in entry.names]
    for name, value in zip(entry.names, values, strict=True):
      expected = shapes(entry, name)
      if value.shape != expected:
        raise ValueError(f"{name} must have shape {expected}; got {value.shape}")
    values = [to_ours(np.asarray(value, np.float32), entry.layout) for value in values]
    put(out, entry.path, np.stack(values) if entry.scanned else values[0])
  _check_positions(state, width)
  if kind != "mfm":
    _without_context(out, width, int(np.prod(_get(state, "x_embedder.proj.weight").shape[1:])))
  return out, unused


def to_state(params: Mapping, kind: str, config: DiTConfig, *, patch: int, grid: int) -> State:
  """The inverse of `to_params`: bit-equal tensors under the published names, without a prefix.

  Args:
    params: the tree below "net".
    kind, config: as there.
    patch: side of a patch.
    grid: patches on a side of the image, for the fixed table of positions.

  Raises:
    ValueError: parameters that the kind has no tensor for and that are not zero.
  """
  width = params["state"]["bias"].shape[0]
  depth = params["blocks"]["qkv"]["bias"].shape[0]
  if kind != "mfm":
    _check_without_context(params, kind)
  positions = dit.sincos_positions(grid, grid, width)[None]
  out = {"pos_embed": positions}
  for entry in names.entries(kind, config, depth):
    value = np.asarray(take(params, entry.path))
    values = value if entry.scanned else value[None]
    for name, item in zip(entry.names, values, strict=True):
      out[name] = to_theirs(item, entry.layout, patch)
  if config.joint_attention:
    out |= {f"blocks.{i}.pos_embed": positions for i in range(depth)}
  return out


def _check_names(state, kind, known) -> list[str]:
  """Raises for a missing or an unknown name; gives those that are known and not used."""
  wanted = {name for entry in known for name in entry.names}
  for name in sorted(wanted - set(state)):
    raise ValueError(f"a {kind} state dict must hold {name}; got none")
  extra = [name for name in state if name not in wanted and not names.POSITIONS.fullmatch(name)]
  pattern = names.UNUSED.get(kind)
  for name in extra:
    if pattern is None or not pattern.fullmatch(name):
      raise ValueError(f"a {kind} state dict must hold nothing but its {len(wanted)} tensors; got {name}")
  if "pos_embed" not in state:
    raise ValueError(f"a {kind} state dict must hold pos_embed; got none")
  return sorted(extra)


def _shapes(state, kind, config, width):
  """The shape that every tensor must have, from the few that sizes are read from."""
  embed = _get(state, "x_embedder.proj.weight")
  if embed.ndim != 4 or embed.shape[0] != width or embed.shape[2] != embed.shape[3]:
    raise ValueError(f"x_embedder.proj.weight must have shape ({width}, C, p, p); got {embed.shape}")
  outputs = embed[0].size * (2 if config.learn_sigma else 1)
  hidden = dit.TIME_FEATURES
  parts = {"qkv": 3, "context_kv": 2, "mlp_in": 4, "modulation": 7 if config.joint_attention else 6}
  parts |= {"modulation_out": 2, "context_modulation": 2}

  def shape(entry, name):
    layer, leaf = entry.path[-2:]
    if leaf == "embedding":
      return (_get(state, name).shape[0], width)
    if leaf == "scale":
      return _get(state, entry.names[0]).shape
    features = outputs if layer == "out" and len(entry.path) == 2 else parts.get(layer, 1) * width
    if leaf == "bias":
      return (features,)
    if entry.layout == "patch":
      return (features, *embed.shape[1:])
    if layer == "in":
      return (features, hidden)
    return (features, 4 * width if layer == "mlp_out" else width)

  return shape


def _check_positions(state, width):
  """The table is fixed and ours: a checkpoint with another one is another network."""
  for name in filter(names.POSITIONS.fullmatch, state):
    value = _get(state, name)
    grid = round(value.shape[1] ** 0.5) if value.ndim == 3 else 0
    expected = dit.sincos_positions(grid, grid, width)[None]
    # A checkpoint in half precision has it rounded.
    known = [expected.astype(dtype).astype(np.float32) for dtype in (np.float32, np.float16, jnp.bfloat16)]
    if not any(np.array_equal(value, table) for table in known):
      raise ValueError(
        f"{name} must be the fixed table of sines and cosines for a width of {width}; got another"
      )


def _without_context(params, width, patch_size):
  """The embeddings that weights without a context lack: zero; u is embedded as s is, in the decoder.

  Of an embedding of time the last layer alone is zero: two in a row would never get a gradient.
  """
  params["end_decoder"] = {layer: dict(leaves) for layer, leaves in params["start"].items()}
  for name in ("end", "start_decoder", "context_time"):
    last = {leaf: np.zeros_like(value) for leaf, value in params["start"]["out"].items()}
    params[name] = {"in": dict(params["start"]["in"]), "out": last}
  params["context"] = _zeros(patch_size, width)
  params["context_modulation"] = _zeros(width, 2 * width)


def _zeros(inputs, outputs):
  return {"kernel": np.zeros((inputs, outputs), np.float32), "bias": np.zeros(outputs, np.float32)}


def _check_without_context(params, kind):
  for layer in ("in", "out"):
    for leaf in ("kernel", "bias"):
      if not np.array_equal(params["start"][layer][leaf], params["end_decoder"][layer][leaf]):
        raise ValueError(
          f"start and end_decoder must be equal to be the one time embedding of {kind} weights"
        )
  for name in ("end", "start_decoder", "context_time"):
    if np.any(params[name]["out"]["kernel"]) or np.any(params[name]["out"]["bias"]):
      raise ValueError(f"{name} must be zero in {kind} weights, which have no such embedding; got others")
  for name in ("context", "context_modulation"):
    if np.any(params[name]["kernel"]) or np.any(params[name]["bias"]):
      raise ValueError(f"{name} must be zero in {kind} weights, which have no context; got others")
  if "guidance" in params:
    raise ValueError(f"{kind} weights take no scale of guidance; got a network that does")


def _depth(state) -> int:
  blocks = [int(name.split(".")[1]) for name in state if name.startswith("blocks.")]
  if not blocks:
    raise ValueError(f"a state dict must hold blocks.0, blocks.1 ...; got {_some(state)}")
  return 1 + max(blocks)


def to_ours(value: np.ndarray, layout: str) -> np.ndarray:
  """A published tensor in our layout; see `names.Entry`."""
  if layout == "linear":
    return value.T
  if layout == "conv":
    return value.transpose(2, 3, 1, 0)
  return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0]) if layout == "patch" else value


def to_theirs(value: np.ndarray, layout: str, patch: int = 0) -> np.ndarray:
  """The inverse of `to_ours`; `patch` is the side of one, for the layout of that name."""
  if layout == "linear":
    return np.ascontiguousarray(value.T)
  if layout == "conv":
    return np.ascontiguousarray(value.transpose(3, 2, 0, 1))
  if layout == "patch":
    return np.ascontiguousarray(value.reshape(patch, patch, -1, value.shape[-1]).transpose(3, 2, 0, 1))
  return np.asarray(value)


def _get(state, name):
  if name not in state:
    raise ValueError(f"a state dict must hold {name}; got {_some(state)}")
  return state[name]


def put(tree: dict, path: tuple[str, ...], value: np.ndarray) -> None:
  """Puts a leaf into nested dictionaries, which are made."""
  for name in path[:-1]:
    tree = tree.setdefault(name, {})
  tree[path[-1]] = value


def take(tree: Mapping, path: tuple[str, ...]) -> np.ndarray:
  """A leaf of nested dictionaries."""
  leaf: Any = tree
  for name in path:
    leaf = leaf[name]
  return leaf


def _some(state) -> str:
  listed = ", ".join(list(state)[:3])
  return f"{len(state)} tensors: {listed} ..." if state else "none"
