"""The configuration of a fine-tuning run (MFM-FT)."""

import dataclasses

from mfm_jax import checks
from mfm_jax.finetuning.draws import FTDrawConfig
from mfm_jax.finetuning.objective import FTObjective
from mfm_jax.rewards import composition
from mfm_jax.training.config import check_pace
from mfm_jax.training.optimizer import OptimizerConfig
from mfm_jax.training.sharding import MeshConfig
from mfm_jax.training.steer_config import RewardConfig, SteerConfig
from mfm_jax.types import Reward


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
  """Everything that determines a fine-tuning run. Data, network and interpolant are those of its base.

  Attributes:
    base: folder of a trained map; its longest average is fine-tuned.
    reward, more_rewards: what it is fine-tuned to, joined as in `SteerConfig`.
    judges: rewards that are not optimised, but measured on the samples of a panel.
    multiplier: multiplies them all: lambda.
    decoder: see `SteerConfig`.
    draws: laws of times, labels and guidance, and the number of posterior draws.
    loss: shift of the reward, sigma^2.
  """

  base: str
  reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
  more_rewards: tuple[RewardConfig, ...] = ()
  judges: tuple[RewardConfig, ...] = ()
  multiplier: float = 1.0
  decoder: str = ""
  draws: FTDrawConfig = dataclasses.field(default_factory=FTDrawConfig)
  loss: FTObjective = dataclasses.field(default_factory=FTObjective)
  optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
  seed: int = 0
  steps: int = 10_000
  batch_size: int = 256  # over all devices and hosts
  ema: tuple[float, ...] = (0.999,)  # decays of the averages of the parameters that are kept
  ema_lengths: tuple[float, ...] = ()  # as of `RunConfig`, like the next
  ema_every: int = 0
  log_every: int = 100  # steps
  eval_every: int = 1000  # steps between panels; 0: at the end alone
  eval_num: int = 1024  # samples of a panel
  checkpoint_every: int = 1000  # steps
  keep_checkpoints: int = 3  # the newest
  keep_every: int = 0  # as of `RunConfig`, like the next three
  skip_not_finite: int = 0
  accumulate: int = 1
  mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

  def __post_init__(self):
    if not self.multiplier > 0:
      raise ValueError(f"multiplier must be positive; got {self.multiplier}")
    check_pace(self)
    checks.at_least("eval_every", self.eval_every, 0)
    checks.at_least("eval_num", self.eval_num, 2)

  @property
  def steering(self) -> SteerConfig:
    """The same rewards, with the multiplier in their weights, as an experiment without a method."""
    reward, *more = (part.scaled(self.multiplier) for part in (self.reward, *self.more_rewards))
    return SteerConfig(
      reward=reward,
      more_rewards=tuple(more),
      judges=self.judges,
      methods=("base",),
      decoder=self.decoder,
    )

  def build_reward(self) -> Reward:
    """The rewards, joined, times the multiplier.

    Raises:
      ValueError: a reward without a gradient; as `SteerConfig.build_reward`.
    """
    reward = self.steering.build_reward()
    if not composition.is_differentiable(reward):
      names = ", ".join(part.name for part in (self.reward, *self.more_rewards))
      raise ValueError(
        f"a reward must be differentiable for fine-tuning; got one without gradient of {names}"
      )
    return reward
