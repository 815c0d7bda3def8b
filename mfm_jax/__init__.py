"""Meta Flow Maps in JAX: one-step posterior draws, and what they give for reward alignment."""

__version__ = "0.1.0"
