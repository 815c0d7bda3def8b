"""What is steered: a trained run, or the closed forms of a mixture."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks, interpolants, oracles
from mfm_jax.interpolants import Interpolant
from mfm_jax.rewards import callback, composition
from mfm_jax.sampling import posterior
from mfm_jax.steering import cost
from mfm_jax.training import decoding
from mfm_jax.training.classifier import decode_for
from mfm_jax.training.run import Run
from mfm_jax.training.steer_config import SteerConfig
from mfm_jax.types import Array, Cond, Decode, MarginalVelocity, PyTree, Reward, Velocity

BY_DRAWS = ("mfm_gf", "mfm_g", "hybrid", "search")  # methods that need posterior draws; SMC by its twist


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
  """What is steered.

  Attributes:
    shape: of one sample in model space.
    interpolant: its own.
    decode: model space -> data space, None where they are the same.
    cond: n -> conditioning of velocity and reward.
    params: argument of the following three, so that compiled programs hold no constants.
    marginal: v_t(x).
    draws: posterior draws, for MFM-GF and search; None for a marginal-only run without GLASS.
    differentiable: the same, differentiable in x_t, for MFM-G and the hybrid.
    run: the trained run, None for closed forms.
    mixture: the law of samples without steering, where it is known.
  """

  shape: tuple[int, ...]
  interpolant: Interpolant
  decode: Decode | None
  cond: Callable[[int], Cond]
  params: PyTree
  marginal: Callable[[PyTree], MarginalVelocity]
  draws: Callable[[PyTree], Velocity] | None
  differentiable: Callable[[PyTree], Velocity] | None
  run: Run | None
  mixture: oracles.GaussianMixture | None

  def in_data_space(self, x: Array) -> Array:
    """Samples of model space, decoded."""
    return x if self.decode is None else self.decode(x)

  def velocity(self, params: PyTree, *, differentiable: bool = False) -> Velocity:
    """Posterior draws at these parameters, differentiable in x_t or as they are cheapest.

    Raises:
      ValueError: a marginal-only run without GLASS.
    """
    draws = self.differentiable if differentiable else self.draws
    if draws is None:
      raise ValueError(
        "posterior draws need a run trained as a map (loss.consistency other than none), or "
        f"--config.glass_steps; got the marginal-only run {self.source}"
      )
    return draws(params)

  @property
  def source(self) -> str:
    """The run's folder, for messages."""
    return "closed forms" if self.run is None else str(self.run.workdir)


def from_run(
  run: Run,
  *,
  label: int = -1,
  guidance: float | None = None,
  glass_steps: int = 0,
  oracle_drift: bool = False,
  decoder: str = "",
) -> Subject:
  """A trained run.

  Args:
    run: a map, or a marginal-only run.
    label, guidance: a label (-1: the null label) and a trained guidance scale.
    glass_steps: of each posterior draw of a marginal-only run; with 0 it has none.
    oracle_drift: the marginal velocity in closed form, where the law is a known mixture.
    decoder: file of the autoencoder of a run on latents, whose images are rewarded.

  Raises:
    ValueError: a label or scale that the run was not trained with; oracle_drift where no law is known; what
      `decoding` refuses of a decoder.
  """
  if label >= 0 or guidance is not None:
    run.cond(None if label < 0 else np.full(1, label), guidance, 1)

  def cond(n: int) -> Cond:
    return run.cond(None if label < 0 else np.full(n, label), guidance, n)

  def by_glass(params: PyTree) -> Velocity:
    return posterior.glass_jump(run.marginal_of(params), run.interpolant, steps=glass_steps)

  velocity = run.parts.model.velocity if run.config.is_map else by_glass if glass_steps else None
  # Under a label, or a guidance scale, or fine-tuned, the law of the samples is not the mixture.
  whole = label in (-1, run.info.num_classes) and guidance in (None, 1.0) and not run.finetuned
  known = whole and run.config.data.name == "mixture"
  mixture = run.config.mixture.build() if known else None
  exact = None
  if oracle_drift:
    if mixture is None:
      raise ValueError(f"oracle_drift needs a run of a mixture, without label; got {run.workdir}")
    exact = oracles.as_marginal(mixture, run.interpolant)
  return Subject(
    shape=run.info.shape,
    interpolant=run.interpolant,
    decode=decoding.decoder(decoding.read_vae(decoder), run.info) if decoder else decode_for(run.info),
    cond=cond,
    params=run.params,
    marginal=run.marginal_of if exact is None else lambda params: exact,
    draws=velocity,
    differentiable=velocity,
    run=run,
    mixture=mixture,
  )


def from_oracle(config: SteerConfig) -> Subject:
  """The closed forms of config.mixture under config.interpolant."""
  mixture, interpolant = config.mixture.build(), interpolants.get(config.interpolant)
  return Subject(
    shape=(mixture.means.shape[1],),
    interpolant=interpolant,
    decode=None,
    cond=lambda n: None,
    params=(),
    marginal=lambda params: oracles.as_marginal(mixture, interpolant),
    draws=lambda params: oracles.as_sampler(mixture, interpolant),
    differentiable=lambda params: oracles.as_velocity(mixture, interpolant),
    run=None,
    mixture=mixture,
  )


def check(subject: Subject, reward: Reward, config: SteerConfig) -> None:
  """What can be known before anything is computed.

  Raises:
    ValueError: too few draws; populations of SMC that do not add up to the samples; a method that needs
      posterior draws for a marginal-only run, or GLASS for a map; a method that differentiates a reward
      without gradient; a reward that does not give one real number a sample.
  """
  if "smc" in config.methods and config.num % config.smc.particles:
    raise ValueError(
      f"num must be a multiple of smc.particles; got num={config.num}, smc.particles={config.smc.particles}"
    )
  for method in config.methods:
    least = cost.least_draws(method, config.smc.twist)
    checks.at_least(f"draws of {method}", config.settings(method).draws, least)
  used = {method: config.smc.twist if method == "smc" else method for method in config.methods}
  wanting = [method for method, how in used.items() if how in BY_DRAWS]
  if wanting and subject.draws is None:
    raise ValueError(
      f"methods {' and '.join(wanting)} need posterior draws: of a run trained as a map "
      f"(loss.consistency other than none), or by --config.glass_steps; got the marginal-only run "
      f"{subject.source}"
    )
  if config.glass_steps and (subject.run is None or subject.run.config.is_map):
    raise ValueError(
      f"glass_steps must be 0 for a map, whose draws take one evaluation; got {config.glass_steps}"
    )
  steep = [method for method, how in used.items() if how in cost.DIFFERENTIATING]
  if steep and not composition.is_differentiable(reward):
    raise ValueError(
      f"methods {' and '.join(steep)} differentiate the reward; got one without gradient, for which there "
      f"are {callback.GRADIENT_FREE}"
    )
  check_reward(subject, reward)


def check_reward(subject: Subject, reward: Reward) -> None:
  """Raises a ValueError for a reward, or judge, that does not give one real number a sample."""
  n = 3  # unlike most sizes of samples, so that a reward of one number in all is seen

  def rewards(x):
    return reward(subject.in_data_space(x), subject.cond(n))

  found = jax.eval_shape(rewards, jax.ShapeDtypeStruct((n, *subject.shape), jnp.float32))
  if getattr(found, "shape", None) != (n,) or not jnp.issubdtype(found.dtype, jnp.floating):
    raise ValueError(
      f"a reward must give one real number a sample, shape ({n},) for {n} samples; got {found}"
    )
  if not composition.is_differentiable(reward):
    rewards(jnp.zeros((n, *subject.shape)))  # a Python function: its mistakes now, not in a compiled program
