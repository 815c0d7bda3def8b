"""Steps compiled from shapes: the ImageNet configurations, and what lowers for accelerators."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import pytest
import run_case

from mfm_jax import times
from mfm_jax.interpolants import Linear
from mfm_jax.sampling import refinement
from mfm_jax.steering import drifts, steer
from mfm_jax.training import dry_run, run
from mfm_jax.training.config import RunConfig, from_dict

PLATFORMS = ("tpu", "cuda")


def imagenet(name, mode=""):
  config = importlib.import_module(f"experiments.configs.{name}").get_config(mode).to_dict()
  return from_dict(RunConfig, config)


@pytest.mark.slow
def test_the_published_run_compiles_from_shapes(capsys):
  found = dry_run.dry_run(imagenet("imagenet_xl2_distill"))
  assert found["parameters"] == found["teacher_parameters"] == 683_991_952
  assert found["seconds_compile"] <= 60
  # Parameters, two moments and an average of the state, and the teacher: 5 of 4 bytes.
  assert found["bytes_arguments"] >= 5 * 4 * 683_991_952
  assert found["bytes_output"] < 1 << 20  # the state is donated
  # About 11 passes of 0.24 TFLOP an image: diagonal 3, guided teacher 4, derivative and its gradient 4.
  assert 0.9 <= found["flops"] / 360 / 2.6e12 <= 1.1
  out = capsys.readouterr().out
  assert all(name in out for name in ("shape", "parameters", "TFLOP a step", "bytes_temporary"))


@pytest.mark.parametrize(
  ("name", "batch", "power"),
  [
    ("imagenet_b2", 512, 0.5),
    ("imagenet_b2_distill", 512, 0.5),
    ("imagenet_xl2", 360, 1.0),
    ("imagenet_xl2_distill", 360, 1.0),
  ],
)
def test_the_published_hyper_parameters(name, batch, power):
  """Table 5 of the paper."""
  config = imagenet(name)
  own, draws, loss = config.optimizer, config.draws, config.loss
  assert (own.name, own.b1, own.b2, own.learning_rate) == ("radam", 0.9, 0.999, 1e-4)
  assert (own.warmup, own.schedule, own.weight_decay, own.clip) == (2000, "constant", 0.0, 1.5)
  assert (config.steps, config.batch_size, config.ema) == (100_000, batch, (0.9999,))
  assert (draws.label_dropout, draws.guidance_scales) == (0.2, (2.5,))
  assert (draws.context_power, draws.context_zero_rate) == (2.0, 0.1)
  assert (loss.weighting, loss.diagonal_power, loss.consistency_power, loss.offset) == (
    "adaptive",
    power,
    1.0,
    0.01,
  )
  assert config.model.dit.encoder_depth == (8 if "b2" in name else 20)
  assert (config.init != "") == loss.needs_teacher == name.endswith("distill")


@pytest.mark.parametrize("name", ["imagenet_xl2_distill", "cifar10"])
def test_train_steps_lower_for_accelerators(name):
  config = imagenet(name, "smoke")
  train_step, arguments = dry_run.abstract_step(config, dry_run.info_of(config))
  traced = jax.jit(train_step).trace(*arguments)
  for platform in PLATFORMS:
    traced.lower(lowering_platforms=(platform,))


def test_sampling_and_steering_lower_for_accelerators():
  config = imagenet("imagenet_xl2", "smoke")
  info = dry_run.info_of(config)
  model = run.parts(config, info).model
  params = jax.eval_shape(model.init, jax.random.key(0))
  x = jax.ShapeDtypeStruct((4, *info.shape), jnp.float32)
  cond = {"label": jnp.arange(4), "guidance": jnp.full(4, 2.5)}
  reward = lambda x, cond: x.mean((1, 2, 3))  # noqa: E731

  def sample(params, x):
    velocity = model.velocity(params)
    return refinement.refine(jax.random.key(0), x, times.grid(4), velocity, Linear(), cond)[0]

  def steered(guide):
    return lambda params, x: steer.steer(
      jax.random.key(0), x, times.grid(4, start=0.01), guide(model.velocity(params)), Linear(), sampler="ode"
    )[0]

  programs = {
    "sampling": sample,
    "mfm_g": steered(lambda velocity: drifts.mfm_g(velocity, reward, cond, draws=4, chunk=2)),
    "mfm_gf": steered(lambda velocity: drifts.mfm_gf(velocity, Linear(), reward, cond, draws=4, chunk=2)),
  }
  for program in programs.values():
    traced = jax.jit(program).trace(params, x)
    for platform in PLATFORMS:
      traced.lower(lowering_platforms=(platform,))


def test_a_dry_run_of_data_that_are_there():
  config = dataclasses.replace(run_case.smoke(), batch_size=8)
  found = dry_run.dry_run(config)
  assert (found["shape"], found["num_classes"], found["teacher_parameters"]) == ([2], 0, 0)
