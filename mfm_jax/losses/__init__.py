"""Training objectives (MATH 4, 5): draws, diagonal and consistency terms, weights, model guidance."""

from mfm_jax.losses.draws import DrawConfig, Draws, draw
from mfm_jax.losses.objective import CONSISTENCIES, DIAGONALS, Objective

__all__ = ["CONSISTENCIES", "DIAGONALS", "DrawConfig", "Draws", "Objective", "draw"]
