"""The state of a training run: everything that a step reads and writes."""

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mfm_jax.types import Array, PyTree


class TrainState(NamedTuple):
  """All of it is saved in a checkpoint."""

  step: Array  # () int32, steps done
  params: PyTree
  opt_state: PyTree
  ema: dict[str, PyTree]  # name (`averages.names`) -> average of the parameters


def create(params: PyTree, optimizer: optax.GradientTransformation, averages: tuple[str, ...]) -> TrainState:
  """The state before the first step, with averages of these names, which start at the parameters."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    ema={name: jax.tree.map(jnp.copy, params) for name in averages},
  )


def params_sha256(params: PyTree) -> str:
  """SHA-256 over the float32 parameters in path order: path, shape and little-endian bytes of each."""
  digest = hashlib.sha256()
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
  for name in sorted(named):
    array = np.asarray(named[name], "<f4")
    digest.update(f"{name}{array.shape}".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
