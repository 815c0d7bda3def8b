"""From a configuration to pure functions: `init(key) -> params` and `velocity(params) -> Velocity`."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mfm_jax import checks
from mfm_jax.models import layers, mlp, unet, vit
from mfm_jax.models.dit import DiT, DiTConfig
from mfm_jax.precondition import GaussianSkip, precondition
from mfm_jax.types import Array, Cond, PRNGKey, PyTree, Velocity

NETWORKS = ("mlp", "vit", "unet", "dit")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """Size and kind of the network."""

  name: str = "mlp"
  width: int = 128
  depth: int = 3  # blocks; unet: of each resolution, on the way down and again on the way up
  heads: int = 4  # vit, unet, dit
  patch: int = 2  # vit, unet, dit
  multipliers: tuple[int, ...] = (1, 2)  # unet: channels over width, finest resolution first
  dit: DiTConfig = dataclasses.field(default_factory=DiTConfig)  # dit
  precondition: bool = True  # the Gaussian skip of MATH 9
  learned_weight: bool = False  # log-variance of the loss, W(s, u, t)
  dtype: str = "float32"  # of the computation; parameters are float32

  def __post_init__(self):
    checks.one_of("model.name", self.name, NETWORKS)
    checks.one_of("model.dtype", self.dtype, DTYPES)
    for name in ("width", "depth", "heads", "patch"):
      checks.at_least(f"model.{name}", getattr(self, name), 1)
    if self.name in ("vit", "dit") and self.width % self.heads:
      raise ValueError(f"model.heads must divide model.width; got width {self.width}, heads {self.heads}")
    if self.name == "unet":
      self._check_unet()
    if self.name == "dit":
      self._check_dit()

  def _check_dit(self):
    if self.width % 4:
      raise ValueError(
        f"model.width must be a multiple of 4 for a dit's table of positions; got {self.width}"
      )
    if self.dit.encoder_depth > self.depth:
      raise ValueError(
        "model.dit.encoder_depth must be at most model.depth; "
        f"got {self.dit.encoder_depth}, depth {self.depth}"
      )

  def _check_unet(self):
    checks.at_least("the number of model.multipliers", len(self.multipliers), 1)
    for multiplier in self.multipliers:
      checks.at_least("model.multipliers", multiplier, 1)
    if self.width % unet.GROUPS:
      raise ValueError(f"model.width must be a multiple of {unet.GROUPS} for a unet; got {self.width}")
    coarsest = self.width * self.multipliers[-1]
    if coarsest % self.heads:
      raise ValueError(
        f"model.heads must divide the channels of the coarsest resolution; got {coarsest}, heads {self.heads}"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """A network as pure functions of its parameters {"net": ..., ["log_weight": ...]}."""

  init: Callable[[PRNGKey], PyTree]
  net: Callable[[PyTree], Velocity]  # the bare network
  wrap: Callable[[Velocity], Velocity]  # the Gaussian skip around it, or nothing
  log_weight: Callable[[PyTree], Callable[[Array, Array, Array], Array]] | None
  loss_weight: Callable[[Array, Array], Array] | None  # MATH 9, None without the skip

  def velocity(self, params: PyTree) -> Velocity:
    """The mean velocity at `params`."""
    return self.wrap(self.net(params))


def build(
  config: ModelConfig,
  *,
  shape: tuple[int, ...],
  num_classes: int = 0,
  guidance_scales: tuple[float, ...] = (),
  skip: GaussianSkip,
) -> Model:
  """The model of `config` for examples of `shape` (images NHWC without N).

  Args:
    config: the network.
    shape: of one example.
    num_classes: 0 without labels; the null label is num_classes.
    guidance_scales: trained scales of guidance beside 1; (): the scale is no input.
    skip: the Gaussian skip, used where config.precondition.

  Raises:
    ValueError: a vit or unet for examples that are not images, or whose sides the patch, and for a unet the
      halvings, do not divide; guidance without labels. The velocity raises for a key of cond that is no input
      of the network.
  """
  if guidance_scales and not num_classes:
    raise ValueError(
      f"guidance scales need labelled data; got guidance_scales={guidance_scales}, num_classes={num_classes}"
    )
  dtype = DTYPES[config.dtype]
  common = {
    "width": config.width,
    "depth": config.depth,
    "num_classes": num_classes,
    "dtype": dtype,
  }
  guided = bool(guidance_scales)
  if config.name != "mlp":
    _check_image(config, shape)
    common |= {"heads": config.heads, "patch": config.patch}
  if config.name == "dit":
    scales = tuple(sorted({1.0, *guidance_scales})) if guided else ()
    net: nn.Module = DiT(guidance_scales=scales, config=config.dit, **common)
  elif config.name == "unet":
    net = unet.UNet(multipliers=config.multipliers, guided=guided, **common)
  else:
    net = {"mlp": mlp.MLP, "vit": vit.ViT}[config.name](guided=guided, **common)
  log_weight = layers.LogWeight()
  inputs = ("label",) * bool(num_classes) + ("guidance",) * guided

  def init(key: PRNGKey) -> PyTree:
    key_net, key_weight = jax.random.split(key)
    time, x = jnp.zeros((1,)), jnp.zeros((1, *shape))
    label = jnp.zeros((1,), jnp.int32)
    params = {"net": net.init(key_net, time, time, x, time, x, label, jnp.ones((1,)))["params"]}
    if config.learned_weight:
      params["log_weight"] = log_weight.init(key_weight, time, time, time)["params"]
    return params

  def bare(params: PyTree) -> Velocity:
    def velocity(s, u, x_s, t, x_t, cond: Cond):
      cond = cond or {}
      for name in cond:
        if name not in inputs:
          raise ValueError(f"cond may hold {inputs} for this network; got {name!r}")
      label, guidance = cond.get("label"), cond.get("guidance")
      return layers.output(net, params["net"], s, u, x_s, t, x_t, label, guidance)

    return velocity

  def log_weight_of(params: PyTree):
    return lambda s, u, t: layers.output(log_weight, params["log_weight"], s, u, t)

  return Model(
    init=init,
    net=bare,
    wrap=(lambda net: precondition(net, skip)) if config.precondition else (lambda net: net),
    log_weight=log_weight_of if config.learned_weight else None,
    loss_weight=skip.loss_weight if config.precondition else None,
  )


def _check_image(config: ModelConfig, shape: tuple[int, ...]) -> None:
  if len(shape) != 3:
    raise ValueError(f"model.name={config.name} needs images (H, W, C); got examples of shape {shape}")
  if shape[0] % config.patch or shape[1] % config.patch:
    raise ValueError(f"model.patch must divide the image; got patch {config.patch}, examples of {shape}")
  factor = config.patch * 2 ** (len(config.multipliers) - 1)
  if config.name == "unet" and (shape[0] % factor or shape[1] % factor):
    raise ValueError(
      f"model.patch times 2 for every multiplier but the first must divide the image; got {factor}, "
      f"examples of {shape}"
    )
