"""Published PyTorch weights <-> parameters, strictly and both ways."""

from mfm_jax.convert.autoencoder import read_autoencoder, write_autoencoder
from mfm_jax.convert.files import read_state, write_state
from mfm_jax.convert.parameters import strip_prefix, to_params, to_state

__all__ = [
  "read_autoencoder",
  "read_state",
  "strip_prefix",
  "to_params",
  "to_state",
  "write_autoencoder",
  "write_state",
]
