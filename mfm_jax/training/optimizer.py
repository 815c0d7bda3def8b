"""The optimiser of a run: optax, with warm-up and clipping."""

import dataclasses

import optax

from mfm_jax import checks

OPTIMIZERS = ("radam", "adamw")
SCHEDULES = ("constant", "cosine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """Optimiser and learning rate."""

  name: str = "radam"
  learning_rate: float = 1e-3
  schedule: str = "cosine"  # after the warm-up: constant, or a cosine to 0 at the last step
  warmup: int = 200  # steps of a linear rise
  b1: float = 0.9
  b2: float = 0.999
  weight_decay: float = 0.0  # adamw
  clip: float = 1.0  # global norm of the gradient; 0 is off

  def __post_init__(self):
    checks.one_of("optimizer.name", self.name, OPTIMIZERS)
    checks.one_of("optimizer.schedule", self.schedule, SCHEDULES)
    for name in ("learning_rate", "warmup", "weight_decay", "clip"):
      checks.at_least(f"optimizer.{name}", getattr(self, name), 0)
    for name in ("b1", "b2"):
      checks.in_interval(f"optimizer.{name}", getattr(self, name))
    if self.weight_decay and self.name != "adamw":
      raise ValueError(
        f"optimizer.weight_decay needs optimizer.name=adamw; got {self.weight_decay} with {self.name}"
      )


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
  """step -> learning rate over a run of `steps`."""
  if config.schedule == "constant":
    after = optax.constant_schedule(config.learning_rate)
  else:
    after = optax.cosine_decay_schedule(config.learning_rate, max(steps - config.warmup, 1))
  if not config.warmup:
    return after
  # From lr / warmup, not from 0: a first step of size 0 would be wasted.
  rise = optax.linear_schedule(config.learning_rate / config.warmup, config.learning_rate, config.warmup)
  return optax.join_schedules([rise, after], [config.warmup])


def build(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
  """The optax transformation of `config` for a run of `steps`."""
  rate = learning_rate(config, steps)
  if config.name == "adamw":
    update = optax.adamw(rate, config.b1, config.b2, weight_decay=config.weight_decay)
  else:
    update = optax.radam(rate, config.b1, config.b2)
  return optax.chain(optax.clip_by_global_norm(config.clip), update) if config.clip else update
