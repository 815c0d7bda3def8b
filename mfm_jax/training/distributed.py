"""Several processes that run one program: how they join, and what one of them does for all."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mfm_jax.types import PyTree

COORDINATOR, PROCESSES, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def join(*, detect: bool = False) -> None:
  """Joins the other processes, before the first use of a device; without any, does nothing.

  The environment says which: JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and
  JAX_PROCESS_ID, all three; or, with `detect`, what a TPU pod, SLURM, Open MPI or GKE sets.

  Raises:
    ValueError: some of the three variables without the others, or no numbers; nothing to detect.
  """
  found = {name: os.environ[name] for name in (COORDINATOR, PROCESSES, INDEX) if os.environ.get(name)}
  if detect:
    try:
      jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
      raise ValueError(f"--distributed must find a cluster; got none: {error}") from None
    return
  if not found:
    return
  if len(found) < 3:
    raise ValueError(
      f"{COORDINATOR}, {PROCESSES} and {INDEX} must be set together, or --distributed given; got "
      f"{', '.join(sorted(found))} alone"
    )
  count, index = (_number(name, found[name]) for name in (PROCESSES, INDEX))
  if index >= count:
    raise ValueError(f"{INDEX} must be less than {PROCESSES}; got {index} of {count}")
  jax.distributed.initialize(found[COORDINATOR], count, index)


def _number(name: str, value: str) -> int:
  if not value.isdigit():
    raise ValueError(f"{name} must be a whole number; got {value!r}")
  return int(value)


def is_primary() -> bool:
  """Whether this process is the one that writes logs, pictures and results."""
  return jax.process_index() == 0


def on_primary(act: Callable[[], Any]) -> None:
  """Calls `act` in the primary process; the others wait until it is done.

  Raises:
    OSError: in the others, where it fails in the primary, which raises its own error.
  """
  error = None
  if is_primary():
    try:
      act()
    except Exception as found:
      error = found
  if not agreed(error is None):
    raise error or OSError("process 0 must do its part; got an error there")


def agreed(value: int) -> int:
  """The primary process's value, in every process."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def shared(make: Callable[[int], np.ndarray], shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
  """[make(0), make(1), ...], float32 of these shapes, in every process; each is made by one of them."""
  count, out = jax.process_count(), []
  for i, shape in enumerate(shapes):
    ours = i % count == jax.process_index()
    out.append(np.asarray(make(i), np.float32) if ours else np.zeros(shape, np.float32))
  if count == 1:
    return out
  # After all are made, or each process would wait for those before it.
  return [
    multihost_utils.broadcast_one_to_all(part, is_source=i % count == jax.process_index())
    for i, part in enumerate(out)
  ]


def share(items: Sequence[Any]) -> list[Any]:
  """This process's items: every k-th one, for k processes."""
  return list(items[jax.process_index() :: jax.process_count()])


def from_each(value: np.ndarray) -> list[np.ndarray]:
  """The arrays of all processes, bit for bit, in every process, which all must call it.

  They are of one type and one number of axes.
  """
  if jax.process_count() == 1:
    return [value]
  out = []
  for process in range(jax.process_count()):
    ours = process == jax.process_index()
    shape = multihost_utils.broadcast_one_to_all(np.array(value.shape, np.int32), is_source=ours)
    # As bytes: JAX would round 64 bits to 32.
    size = int(np.prod(shape, dtype=np.int64)) * value.dtype.itemsize
    data = np.frombuffer(value.tobytes(), np.uint8) if ours else np.zeros(size, np.uint8)
    data = multihost_utils.broadcast_one_to_all(data, is_source=ours) if size else data
    out.append(np.asarray(data).view(value.dtype).reshape(shape))
  return out


def require_one(what: str) -> None:
  """Raises a ValueError where `what` runs in several processes."""
  if jax.process_count() > 1:
    raise ValueError(f"{what} must run in one process; got {jax.process_count()}")


def to_host(tree: PyTree) -> PyTree:
  """Whole NumPy arrays, also of global ones, in every process; all must call it."""

  def whole(x):
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      return multihost_utils.process_allgather(x, tiled=True)
    return jax.device_get(x)

  return jax.tree.map(whole, tree)
