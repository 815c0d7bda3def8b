"""A trained run loaded from its folder, ready to sample."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mfm_jax import checks, flow_map, interpolants, oracles
from mfm_jax.interpolants import Interpolant
from mfm_jax.losses import DrawConfig, Objective
from mfm_jax.models import Model, build, dit
from mfm_jax.precondition import GaussianSkip
from mfm_jax.training import averages, distributed, folder, optimizer, posthoc, sharding
from mfm_jax.training.checkpoint import Checkpoints
from mfm_jax.training.config import RunConfig
from mfm_jax.training.folder import DataInfo
from mfm_jax.training.state import create, params_sha256
from mfm_jax.types import Array, Cond, MarginalVelocity, PyTree, Velocity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
  """The pure pieces that a configuration and its data determine."""

  interpolant: Interpolant
  model: Model
  draws: DrawConfig
  objective: Objective


def parts(config: RunConfig, info: DataInfo) -> Parts:
  """Builds the pieces of a run."""
  interpolant = interpolants.get(config.interpolant)
  draws = dataclasses.replace(config.draws, num_classes=info.num_classes)
  if not config.is_map:
    draws = dataclasses.replace(draws, context_zero_rate=1.0)  # a plain flow has no context
  return Parts(
    interpolant=interpolant,
    model=build(
      config.model,
      shape=info.shape,
      num_classes=info.num_classes,
      guidance_scales=draws.guidance_scales,
      skip=GaussianSkip(interpolant=interpolant, data_std=info.data_std),
    ),
    draws=draws,
    objective=dataclasses.replace(config.loss, null_label=info.num_classes),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A trained run.

  Attributes:
    finetuned: whether it was fine-tuned to a reward, so that its law is no longer that of its data.
    only_scale: the guidance scale that it was fine-tuned at, which leaves the others behind; else None.
  """

  workdir: pathlib.Path
  config: RunConfig
  info: DataInfo
  parts: Parts
  step: int
  ema: str
  params: PyTree
  sha256: str
  finetuned: bool = False
  only_scale: float | None = None

  @property
  def velocity(self) -> Velocity:
    """The network at the chosen average of its parameters."""
    return self.parts.model.velocity(self.params)

  @property
  def marginal(self) -> MarginalVelocity:
    """v_t(x) (MATH 2.3)."""
    return self.marginal_of(self.params)

  def marginal_of(self, params: PyTree) -> MarginalVelocity:
    """v_t(x) at other parameters: jitted functions take them as an argument, not as constants."""
    return flow_map.marginal_velocity(self.parts.model.velocity(params))

  @property
  def interpolant(self) -> Interpolant:
    """The interpolant that it was trained with."""
    return self.parts.interpolant

  @property
  def scales(self) -> tuple[float, ...]:
    """Guidance scales that it was trained at with labels; the first is the default."""
    if self.only_scale is not None:
      return (self.only_scale,)
    draws = self.config.draws
    # Without base examples scale 1 is not trained.
    untrained_at_one = draws.guidance_scales and draws.guidance_base_rate == 0
    return draws.guidance_scales if untrained_at_one else (1.0, *draws.guidance_scales)

  def check_guidance(self, scale: float) -> None:
    """Raises a ValueError for a scale that the run was not trained at."""
    if any(abs(scale - trained) < 1e-6 for trained in self.scales):
      return
    trained = ", ".join(map(str, sorted(set(self.scales))))
    if self.config.draws.guidance_between and self.only_scale is None:
      ends = self.config.draws.guidance_scales
      if min(ends) <= scale <= max(ends):
        return
      trained += f", and all between {min(ends)} and {max(ends)}"
    raise ValueError(f"guidance must be a scale the run was trained with ({trained}); got {scale}")

  def require_map(self) -> None:
    """Raises for a plain flow and a fine-tuned run, which have no one-step posterior draws."""
    if not self.config.is_map:
      raise ValueError(
        "one-step posterior draws need a run trained as a map (loss.consistency other than none); got "
        f"the marginal-only run {self.workdir}: use its GLASS draws (--sampler=glass)"
      )

  def cond(self, label: ArrayLike | None, guidance: float | None, n: int) -> Cond:
    """Conditioning for n examples.

    Args:
      label: (n,) int, the null label being num_classes; None for the null label everywhere.
      guidance: a trained scale, or None for the first of `scales`.
      n: batch size.

    Raises:
      ValueError: a label out of range, labels or a scale that the run was not trained with, a scale other
        than 1 without labels, which there is nothing to guide to.
    """
    cond: dict[str, Array] = {}
    classes, unlabelled = self.info.num_classes, label is None
    if label is not None and not classes:
      raise ValueError(f"label must be absent for a run without labels; got {label}")
    if classes:
      label = jnp.full((n,), classes) if label is None else jnp.asarray(label, jnp.int32)
      checks.shape("label", label, (n,))
      checks.in_interval("label", label, 0, classes)
      cond["label"] = label
    if guidance is not None:
      self.check_guidance(guidance)
      if unlabelled and guidance != 1.0:
        raise ValueError(f"guidance must be 1 or absent without labels; got {guidance}")
    if self.config.draws.guidance_scales:
      scale = self.scales[0] if guidance is None else guidance
      cond["guidance"] = jnp.where(
        cond["label"] == classes, 1.0, scale
      )  # the null label is trained at 1 alone
    return cond or None


