"""Start noise of several draws per context: independent, or arranged so that averages over draws vary less.

Every scheme gives each draw the standard normal law, so averages over draws keep their mean; only the joint
law of the draws of one context differs. Different contexts have independent noise.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.types import Array, PRNGKey

SCHEMES = ("independent", "antithetic", "orthogonal", "sobol")
_BLOCK = 8  # draws that are made orthogonal to each other: their cost grows like the square of it
_SOBOL_LIMIT = 21_201  # dimensions of the direction numbers of Joe and Kuo (2008)
_SOBOL_SEED = 0  # of the fixed matrix scramble; what is random is the digital shift


def normals(key: PRNGKey, x_t: Array, *, draws: int, scheme: str) -> Array:
  """Start noise e of `draws` draws for each context.

  Args:
    key: typed key.
    x_t: contexts (contexts, ...), for shape and dtype.
    draws: N.
    scheme: "independent"; "antithetic", pairs e, -e (a last odd one alone); "orthogonal", blocks of 8 draws
      (of as many as there are coordinates, if fewer) at right angles to each other, with the lengths of
      independent ones; "sobol", a Sobol net with a random digital shift for each context, through the normal
      quantile function.

  Returns:
    (contexts, draws, ...).

  Raises:
    ValueError: draws < 1, an unknown scheme, more coordinates than Sobol sequences have.
  """
  checks.at_least("draws", draws, 1)
  checks.one_of("scheme", scheme, SCHEMES)
  together = block(scheme, draws, x_t[0].size)
  keys = jax.random.split(key, -(-draws // together))
  e = jax.vmap(lambda key: one_block(key, x_t, draws=together, scheme=scheme))(keys)
  return jnp.moveaxis(e, 0, 1).reshape(x_t.shape[0], -1, *x_t.shape[1:])[:, :draws]


def one_block(key: PRNGKey, x_t: Array, *, draws: int, scheme: str) -> Array:
  """The start noise of one block, `draws` being at most its `block`: (contexts, draws, ...)."""
  contexts, size = x_t.shape[0], math.prod(x_t.shape[1:])
  make = {"antithetic": _antithetic, "orthogonal": _orthogonal, "sobol": _sobol}.get(scheme, _independent)
  e = make(key, contexts, draws, size)
  return e.reshape(contexts, draws, *x_t.shape[1:]).astype(x_t.dtype)


def block(scheme: str, draws: int, size: int) -> int:
  """How many of `draws` draws of `size` coordinates depend on each other; blocks are independent."""
  return {"independent": 1, "antithetic": min(draws, 2), "orthogonal": min(draws, size, _BLOCK)}.get(
    scheme, draws
  )


def _independent(key: PRNGKey, contexts: int, draws: int, size: int) -> Array:
  return jax.random.normal(key, (contexts, draws, size))


def _antithetic(key: PRNGKey, contexts: int, draws: int, size: int) -> Array:
  half = jax.random.normal(key, (contexts, 1, size))
  return jnp.concatenate([half, -half], 1)[:, :draws]


def _orthogonal(key: PRNGKey, contexts: int, draws: int, size: int) -> Array:
  # A rotation of independent draws rotates the frame and keeps their lengths: the frame is uniform whatever
  # the lengths are, so both can come from the same numbers.
  rows = jax.random.normal(key, (contexts, draws, size))
  return _frame(rows) * jnp.linalg.norm(rows, axis=-1, keepdims=True)


def _frame(rows: Array) -> Array:
  """Gram and Schmidt's orthonormal rows, (..., block, size)."""
  found: list[Array] = []
  for i in range(rows.shape[-2]):
    row = rows[..., i, :]
    for _ in range(2):  # the second time takes away what rounding has left (Giraud et al., 2005)
      for other in found:
        row = row - (row * other).sum(-1, keepdims=True) * other
      row = row / jnp.linalg.norm(row, axis=-1, keepdims=True)
    found.append(row)
  return jnp.stack(found, axis=-2)


def _sobol(key: PRNGKey, contexts: int, draws: int, size: int) -> Array:
  from scipy.stats import qmc

  if size > _SOBOL_LIMIT:
    raise ValueError(f"scheme=sobol takes at most {_SOBOL_LIMIT} coordinates; got {size}")
  net = qmc.Sobol(size, scramble=True, bits=32, rng=_SOBOL_SEED).random_base2(max(draws - 1, 0).bit_length())
  points = jnp.asarray((net[:draws] * 2.0**32).astype(np.uint32))
  shift = jax.random.bits(key, (contexts, 1, size), jnp.uint32)
  return _quantile(points[None] ^ shift)


def _quantile(bits: Array) -> Array:
  """Standard normals at uint32 points of [0, 2^32)."""
  # The centres of 2^23 cells, all of which float32 holds: never 0 or 1, where the quantile is infinite.
  return jax.scipy.special.ndtri(((bits >> 9).astype(jnp.float32) + 0.5) * 2.0**-23)
