"""A run of a map in closed form: for what takes a trained run, without training one."""

import dataclasses
import pathlib

from mfm_jax.data import datasets
from mfm_jax.models import Model
from mfm_jax.training import folder
from mfm_jax.training.config import RunConfig
from mfm_jax.training.run import Run, parts
from mfm_jax.types import Velocity


def run(config: RunConfig, velocity: Velocity, workdir: pathlib.Path = pathlib.Path("run")) -> Run:
  """A run of `config` whose network is `velocity`; `workdir` need not exist."""
  info = folder.data_info(datasets.load(config.data))
  model = Model(
    init=lambda key: {},
    net=lambda params: velocity,
    wrap=lambda velocity: velocity,
    log_weight=None,
    loss_weight=None,
  )
  return Run(
    workdir=workdir,
    config=config,
    info=info,
    parts=dataclasses.replace(parts(config, info), model=model),
    step=1,
    ema="raw",
    params={},
    sha256="",
  )