def load_run(workdir: str | pathlib.Path, *, ema: str = "") -> Run:
  """The newest checkpoint of a run folder.

  Args:
    workdir: the folder.
    ema: decay of the average to use, "raw" for the parameters themselves, "" for the longest of these
      averages; "power:<length>" for a power average (`averages`), of a run that keeps some.

  Raises:
    ValueError: no run folder, no checkpoint in it, or an average that it does not keep.
  """
  workdir = pathlib.Path(workdir)
  config, info = read_config(workdir)
  pieces = parts(config, info)
  ema = ema or str(max(config.ema))
  power = averages.power_length(ema)
  if power is None:
    checks.one_of("ema", ema, [*averages.names(config), "raw"])

  def fresh():
    params = pieces.model.init(jax.random.key(0))
    return create(params, optimizer.build(config.optimizer, config.steps), averages.names(config))

  like = jax.eval_shape(fresh)
  with Checkpoints(workdir / "checkpoints") as checkpoints:
    if checkpoints.newest() is None:
      raise ValueError(f"workdir must hold a checkpoint; got none in {workdir}")
    if power is not None and ema not in like.ema:
      params, step = posthoc.put_together(workdir, like, power)
    else:
      # Into the host's memory, and no more than is asked for: the whole state may not fit on one device.
      restored = checkpoints.restore(like, only="params/" if ema == "raw" else f"ema/{ema}/")
      params, step = restored.state.params if ema == "raw" else restored.state.ema[ema], restored.step
  params = on_own_devices(params)
  return Run(
    workdir=workdir,
    config=config,
    info=info,
    parts=pieces,
    step=step,
    ema=ema,
    params=params,
    sha256=params_sha256(params),
    finetuned=folder.kind_of(workdir) == folder.FINETUNED,
    only_scale=folder.finetuned_guidance(workdir),
  )


def on_own_devices(params: PyTree) -> PyTree:
  """Parameters whole on each of this process's devices, for what is split over these; all must call it."""
  params = distributed.to_host(params) if jax.process_count() > 1 else params
  return jax.device_put(params, sharding.replicated(sharding.local_mesh()))


