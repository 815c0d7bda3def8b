"""Networks in Flax Linen, and `build`, which turns a configuration into pure functions."""

from mfm_jax.models.build import Model, ModelConfig, build

__all__ = ["Model", "ModelConfig", "build"]
