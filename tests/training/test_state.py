"""The training state, its averages and hash, and the step that moves it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mfm_jax.training import step
from mfm_jax.training.averages import update
from mfm_jax.training.state import create, params_sha256

PARAMS = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(2, np.float32)}


def test_an_average_follows_the_recursion_with_its_early_bound():
  rng = np.random.default_rng(0)
  path = rng.normal(size=(40, 3)).astype(np.float32)
  average, expected = {"w": jnp.asarray(path[0])}, path[0].astype(np.float64)
  for i, params in enumerate(path[1:]):
    average = update(average, {"w": params}, "0.8", jnp.asarray(i))
    decay = min(0.8, (1 + i) / (10 + i))
    expected = decay * expected + (1 - decay) * params
  np.testing.assert_allclose(average["w"], expected, rtol=1e-5, atol=1e-6)


def test_averages_start_at_the_parameters_in_memory_of_their_own():
  state = create(jax.tree.map(jnp.asarray, PARAMS), optax.sgd(0.1), ("0.9", "0.99"))
  assert set(state.ema) == {"0.9", "0.99"}
  for average in state.ema.values():
    jax.tree.map(np.testing.assert_array_equal, average, PARAMS)
    # One buffer in two places could not be donated.
    assert average["b"].unsafe_buffer_pointer() != state.params["b"].unsafe_buffer_pointer()


def test_the_hash_is_the_documented_one():
  # sha256 of "a/kernel(2, 3)", its bytes, "b(2,)", its bytes; computed with hashlib alone.
  import hashlib
  import struct

  content = b"a/kernel(2, 3)" + struct.pack("<6f", *range(6)) + b"b(2,)" + struct.pack("<2f", 1, 1)
  assert params_sha256(PARAMS) == hashlib.sha256(content).hexdigest()


def test_the_hash_ignores_the_order_of_insertion_and_where_arrays_live():
  assert params_sha256(dict(reversed(PARAMS.items()))) == params_sha256(PARAMS)
  assert params_sha256(jax.tree.map(jnp.asarray, PARAMS)) == params_sha256(PARAMS)


@pytest.mark.parametrize(
  "other",
  [
    {**PARAMS, "b": np.asarray([1.0, np.nextafter(np.float32(1), np.float32(2))], np.float32)},
    {**PARAMS, "b": np.asarray([-1.0, 1.0], np.float32)},
    {**PARAMS, "b": np.ones((2, 1), np.float32)},
    {"a": {"kernel": PARAMS["a"]["kernel"].reshape(3, 2)}, "b": PARAMS["b"]},
    {"a": {"kernel": PARAMS["a"]["kernel"][::-1]}, "b": PARAMS["b"]},
    {"a": PARAMS["a"], "c": PARAMS["b"]},
    {"a": PARAMS["a"]},
  ],
  ids=["last bit", "sign", "shape", "transposed", "order", "name", "missing"],
)
def test_the_hash_sees_every_change(other):
  assert params_sha256(other) != params_sha256(PARAMS)


def test_a_step_draws_from_its_own_key_and_counts_from_one():
  """The loss of this step is its key's draw times the parameter: the metrics show key and step."""

  def of(params, frozen, drawn, now):
    assert frozen is None
    noise, batch = drawn
    return params["w"] * noise + jnp.mean(batch["x1"]), {"now": now}

  loss = step.Loss(draw=lambda key, batch, now: (jax.random.normal(key, ()), batch), of=of)
  train_step = jax.jit(step.make_train_step(loss, optax.sgd(0.5), seed=7))
  state = create({"w": jnp.asarray(2.0)}, optax.sgd(0.5), ("0.5",))
  w = 2.0
  for i in range(3):
    state, metrics = train_step(state, None, {"x1": jnp.ones(4)})
    noise = float(jax.random.normal(jax.random.fold_in(jax.random.key(7), i), ()))
    np.testing.assert_allclose(metrics["loss"], w * noise + 1.0, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], abs(noise), rtol=1e-5, atol=1e-6)
    assert int(metrics["now"]) == int(state.step) == i + 1
    w -= 0.5 * noise
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5, atol=1e-6)
  assert float(state.ema["0.5"]["w"]) != float(state.params["w"])


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(parts):
  def of(params, frozen, drawn, now):
    losses = (params["w"] * drawn["x1"] + drawn["noise"]) ** 2
    return losses.mean(), {"mean": drawn["noise"].mean()}

  def draw(key, batch, now):
    return {"x1": batch["x1"], "noise": jax.random.normal(key, batch["x1"].shape), "label": None}

  loss = step.Loss(draw=draw, of=of)
  state = create({"w": jnp.asarray(2.0)}, optax.sgd(0.5), ("0.5",))
  batch = {"x1": jnp.arange(6.0)}
  whole, parted = (
    jax.jit(step.make_train_step(loss, optax.sgd(0.5), 7, accumulate=count))(state, None, batch)
    for count in (1, parts)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole, parted)


def test_a_step_that_is_not_finite_changes_nothing_but_the_count():
  loss = step.Loss(
    draw=lambda key, batch, now: batch, of=lambda params, frozen, x, now: (jnp.log(x) * params["w"], {})
  )
  train_step = jax.jit(step.make_train_step(loss, optax.adam(0.5), 0))
  before, _ = train_step(create({"w": jnp.asarray(2.0)}, optax.adam(0.5), ("0.5",)), None, jnp.asarray(2.0))
  after, metrics = train_step(before, None, jnp.asarray(-1.0))
  assert (float(metrics["skipped"]), int(after.step)) == (1.0, 2)
  jax.tree.map(np.testing.assert_array_equal, after._replace(step=before.step), before)