def read_config(workdir: pathlib.Path) -> tuple[RunConfig, DataInfo]:
  """The configuration and the data description of a run folder.

  Raises:
    ValueError: a missing folder, one that is not a run folder, or one of another format.
  """
  return folder.read(workdir, RunConfig, folder.RUN, folder.FINETUNED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
  """A frozen flow: its marginal velocity as a function of its parameters."""

  params: PyTree  # in the host's memory
  marginal: Callable[[PyTree], MarginalVelocity]
  identity: str  # "oracle", or the hash of the parameters


def teacher(config: RunConfig, info: DataInfo) -> Teacher | None:
  """The teacher of a run, None where no form asks for one.

  Raises:
    ValueError: a teacher of another interpolant, shape, number of classes or scale of latents, or not trained
      at guidance scale 1, which teachers are asked at.
  """
  if not config.loss.needs_teacher:
    return None
  if config.teacher == "oracle":
    exact = oracles.as_marginal(config.mixture.build(), interpolants.get(config.interpolant))
    return Teacher(params=(), marginal=lambda params: exact, identity="oracle")
  run = load_run(config.teacher)
  _check_same_problem(config, info, run, "teacher")
  if 1.0 not in run.scales:
    trained = ", ".join(map(str, run.scales))
    raise ValueError(
      f"a teacher must be trained at guidance scale 1; got {config.teacher}, trained at {trained}"
    )
  model = run.parts.model
  return Teacher(
    params=jax.device_get(run.params),
    marginal=lambda params: flow_map.marginal_velocity(model.velocity(params)),
    identity=run.sha256,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
  """The parameters before the first step: `init(given)`."""

  init: Callable[[PyTree], PyTree]
  given: PyTree  # parameters that they come from, in the host's memory; None for none
  identity: str  # their hash, "" for none


def start(config: RunConfig, info: DataInfo, model: Model) -> Start:
  """The parameters that a run starts from: its own initialisation, and over it those of config.init.

  What that run's network lacks, or has for other scales of guidance, keeps its own initialisation.

  Raises:
    ValueError: a config.init of another interpolant, shape, number of classes or scale of latents, or of
      another network.
  """

  def own():
    return model.init(jax.random.key(config.seed))

  if not config.init:
    return Start(init=lambda _: own(), given=None, identity="")
  run = load_run(config.init)
  _check_same_problem(config, info, run, "init")
  _check_same_network(config, run)
  params = run.params
  if config.model.name == "dit" and not bool(jnp.any(params["net"]["context"]["kernel"])):
    preserve = config.model.dit.preserve_at_zero
    params = {**params, "net": dit.with_context(params["net"], preserve_at_zero=preserve)}
  given = {_name(path): jax.device_get(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}
  if set(config.draws.guidance_scales) != set(run.config.draws.guidance_scales):
    given = {name: leaf for name, leaf in given.items() if "guidance" not in name}
  for path, leaf in jax.tree_util.tree_leaves_with_path(jax.eval_shape(own)):
    name = _name(path)
    if name in given and given[name].shape != leaf.shape:
      raise ValueError(
        f"config.init must be a run of the same network; {name} is {given[name].shape} in {config.init}, "
        f"{leaf.shape} here"
      )

  def init(given):
    return jax.tree_util.tree_map_with_path(lambda path, fresh: given.get(_name(path), fresh), own())

  return Start(init=init, given=given, identity=run.sha256)


def _name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _check_same_network(config: RunConfig, run: Run) -> None:
  """Raises for what shapes do not tell: parameters of one function would be those of another."""
  pairs: list[tuple[str, object, object]] = [
    (name, config.model, run.config.model) for name in ("name", "heads", "patch", "precondition")
  ]
  if config.model.name == "dit":
    names = ["reverse_time", "residual_context", "learn_sigma", "qk_norm", "joint_attention"]
    names += ["encoder_depth"] * (run.config.model.dit.encoder_depth > 0)  # 0: one embedding for all blocks
    names += ["guidance_decoder"] * bool(run.config.draws.guidance_scales)
    names += ["preserve_at_zero"] * run.config.is_map
    pairs += [(name, config.model.dit, run.config.model.dit) for name in names]
  for name, ours, theirs in pairs:
    mine, other = getattr(ours, name), getattr(theirs, name)
    if mine != other:
      group = "model" if ours is config.model else "model.dit"
      raise ValueError(
        f"config.init must be a run of the same network; got {group}.{name}={other}, {mine} here"
      )


def _check_same_problem(config: RunConfig, info: DataInfo, run: Run, name: str) -> None:
  facts = ["shape", "num_classes", "latent_scale", "latent_shift"]
  if info.autoencoder and run.info.autoencoder:  # of arrays it is not known
    facts.append("autoencoder")
  pairs = [(fact, getattr(info, fact), getattr(run.info, fact)) for fact in facts]
  for what, own, other in [("interpolant", config.interpolant, run.config.interpolant), *pairs]:
    if own != other:
      raise ValueError(
        f"the {name} must have the {what} of the run; got {other} in {run.workdir}, {own} here"
      )
