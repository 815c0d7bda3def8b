"""The training state, its averages and hash, and the step that moves it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mfm_jax.training import step
from mfm_jax.training.state import create, ema_update, params_sha256

PARAMS = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(2, np.float32)}


def test_an_average_follows_the_recursion_with_its_early_bound():
  rng = np.random.default_rng(0)
  path = rng.normal(size=(40, 3)).astype(np.float32)
  average, expected = {"w": jnp.asarray(path[0])}, path[0].astype(np.float64)
  for i, params in enumerate(path[1:]):
    average = ema_update(average, {"w": params}, 0.8, jnp.asarray(i))
    decay = min(0.8, (1 + i) / (10 + i))
    expected = decay * expected + (1 - decay) * params
  np.testing.assert_allclose(average["w"], expected, rtol=1e-5, atol=1e-6)


def test_averages_start_at_the_parameters_in_memory_of_their_own():
  state = create(jax.tree.map(jnp.asarray, PARAMS), optax.sgd(0.1), (0.9, 0.99))
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

  def loss(params, frozen, batch, key, now):
    assert frozen is None
    value = params["w"] * jax.random.normal(key, ()) + jnp.mean(batch["x1"])
    return value, {"now": now}

  train_step = jax.jit(step.make_train_step(loss, optax.sgd(0.5), seed=7))
  state = create({"w": jnp.asarray(2.0)}, optax.sgd(0.5), (0.5,))
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
