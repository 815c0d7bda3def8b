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
  ema: dict[str, PyTree]  # decay as text -> average of the parameters


def create(params: PyTree, optimizer: optax.GradientTransformation, decays: tuple[float, ...]):
  """The state before the first step. Every average starts at the parameters."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    ema={str(decay): jax.tree.map(jnp.copy, params) for decay in decays},
  )


def ema_update(average: PyTree, params: PyTree, decay: float, step: Array) -> PyTree:
  """decay * average + (1 - decay) * params, with decay at most (1 + step) / (10 + step).

  The bound lets the average forget the initialisation at the start.
  """
  decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, average, params)


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
