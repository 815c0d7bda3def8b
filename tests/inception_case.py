"""A state dict of the Inception network of FID: random tensors, scaled so that features are of order 1."""

from mfm_jax.training.stand_ins import inception_state as state

__all__ = ["state"]
