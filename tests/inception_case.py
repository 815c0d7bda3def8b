"""A state dict of the Inception network of FID: random tensors, scaled so that features are of order 1."""

import numpy as np

from mfm_jax.convert import inception


def state(seed: int = 0) -> dict[str, np.ndarray]:
  """Every published tensor, float32, with batch statistics that are not those of a fresh network."""
  rng, out = np.random.default_rng(seed), {}
  for name, shape in inception.shapes():
    if name.endswith("conv.weight"):
      value = rng.normal(size=shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    elif name.endswith(("bn.weight", "running_var")):
      value = rng.uniform(0.7, 1.4, shape)
    elif name == "fc.weight":
      value = rng.normal(size=shape) * 0.05
    else:
      value = 0.1 * rng.normal(size=shape)
    out[name] = value.astype(np.float32)
  return out
