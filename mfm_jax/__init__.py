"""Meta Flow Maps in JAX: one-step posterior draws, and what they give for reward alignment.

Modules and packages are imported when they are first used: `import mfm_jax; mfm_jax.oracles.paper_mixture()`.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [
  "checks",
  "convert",
  "data",
  "finetuning",
  "flow_map",
  "glass",
  "interpolants",
  "losses",
  "metrics",
  "models",
  "oracles",
  "precondition",
  "rewards",
  "sampling",
  "steering",
  "times",
  "training",
  "types",
  "viz",
]


def __getattr__(name: str) -> Any:
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
