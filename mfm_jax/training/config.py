"""The configuration of a run as frozen dataclasses, and the way there from plain dictionaries."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

from mfm_jax import checks, interpolants, oracles
from mfm_jax.data.datasets import DataConfig
from mfm_jax.losses import DrawConfig, Objective
from mfm_jax.models import ModelConfig
from mfm_jax.training import averages
from mfm_jax.training.optimizer import OptimizerConfig
from mfm_jax.training.sharding import MeshConfig

# Keys that may differ when a run is resumed: they change what is watched and kept, where it is computed, or
# how long it trains (a cosine schedule then follows the new length from the resumed step on).
RESUMABLE = (
  "steps",
  "log_every",
  "eval_every",
  "checkpoint_every",
  "keep_checkpoints",
  "keep_every",
  "skip_not_finite",
  "accumulate",
  "mesh",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
  """The mixture of data.name=mixture: isotropic components. No means: the paper's mixture (7.1.1)."""

  weights: tuple[float, ...] = ()
  means: tuple[tuple[float, ...], ...] = ()
  variances: tuple[float, ...] = ()

  def build(self) -> oracles.GaussianMixture:
    """The mixture; ValueError where the three lists differ in length."""
    if not self.means:
      return oracles.paper_mixture()
    lengths = len(self.weights), len(self.means), len(self.variances)
    if len(set(lengths)) > 1:
      raise ValueError(f"mixture.weights, means, variances must have one length; got {lengths}")
    covs = [variance * np.eye(len(self.means[0])) for variance in self.variances]
    return oracles.gaussian_mixture(self.weights, self.means, covs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
  """Everything that determines a training run."""

  data: DataConfig
  mixture: MixtureConfig = dataclasses.field(default_factory=MixtureConfig)
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  draws: DrawConfig = dataclasses.field(default_factory=DrawConfig)
  loss: Objective = dataclasses.field(default_factory=Objective)
  optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
  interpolant: str = "linear"
  teacher: str = ""  # "oracle" (mixtures), the workdir of a trained run, or "" for none
  init: str = ""  # the workdir of a run whose parameters training starts from, or "" for none
  decoder: str = ""  # of latents: folder or file of their autoencoder, for the pictures while it trains
  seed: int = 0
  steps: int = 10_000
  batch_size: int = 256  # over all devices and hosts
  ema: tuple[float, ...] = (0.99, 0.999)  # decays of the averages of the parameters that are kept
  ema_lengths: tuple[float, ...] = ()  # relative lengths of power averages, of which others can be made
  ema_every: int = 0  # steps between the power averages that are kept for that
  log_every: int = 100  # steps
  eval_every: int = 1000  # steps between held-out losses and pictures; 0: at the end alone
  eval_batches: int = 8
  checkpoint_every: int = 1000  # steps
  keep_checkpoints: int = 3  # the newest
  keep_every: int = 0  # steps: checkpoints of its multiples are kept as well; 0: none
  skip_not_finite: int = 0  # steps in a row that may have a loss or gradient that is not finite
  accumulate: int = 1  # parts that a batch is worked through in, to save memory
  mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

  def __post_init__(self):
    checks.one_of("interpolant", self.interpolant, interpolants.INTERPOLANTS)
    check_pace(self)
    for name in ("eval_every", "eval_batches"):
      checks.at_least(name, getattr(self, name), 0)
    if self.draws.guidance_between and self.model.name == "dit" and self.model.dit.guidance != "continuous":
      raise ValueError(
        "model.dit.guidance must be continuous with draws.guidance_between: a table has the trained scales "
        f"alone; got {self.model.dit.guidance}"
      )
    if self.loss.needs_teacher and not self.teacher:
      raise ValueError(
        "config.teacher must be oracle or a run folder with "
        f"loss.diagonal={self.loss.diagonal}, loss.consistency={self.loss.consistency}; got ''"
      )
    if self.teacher == "oracle" and self.data.name != "mixture":
      raise ValueError(f"teacher=oracle needs data.name=mixture; got {self.data.name!r}")
    if self.teacher == "oracle" and self.data.labelled:
      raise ValueError("teacher=oracle needs data.labelled=False: the closed forms have no labels; got True")

  @property
  def is_map(self) -> bool:
    """False for a plain flow (loss.consistency=none), which has a marginal velocity alone."""
    return self.loss.consistency != "none"


def check_pace(config: Any) -> None:
  """Raises for numbers of steps, batches and averages that no training can have."""
  for name in ("steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints", "accumulate"):
    checks.at_least(name, getattr(config, name), 1)
  for name in ("keep_every", "ema_every", "skip_not_finite"):
    checks.at_least(name, getattr(config, name), 0)
  checks.at_least("number of ema decays", len(config.ema), 1)
  for decay in config.ema:
    checks.in_interval("ema", decay)
  for length in config.ema_lengths:
    averages.exponent(length)
  if bool(config.ema_lengths) != bool(config.ema_every):
    raise ValueError(
      f"ema_lengths and ema_every must be set together; got {config.ema_lengths}, {config.ema_every}"
    )


def from_dict(cls: type, values: Mapping[str, Any], path: str = "config") -> Any:
  """Builds the frozen dataclass `cls`, and those nested in it, from dictionaries; lists become tuples.

  Raises:
    ValueError: an unknown key (with the nearest known one) or a value of the wrong type, named by its
      path, such as config.loss.weighting.
  """
  hints = typing.get_type_hints(cls)
  fields = {field.name for field in dataclasses.fields(cls) if "derived" not in field.metadata}
  out = {}
  for name, value in values.items():
    if name not in fields:
      raise _unknown(name, fields, path)
    out[name] = _convert(hints[name], value, f"{path}.{name}")
  missing = [f.name for f in dataclasses.fields(cls) if f.name not in out and _required(f)]
  if missing:
    raise ValueError(f"{path} must have the key {missing[0]}; got {', '.join(sorted(out))}")
  return cls(**out)


def check_key(cls: type, key: str, path: str = "config") -> Any:
  """The type of the dotted `key` of `cls`, such as loss.weighting; ValueError unless it exists."""
  name, _, rest = key.partition(".")
  name, _, index = name.partition("[")  # judges[0].weight
  fields = {field.name for field in dataclasses.fields(cls) if "derived" not in field.metadata}
  if name not in fields:
    raise _unknown(name, fields, path)
  hint = typing.get_type_hints(cls)[name]
  if isinstance(hint, types.UnionType):
    hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
  if index and typing.get_origin(hint) is tuple:
    hint = typing.get_args(hint)[0]
  if rest and isinstance(hint, type) and dataclasses.is_dataclass(hint):
    return check_key(hint, rest, f"{path}.{name}")
  return hint


def to_dict(config: Any) -> dict[str, Any]:
  """The inverse of `from_dict`, ready for JSON."""
  fields = [field.name for field in dataclasses.fields(config) if "derived" not in field.metadata]
  return {name: _plain(getattr(config, name)) for name in fields}


def differences(old: Mapping, new: Mapping, path: str = "config") -> list[str]:
  """The keys in which two nested dictionaries differ, each as 'path: old -> new'."""
  out = []
  for name in sorted({*old, *new}):
    a, b = old.get(name), new.get(name)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
      out += differences(a, b, f"{path}.{name}")
    elif a != b:
      out.append(f"{path}.{name}: {a!r} -> {b!r}")
  return out


def _unknown(name, fields, path):
  close = difflib.get_close_matches(name, fields, n=1)
  hint = f" (did you mean {close[0]}?)" if close else ""
  return ValueError(f"unknown config key {path}.{name}{hint}; known keys: {', '.join(sorted(fields))}")


def _required(field):
  return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain(value):
  if dataclasses.is_dataclass(value):
    return to_dict(value)
  return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _convert(hint, value, path):
  if isinstance(hint, types.UnionType):
    if value is None:
      return None
    hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
  if isinstance(hint, type) and dataclasses.is_dataclass(hint):
    if not isinstance(value, Mapping):
      raise ValueError(f"{path} must be a group of keys; got {value!r}")
    return from_dict(hint, value, path)
  if typing.get_origin(hint) is tuple:
    if not isinstance(value, list | tuple):
      raise ValueError(f"{path} must be a list; got {value!r}")
    return tuple(_convert(typing.get_args(hint)[0], item, path) for item in value)
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
    raise ValueError(f"{path} must be of type {hint.__name__}; got {value!r}")
  return value
