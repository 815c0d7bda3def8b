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
_SOBOL_LIMIT = 21_201  # dimensions of the direction numbers of Joe and Kuo (2008)
_SOBOL_SEED = 0  # of the fixed matrix scramble; what is random is the digital shift


def normals(key: PRNGKey, x_t: Array, *, draws: int, scheme: str) -> Array:
  """Start noise e of `draws` draws for each context.

  Args:
    key: typed key.
    x_t: contexts (contexts, ...), for shape and dtype.
    draws: N.
    scheme: "independent"; "antithetic", pairs e, -e (a last odd one alone); "orthogonal", blocks of as many
      draws as coordinates, at right angles, with the lengths of independent ones; "sobol", a Sobol net with a
      random digital shift for each context, through the normal quantile function.

  Returns:
    (contexts, draws, ...).

  Raises:
    ValueError: draws < 1, an unknown scheme, more coordinates than Sobol sequences have.
  """
  checks.at_least("draws", draws, 1)
  checks.one_of("scheme", scheme, SCHEMES)
  contexts, size = x_t.shape[0], math.prod(x_t.shape[1:])
  make = {"antithetic": _antithetic, "orthogonal": _orthogonal, "sobol": _sobol}.get(scheme, _independent)
  e = make(key, contexts, draws, size)
  return e.reshape(contexts, draws, *x_t.shape[1:]).astype(x_t.dtype)


def _independent(key: PRNGKey, contexts: int, draws: int, size: int) -> Array:
  return jax.random.normal(key, (contexts, draws, size))


def _antithetic(key: PRNGKey, contexts: int, draws: int, size: int) -> Array:
  half = jax.random.normal(key, (contexts, -(-draws // 2), 1, size))
  return jnp.concatenate([half, -half], 2).reshape(contexts, -1, size)[:, :draws]


def _orthogonal(key: PRNGKey, contexts: int, draws: int, size: int) -> Array:
  # Q of a Gaussian matrix with the signs of R's diagonal is uniform over frames (Mezzadri, 2007); rows of
  # another Gaussian matrix give the lengths.
  block = min(draws, size)
  key_frame, key_length = jax.random.split(key)
  blocks = -(-draws // block)
  q, r = jnp.linalg.qr(jax.random.normal(key_frame, (contexts, blocks, size, block)))
  frame = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
  length = jnp.linalg.norm(jax.random.normal(key_length, (contexts, blocks, block, size)), axis=-1)
  e = jnp.swapaxes(frame, -1, -2) * length[..., None]
  return e.reshape(contexts, -1, size)[:, :draws]


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
