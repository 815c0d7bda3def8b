"""The optimiser: its learning rate by hand, its updates against optax used directly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mfm_jax.training import optimizer
from mfm_jax.training.optimizer import OptimizerConfig

RATE, WARMUP, STEPS = 2e-3, 10, 50


def test_the_learning_rate_rises_linearly_then_follows_a_cosine_to_zero():
  rate = optimizer.learning_rate(OptimizerConfig(learning_rate=RATE, warmup=WARMUP), STEPS)
  step = np.arange(STEPS + 1)
  # From lr / warmup at step 0, so that the first step moves.
  rise = RATE / WARMUP + (RATE - RATE / WARMUP) * step / WARMUP
  fall = RATE * 0.5 * (1 + np.cos(np.pi * (step - WARMUP) / (STEPS - WARMUP)))
  expected = np.where(step < WARMUP, rise, fall)
  np.testing.assert_allclose([rate(i) for i in step], expected, rtol=1e-5, atol=1e-9)
  assert rate(WARMUP) == pytest.approx(RATE)
  assert abs(rate(STEPS)) < 1e-9


def test_a_constant_rate_stays_and_no_warm_up_starts_at_the_rate():
  flat = OptimizerConfig(learning_rate=RATE, warmup=WARMUP, schedule="constant")
  rate = optimizer.learning_rate(flat, STEPS)
  assert rate(WARMUP) == rate(10 * STEPS) == pytest.approx(RATE)
  cosine = optimizer.learning_rate(OptimizerConfig(learning_rate=RATE, warmup=0), STEPS)
  assert cosine(0) == pytest.approx(RATE)
  assert cosine(STEPS // 2) == pytest.approx(RATE / 2)


def test_a_run_shorter_than_its_warm_up_has_a_finite_rate():
  rate = optimizer.learning_rate(OptimizerConfig(learning_rate=RATE, warmup=WARMUP), 3)
  assert all(0 < rate(i) <= RATE for i in range(3))


def _updates(transformation, grads):
  params = {"w": jnp.asarray([1.0, -2.0]), "b": jnp.asarray(3.0)}
  state, out = transformation.init(params), []
  for grad in grads:
    update, state = transformation.update(grad, state, params)
    params = optax.apply_updates(params, update)
    out.append(update)
  return jax.tree.map(lambda *leaves: np.stack(leaves), *out)


@pytest.mark.parametrize("name", ["radam", "adamw"])
def test_updates_are_those_of_optax_fed_with_clipped_gradients(name):
  decay = {"weight_decay": 0.1} if name == "adamw" else {}
  config = OptimizerConfig(name=name, learning_rate=RATE, warmup=3, b1=0.8, b2=0.95, clip=1.0, **decay)
  rng = np.random.default_rng(0)
  # Norms on both sides of the clip.
  grads = [
    {"w": jnp.asarray(scale * rng.normal(size=2)), "b": jnp.asarray(scale * rng.normal())}
    for scale in [0.01, 100.0] * 6
  ]
  norms = [np.sqrt(np.sum(np.square(grad["w"])) + np.square(grad["b"])) for grad in grads]
  assert min(norms) < 1.0 < max(norms)
  clipped = [
    jax.tree.map(lambda leaf, norm=norm: leaf / max(norm, 1.0), grad)
    for grad, norm in zip(grads, norms, strict=True)
  ]
  direct = {"radam": optax.radam, "adamw": optax.adamw}[name]
  expected = _updates(direct(optimizer.learning_rate(config, 12), 0.8, 0.95, **decay), clipped)
  actual = _updates(optimizer.build(config, 12), grads)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-9), actual, expected)


def test_clip_zero_leaves_gradients_alone():
  config = OptimizerConfig(clip=0.0, warmup=0, schedule="constant", learning_rate=RATE)
  grads = [{"w": jnp.asarray([300.0, 400.0]), "b": jnp.asarray(0.0)}]
  # The first step of RAdam is not normalised: the learning rate times the gradient.
  np.testing.assert_allclose(_updates(optimizer.build(config, 5), grads)["w"][0], [-0.6, -0.8], rtol=1e-5)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"name": "sgd"}, "optimizer.name must be one of radam, adamw; got 'sgd'"),
    ({"schedule": "step"}, "optimizer.schedule must be one of constant, cosine"),
    ({"learning_rate": -1.0}, "optimizer.learning_rate must be at least 0"),
    ({"clip": float("nan")}, "optimizer.clip must be at least 0; got nan"),
    ({"b1": 2.0}, r"optimizer.b1 must lie in \[0.0, 1.0\]; got 2.0"),
    ({"weight_decay": 0.1}, "optimizer.weight_decay needs optimizer.name=adamw; got 0.1 with radam"),
  ],
)
def test_mistakes(changes, message):
  with pytest.raises(ValueError, match=message):
    OptimizerConfig(**changes)
