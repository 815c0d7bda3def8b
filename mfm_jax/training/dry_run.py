"""What a training step of a configuration takes, compiled without data, weights or arrays."""

import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mfm_jax import oracles
from mfm_jax.data import datasets
from mfm_jax.flow_map import marginal_velocity
from mfm_jax.training import averages, flops, folder, optimizer, run, sharding, step
from mfm_jax.training.config import RunConfig
from mfm_jax.training.folder import DataInfo
from mfm_jax.training.state import create
from mfm_jax.types import PyTree


def info_of(config: RunConfig) -> DataInfo:
  """The data description: config.data.shape where it is given, that of the data where they are there.

  Raises:
    ValueError: neither.
  """
  data = config.data
  if data.shape:
    return DataInfo(
      shape=data.shape, num_classes=data.classes if data.labelled else 0, data_std=1.0, image=False
    )
  mixture = config.mixture.build() if data.name == "mixture" else None
  return folder.data_info(datasets.load(data, mixture))


def abstract_step(
  config: RunConfig, info: DataInfo, mesh: Mesh | None = None
) -> tuple[Any, tuple[PyTree, PyTree, PyTree]]:
  """The train step of a run, for a mesh, and its arguments (state, frozen, batch) as shapes.

  A teacher's network is that of its folder where there is one, otherwise taken to be the run's own.
  """
  pieces = run.parts(config, info)
  teacher, frozen = None, None
  if config.teacher == "oracle":
    exact = oracles.as_marginal(config.mixture.build(), pieces.interpolant)
    teacher = lambda params: exact  # noqa: E731
  elif config.loss.needs_teacher:
    own = config
    if pathlib.Path(config.teacher).exists():
      own, _ = run.read_config(pathlib.Path(config.teacher))
    network = run.parts(own, info).model
    frozen = jax.eval_shape(network.init, jax.random.key(0))
    teacher = lambda params: marginal_velocity(network.velocity(params))  # noqa: E731
  loss = step.make_loss(pieces.model, pieces.interpolant, pieces.objective, pieces.draws, teacher)
  optimiser = optimizer.build(config.optimizer, config.steps)
  state = jax.eval_shape(
    lambda: create(pieces.model.init(jax.random.key(0)), optimiser, averages.names(config))
  )
  batch = {
    "x1": jax.ShapeDtypeStruct((config.batch_size, *info.shape), jnp.float32),
    "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
  }
  train_step = step.make_train_step(loss, optimiser, config.seed, accumulate=config.accumulate, mesh=mesh)
  return train_step, (state, frozen, batch)


def step_flops(config: RunConfig, info: DataInfo) -> int:
  """FLOPs of a train step, over all devices, without what is computed again to save memory."""
  model = dataclasses.replace(config.model, dit=dataclasses.replace(config.model.dit, remat="none"))
  train_step, arguments = abstract_step(dataclasses.replace(config, model=model, accumulate=1), info)
  return flops.count(train_step, *arguments)


def dry_run(config: RunConfig) -> dict[str, Any]:
  """Compiles the train step for the devices here and says what it takes; trains nothing.

  Returns:
    parameters, those of the teacher, seconds of lowering and compilation, FLOPs of a step, and from the
    compiler's memory analysis, in bytes a device: arguments (state, teacher, batch), temporary, output
    that is not donated.
  """
  info, mesh = info_of(config), sharding.make_mesh(config.mesh)
  sharding.check_batch_size(config.batch_size, mesh, config.accumulate)
  train_step, arguments = abstract_step(config, info, mesh)
  start = time.monotonic()
  compiled = step.compile_step(train_step, *arguments, mesh, config.mesh)
  seconds = time.monotonic() - start
  memory = compiled.memory_analysis()
  own = dataclasses.asdict(info)
  out = {
    "shape": list(own["shape"]),
    "num_classes": own["num_classes"],
    "batch_size": config.batch_size,
    "devices": mesh.size,
    "parameters": _size(arguments[0].params),
    "teacher_parameters": _size(arguments[1]),
    "seconds_compile": round(seconds, 2),
    "flops": step_flops(config, info),
    "bytes_arguments": memory.argument_size_in_bytes,
    "bytes_temporary": memory.temp_size_in_bytes,
    "bytes_output": memory.output_size_in_bytes - memory.alias_size_in_bytes,
  }
  for name, value in out.items():
    shown = (
      f"{value / 2**30:.2f} GiB"
      if name.startswith("bytes")
      else f"{value / 1e12:,.4g} TFLOP a step, {value / config.batch_size / 1e9:,.4g} GFLOP an example"
      if name == "flops"
      else f"{value:,}"
      if type(value) is int
      else value
    )
    print(f"{name:<20} {shown}", flush=True)
  return out


def _size(tree: PyTree) -> int:
  return int(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree)))
