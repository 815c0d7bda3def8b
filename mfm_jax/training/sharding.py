"""Where arrays live: a mesh over all devices, batches split over it, state replicated."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mfm_jax.types import PyTree


def data_mesh() -> Mesh:
  """All devices of all processes along one axis, `data`."""
  # Auto: with the default Explicit axes every operation would have to name its output's sharding.
  return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  """A full copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
  """The leading axis split over the devices."""
  return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Raises unless the devices share the batch equally."""
  if batch_size % mesh.size:
    raise ValueError(
      f"batch_size must be a multiple of the number of devices; got {batch_size} on {mesh.size}"
    )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> PyTree:
  """This process's rows of a global batch as global arrays, split over the devices."""
  sharding = over_batch(mesh)
  return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def of_rows(rows: int) -> NamedSharding | None:
  """`over_batch` of all devices for a batch that they can share equally; None for one that they cannot."""
  mesh = data_mesh()
  return over_batch(mesh) if mesh.size > 1 and rows % mesh.size == 0 else None
