"""Where arrays live: a mesh of devices, batches split over all of it, training state by rules."""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mfm_jax import checks
from mfm_jax.types import PyTree

AXES = ("data", "fsdp")
LARGEST, WHOLE = "largest", "whole"
SCANNED = "blocks"  # arrays of layers that are scanned have this in their path, and the layers as axis 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """How a training is spread over the devices of all processes.

  Attributes:
    fsdp: devices that share one copy of the state. Of n devices n / fsdp have further copies (axis `data`); a
      batch is split over all n. A step gathers the parameters (`whole`); gradients, averages and optimiser
      stay in parts.
    rules: (pattern, how...): the first whose regular expression is found in the path of an array, such as
      params/net/blocks/qkv/kernel, says which of its axes is split. How: "largest", the largest axis that
      fsdp divides; "whole"; or an axis of the mesh, or "", for each axis of the array. What a training reads
      beside its state has other paths: net/... of a teacher; base/net/... and reward/<number> of fine-tuning.
    min_size: elements; "largest" keeps smaller arrays whole.
  """

  fsdp: int = 1
  rules: tuple[tuple[str, ...], ...] = (("", LARGEST),)
  min_size: int = 2**16

  def __post_init__(self):
    checks.at_least("mesh.fsdp", self.fsdp, 1)
    checks.at_least("mesh.min_size", self.min_size, 0)
    for pattern, *how in self.rules:
      try:
        re.compile(pattern)
      except re.error as error:
        raise ValueError(
          f"mesh.rules must begin with a regular expression; got {pattern!r}: {error}"
        ) from None
      if not how:
        raise ValueError(f"mesh.rules must say how after the pattern; got {pattern!r} alone")
      for name in how:
        checks.one_of("mesh.rules after the pattern", name, [*AXES, "", LARGEST, WHOLE])
      named = [name for name in how if name]
      if len(set(named)) < len(named) or (len(how) > 1 and {LARGEST, WHOLE} & {*named}):
        raise ValueError(
          f"mesh.rules must have {LARGEST} or {WHOLE} alone, or each axis of the mesh once; got {how} after "
          f"{pattern!r}"
        )


def make_mesh(config: MeshConfig | None = None) -> Mesh:
  """The devices of all processes as `data` x `fsdp`.

  Raises:
    ValueError: config.fsdp does not divide their number.
  """
  fsdp, count = (config or MeshConfig()).fsdp, jax.device_count()
  if count % fsdp:
    raise ValueError(f"mesh.fsdp must divide the number of devices; got {fsdp} of {count}")
  return _mesh((count // fsdp, fsdp), jax.devices())


def local_mesh() -> Mesh:
  """This process's own devices, along `data`."""
  devices = jax.local_devices()
  return _mesh((len(devices), 1), devices)


def _mesh(sizes, devices) -> Mesh:
  # Auto: with the default Explicit axes every operation would have to name its output's sharding.
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
  """A full copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
  """The leading axis split over all devices."""
  return NamedSharding(mesh, PartitionSpec(AXES))


def by_rules(tree: PyTree, mesh: Mesh, config: MeshConfig) -> PyTree:
  """The shardings of arrays, or of their shapes, by `config.rules`.

  Raises:
    ValueError: an array that no rule matches, or one that a rule does not fit.
  """

  def place(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return NamedSharding(mesh, _spec(name, leaf.shape, mesh, config))

  return jax.tree_util.tree_map_with_path(place, tree)


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh, config: MeshConfig) -> PartitionSpec:
  if not shape:
    return PartitionSpec()
  how = next((how for pattern, *how in config.rules if re.search(pattern, name)), None)
  if how is None:
    raise ValueError(f"mesh.rules must have a pattern for every array; got none for {name} {shape}")
  if how == [WHOLE]:
    return PartitionSpec()
  if how == [LARGEST]:
    first = 1 if SCANNED in name.split("/") else 0
    size = mesh.shape["fsdp"]
    fitting = [axis for axis in range(first, len(shape)) if shape[axis] % size == 0]
    if not fitting or np.prod(shape) < config.min_size:
      return PartitionSpec()
    axis = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * axis, "fsdp")
  if len(how) != len(shape) or any(n and shape[axis] % mesh.shape[n] for axis, n in enumerate(how)):
    raise ValueError(
      f"mesh.rules must fit the arrays that they match; got {how} for {name} {shape} on {dict(mesh.shape)}"
    )
  return PartitionSpec(*[n or None for n in how])


def place(tree: PyTree, shardings: PyTree) -> PyTree:
  """Arrays that every process has whole as global arrays in these places."""

  def put(leaf: Any, sharding: NamedSharding):
    if sharding.is_fully_addressable:
      return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

  return jax.tree.map(put, tree, shardings)


def whole(tree: PyTree, mesh: Mesh | None) -> PyTree:
  """In a compiled program: arrays in parts gathered on every device of the mesh.

  Left to itself the compiler splits activations by features, as the parameters are, and sums them over the
  devices in every layer.
  """
  if mesh is None or mesh.size == 1:
    return tree
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, replicated(mesh)), tree)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
  """Raises unless the devices share the batch, or each of the parts that it is worked through in, equally."""
  if batch_size % (mesh.size * accumulate):
    parts = f" in {accumulate} parts" if accumulate > 1 else ""
    raise ValueError(
      f"batch_size must be a multiple of the number of devices; got {batch_size}{parts} on {mesh.size}"
    )


def rows_of_process(batch_size: int, mesh: Mesh) -> np.ndarray:
  """The rows of a global batch that this process's devices hold, ascending.

  They need not follow each other: on a TPU pod a mesh goes along the wires, from host to host and back.
  """
  places = over_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([np.arange(batch_size)[place] for place in places]))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> PyTree:
  """The rows of `rows_of_process` as global arrays, split over the devices."""
  sharding = over_batch(mesh)
  return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def of_rows(rows: int) -> NamedSharding | None:
  """`over_batch` of this process's devices for a batch that they share equally; None where they cannot."""
  mesh = local_mesh()
  return over_batch(mesh) if mesh.size > 1 and rows % mesh.size == 0 else None


def split_rows(x: jax.Array) -> jax.Array:
  """In a compiled program: rows split over this process's devices, where they can share them equally."""
  rows = of_rows(len(x))
  return x if rows is None else jax.lax.with_sharding_constraint(x, rows)
