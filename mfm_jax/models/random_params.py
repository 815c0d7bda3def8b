"""Random parameters of a network, for rehearsals without published ones."""

from collections.abc import Callable

import jax
import numpy as np

from mfm_jax.types import PyTree


def random_params(init: Callable[[jax.Array], PyTree], seed: int = 0, spread: float = 0.1) -> PyTree:
  """Parameters like those of `init`, which is not compiled; none as it starts, so that all of them count.

  Kernels keep the size of signals; `spread` is the standard deviation of the others.
  """
  rng = np.random.default_rng(seed)

  def leaf(path, shape: jax.ShapeDtypeStruct) -> np.ndarray:
    name = path[-1].key
    if name == "log_scale":
      return np.full(shape.shape, 2.5, np.float32)
    size = {"kernel": shape.shape[-2] ** -0.5 if shape.ndim > 1 else 0.0, "embedding": 1.0}.get(name, spread)
    values = rng.standard_normal(shape.shape, np.float32) * np.float32(size)
    return values + np.float32(name == "scale")

  return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(init, jax.random.key(0)))
