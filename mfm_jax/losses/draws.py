"""Everything random in a loss, drawn apart from it, so that recorded randomness can be fed (MATH 4)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mfm_jax import checks, times
from mfm_jax.interpolants import Interpolant, interpolate
from mfm_jax.types import Array, Cond, PRNGKey


class Draws(NamedTuple):
  """One batch with its noise; all leaves have a leading axis (B,).

  The diagonal and the consistency term have their own inner noise and times; the context (t, n), the
  labels and the guidance scales are shared.
  """

  x1: Array  # data (B, ...)
  t: Array  # context time (B,)
  n: Array  # context noise (B, ...): x_t = a(t) n + b(t) x1
  r: Array  # inner time of the diagonal term (B,)
  e_r: Array  # its noise (B, ...)
  s: Array  # inner times of the consistency term, s <= u (B,)
  u: Array
  e: Array  # its noise (B, ...)
  g: Array  # split of [s, u] for the semigroup form (B,)
  label: Array | None  # (B,) int, null label where dropped; None without labels
  guidance: Array | None  # (B,) guidance scale; None where the network takes none

  def context(self, interpolant: Interpolant) -> Array:
    """x_t (B, ...)."""
    return interpolate(interpolant, self.t, self.n, self.x1)

  @property
  def cond(self) -> Cond:
    """The conditioning of the network."""
    cond = {"label": self.label, "guidance": self.guidance}
    return {name: value for name, value in cond.items() if value is not None} or None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawConfig:
  """The laws of the draws. `num_classes` = 0: no labels. `guidance_scales` = (): no guidance input."""

  context_power: float = 2.0  # t = U^power
  context_zero_rate: float = 0.1  # share of t = 0; 1 trains a plain flow
  # Of the data, not a key of a configuration.
  num_classes: int = dataclasses.field(default=0, metadata={"derived": True})
  label_dropout: float = 0.1
  guidance_scales: tuple[float, ...] = ()  # scales to train besides 1
  guidance_between: bool = False  # all scales between the smallest and the largest of them, log-uniformly
  guidance_base_rate: float = 0.25  # share of labelled examples at scale 1 (p_base of MATH 5)
  anneal_start: int = 0  # u - s grows from 0 at this step
  anneal_end: int = 0  # to its full law at this one; 0 is off

  def __post_init__(self):
    checks.at_least("context_power", self.context_power, 1e-6)
    for name in ("context_zero_rate", "label_dropout", "guidance_base_rate"):
      checks.in_interval(name, getattr(self, name))
    for scale in self.guidance_scales:
      checks.at_least("guidance scale", scale, 1.0)
    checks.at_least("anneal_start", self.anneal_start, 0)
    checks.ordered("anneal_start", self.anneal_start, "anneal_end", self.anneal_end)
    if self.guidance_between and len(set(self.guidance_scales)) < 2:
      raise ValueError(
        f"guidance_scales must hold two ends with guidance_between; got {self.guidance_scales}"
      )
    if self.guidance_scales and not self.label_dropout > 0:
      raise ValueError(
        "label_dropout must be positive with guidance_scales, or v(.; null) is never trained; got "
        f"label_dropout={self.label_dropout}, guidance_scales={self.guidance_scales}"
      )


def draw(key: PRNGKey, batch: dict[str, Array], step: Array | int, config: DrawConfig) -> Draws:
  """Draws for a batch {"x1": (B, ...), "label": (B,)} at `step` (only annealing looks at it).

  Where t = 0 the context carries nothing; half of those rows get x_t = 0 (the argument of the marginal
  velocity, MATH 2.3) and half the noise that x_0 is, so that the network is trained at both.

  Raises:
    ValueError: guidance scales for data without labels.
  """
  x1 = batch["x1"]
  rows = x1.shape[:1]
  names = ("t", "n", "empty", "r", "e_r", "pair", "e", "g", "label", "scale", "base")
  keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))

  def normal(name):
    return jax.random.normal(keys[name], x1.shape, x1.dtype)

  t = times.context_times(keys["t"], rows, power=config.context_power, zero_rate=config.context_zero_rate)
  empty = (t == 0.0) & jax.random.bernoulli(keys["empty"], 0.5, rows)
  progress = 1.0
  if config.anneal_end:
    progress = times.anneal_progress(step, config.anneal_start, config.anneal_end)
  s, u = times.inner_times(keys["pair"], rows, progress=progress)
  label, guidance = _conditioning(keys, batch, config)
  return Draws(
    x1=x1,
    t=t,
    n=jnp.where(empty.reshape(rows + (1,) * (x1.ndim - 1)), 0.0, normal("n")),
    r=jax.random.uniform(keys["r"], rows),
    e_r=normal("e_r"),
    s=s,
    u=u,
    e=normal("e"),
    g=jax.random.uniform(keys["g"], rows),
    label=label,
    guidance=guidance,
  )


def _conditioning(keys, batch, config):
  """Labels after dropout, and a guidance scale that is 1 for dropped labels (MATH 5)."""
  if not config.num_classes:
    if config.guidance_scales:
      raise ValueError(
        f"guidance_scales need labelled data; got guidance_scales={config.guidance_scales}, num_classes=0"
      )
    return None, None
  rows = batch["label"].shape
  dropped = jax.random.bernoulli(keys["label"], config.label_dropout, rows)
  label = jnp.where(dropped, config.num_classes, batch["label"])
  if not config.guidance_scales:
    return label, None
  scales = jnp.asarray(config.guidance_scales)
  if config.guidance_between:
    low, high = jnp.log(scales.min()), jnp.log(scales.max())
    scale = jnp.exp(jax.random.uniform(keys["scale"], rows, minval=low, maxval=high))
  else:
    scale = jax.random.choice(keys["scale"], scales, rows)
  base = jax.random.bernoulli(keys["base"], config.guidance_base_rate, rows)
  return label, jnp.where(dropped | base, 1.0, scale)
