"""Everything random in the fine-tuning loss, drawn apart from it (MATH 7)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.interpolants import Interpolant, interpolate
from mfm_jax.types import Array, Cond, PRNGKey


class FTDraws(NamedTuple):
  """One batch with its noise; all leaves have a leading axis (B,)."""

  x1: Array  # data (B, ...)
  t: Array  # time (B,)
  n: Array  # noise (B, ...): x_t = a(t) n + b(t) x1
  e: Array  # start noise of the posterior draws (B, N, ...)
  label: Array | None  # (B,) int, null label where dropped; None without labels
  guidance: Array | None  # (B,) guidance scale; None where the network takes none

  def state(self, interpolant: Interpolant) -> Array:
    """x_t (B, ...)."""
    return interpolate(interpolant, self.t, self.n, self.x1)

  @property
  def cond(self) -> Cond:
    """The conditioning of v_ft, v_base, the posterior draws and the reward: one for all of them."""
    cond = {"label": self.label, "guidance": self.guidance}
    return {name: value for name, value in cond.items() if value is not None} or None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FTDrawConfig:
  """The laws of the draws.

  Attributes:
    per_state: posterior draws a state, N.
    t_min, t_max: t is uniform between them. sigma^2 and the gradient's factor diverge at t = 0.
    label_dropout: share of the null label; 1: no other is trained.
    guidance: scale of labelled examples; those without a label have scale 1, as in the base's training.
    num_classes, guided: of the base, not keys of a configuration.
  """

  per_state: int = 4
  t_min: float = 1e-3
  t_max: float = 1.0 - 1e-3
  label_dropout: float = 0.1
  guidance: float = 1.0
  num_classes: int = dataclasses.field(default=0, metadata={"derived": True})
  guided: bool = dataclasses.field(default=False, metadata={"derived": True})

  def __post_init__(self):
    checks.at_least("draws.per_state", self.per_state, 1)
    for name in ("t_min", "t_max", "label_dropout"):
      checks.in_interval(f"draws.{name}", getattr(self, name))
    if not self.t_min < self.t_max:
      raise ValueError(f"draws.t_min < draws.t_max must hold; got {self.t_min}, {self.t_max}")
    if self.guidance != 1.0 and self.label_dropout == 1.0:
      raise ValueError(
        f"draws.guidance must be 1 where no label is trained (draws.label_dropout=1); got {self.guidance}"
      )


def draw(key: PRNGKey, batch: dict[str, Array], config: FTDrawConfig) -> FTDraws:
  """Draws for a batch {"x1": (B, ...), "label": (B,)}."""
  x1 = batch["x1"]
  rows = x1.shape[:1]
  key_t, key_n, key_e, key_label = jax.random.split(key, 4)
  label = guidance = None
  if config.num_classes:
    dropped = jax.random.bernoulli(key_label, config.label_dropout, rows)
    label = jnp.where(dropped, config.num_classes, batch["label"])
    guidance = jnp.where(dropped, 1.0, config.guidance) if config.guided else None
  return FTDraws(
    x1=x1,
    t=jax.random.uniform(key_t, rows, minval=config.t_min, maxval=config.t_max),
    n=jax.random.normal(key_n, x1.shape, x1.dtype),
    e=jax.random.normal(key_e, (*rows, config.per_state, *x1.shape[1:]), x1.dtype),
    label=label,
    guidance=guidance,
  )
