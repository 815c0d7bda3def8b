import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles, times
from mfm_jax.interpolants import Linear
from mfm_jax.rewards import callback as callbacks
from mfm_jax.rewards import composition, likelihoods
from mfm_jax.rewards.callback import RewardError, callback, load_callable, reported
from mfm_jax.steering import drifts, value
from mfm_jax.steering.search import search
from mfm_jax.steering.steer import steer

PRIOR = oracles.paper_mixture()
QUADRATIC = likelihoods.broad_quadratic()
X = jax.random.normal(jax.random.key(0), (6, 2))


def quadratic(x):
  """`QUADRATIC` in NumPy."""
  assert type(x) is np.ndarray
  assert x.dtype == np.float32
  return -((x.astype(np.float64) - 2.0) ** 2).sum(1) / 8


def by_label(x, cond):
  return x[:, 0] - cond["label"]


# ---- it is a reward ----


def test_value_and_gradient_are_those_of_the_jax_reward():
  t = jnp.repeat(jnp.array([0.1, 0.5, 0.9]), 2)
  velocity = oracles.as_sampler(PRIOR, Linear())
  options = {"draws": 8, "chunk": 3}

  def run(reward):
    # Recorded noise: the sampler hashes its bits, and two programs may round a normal draw differently.
    return jax.jit(
      lambda e: value.value_and_grad_gf(None, velocity, Linear(), t, X, reward, noise=e, **options)
    )(jax.random.normal(jax.random.key(1), (6, 8, 2)))

  found, expected = run(callback(quadratic)), run(QUADRATIC)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_a_path_steered_by_it_is_the_path_steered_by_the_jax_reward():
  """A scan over times around a scan over chunks, compiled."""
  velocity, marginal = oracles.as_sampler(PRIOR, Linear()), oracles.as_marginal(PRIOR, Linear())

  def run(reward):
    guide = drifts.mfm_gf(velocity, Linear(), reward, draws=4, chunk=2, marginal=marginal)
    grid = times.grid(4, start=0.01)
    e, z = (jax.random.normal(jax.random.key(i), (4, 6, *rest)) for i, rest in enumerate([(4, 2), (2,)]))
    return jax.jit(lambda *noise: steer(None, X, grid, guide, Linear(), noise=noise)[0])(e, z)

  np.testing.assert_allclose(run(callback(quadratic)), run(QUADRATIC), rtol=1e-3, atol=1e-3)


def test_search_takes_it():
  still = lambda s, u, x_s, t, x_t, cond: jnp.zeros_like(x_s)  # noqa: E731

  def run(reward):
    options = {"particles": 2, "draws": 3}
    return jax.jit(lambda key: search(key, X, times.grid(3), still, Linear(), reward, **options))(
      jax.random.key(1)
    )

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), run(callback(quadratic)), run(QUADRATIC)
  )


def test_vmap_calls_the_function_once_with_all_samples():
  calls = []

  def function(x, cond):
    calls.append((x.shape, cond["label"].shape))
    return by_label(x, cond)

  x, label = jnp.arange(24.0).reshape(3, 4, 2), jnp.arange(4)
  reward = callback(function)
  for run in (jax.vmap(reward, (0, None)), jax.jit(jax.vmap(reward, (0, None)))):
    np.testing.assert_array_equal(run(x, {"label": label}), x[..., 0] - label[None])
    assert calls.pop() == ((12, 2), (12,))
    assert not calls


@pytest.mark.parametrize("compiled", [False, True])
def test_the_function_sees_images_and_may_write_to_them(compiled):
  def function(x):
    x[:, 0] += 1.0
    return x.sum((1, 2, 3))

  reward = jax.jit(callback(function)) if compiled else callback(function)
  x = jnp.ones((2, 3, 3, 1), jnp.bfloat16)
  found = reward(x, None)
  np.testing.assert_array_equal(found, 12.0)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(x, 1.0)


@pytest.mark.parametrize(
  "result", [[1, 2], (True, False), np.ones(2, np.float16), np.array([np.nan, -np.inf])]
)
def test_what_numbers_are(result):
  np.testing.assert_array_equal(callback(lambda x: result)(X[:2], None), np.asarray(result, np.float32))


def test_the_condition_goes_to_functions_that_take_it():
  cond = {"label": jnp.arange(6)}
  for function in (
    by_label,
    lambda x, labels: by_label(x, labels),
    lambda x, cond=None: by_label(x, cond),
  ):
    np.testing.assert_allclose(callback(function)(X, cond), X[:, 0] - jnp.arange(6.0))
  for function in (lambda x: x[:, 0], lambda x, scale=1.0: scale * x[:, 0], lambda *x: x[0][:, 0]):
    np.testing.assert_allclose(callback(function)(X, cond), X[:, 0])
  assert callback(lambda x, cond: np.full(6, cond is None))(X).all()
  shapes = callback(np.hypot.reduce)  # written in C, without a signature
  with pytest.raises(RewardError, match=r"must return shape \(6,\); got \(2,\)"):
    shapes(X)


# ---- it has no gradient ----


@pytest.mark.parametrize("part", ["alone", "weighted_sum", "minimum"])
def test_differentiating_it_says_what_to_use_instead(part):
  reward = callback(quadratic, name="mine")
  reward = {
    "alone": reward,
    "weighted_sum": composition.weighted_sum([QUADRATIC, reward], [1.0, 2.0]),
    "minimum": composition.minimum([reward, QUADRATIC]),
  }[part]
  t = jnp.full(6, 0.5)
  linear = lambda s, u, x_s, t, x_t, cond: x_t - x_s  # noqa: E731
  message = r"reward 'mine' .* needs none \(mfm_gf, search, smc with mfm_gf, best_of_n\)"
  with pytest.raises(ValueError, match=message):
    jax.grad(lambda x: reward(x, None).sum())(X)
  with pytest.raises(ValueError, match=message):
    jax.jit(lambda key: value.value_and_grad_g(key, linear, t, X, reward, draws=4, chunk=2))(
      jax.random.key(0)
    )
  # What does not pass through the reward may still be differentiated.
  gradient = jax.grad(lambda x: (reward(jax.lax.stop_gradient(x), None) * x[:, 0]).sum())(X)
  np.testing.assert_allclose(gradient[:, 0], reward(X, None), rtol=1e-6)


def test_who_is_differentiable():
  black, white = callback(quadratic), lambda x, cond: x[:, 0]
  assert composition.is_differentiable(QUADRATIC)
  assert composition.is_differentiable(white)
  assert not composition.is_differentiable(black)
  for build in (composition.minimum, lambda parts: composition.weighted_sum(parts, [1.0] * len(parts))):
    assert composition.is_differentiable(build([QUADRATIC, white]))
    mixed = build([white, black])
    assert not composition.is_differentiable(mixed)
    assert not composition.is_differentiable(build([mixed, white]))


# ---- errors ----


def fails(x):
  raise TypeError("two\n lines")


BROKEN = pytest.mark.parametrize(
  ("function", "message"),
  [
    (fails, "reward 'mine' must not raise; got TypeError: two lines"),
    (lambda x: x, r"reward 'mine' must return shape \(6,\); got \(6, 2\)"),
    (lambda x: 1.0, r"reward 'mine' must return shape \(6,\); got \(\)"),
    (lambda x: None, "reward 'mine' must return numbers; got dtype object"),
    (lambda x: ["a"] * 6, "reward 'mine' must return numbers; got dtype <U1"),
    (lambda x: [[1.0], [1.0, 2.0]], "reward 'mine' must not raise; got ValueError: setting an array element"),
  ],
)


@BROKEN
def test_a_broken_function_is_named(function, message):
  with pytest.raises(RewardError, match=message):
    callback(function, name="mine")(X)


@BROKEN
def test_a_broken_function_is_named_by_compiled_programs(function, message, caplog):
  run = jax.jit(
    lambda x: jax.lax.scan(lambda c, _: (c, callback(function, name="mine")(c)), x, None, length=2)
  )
  with pytest.raises(RewardError, match=f"^{message}") as caught, reported():
    jax.block_until_ready(run(X))
  assert "\n" not in str(caught.value)
  assert not caplog.records
  with pytest.raises(jax.errors.JaxRuntimeError, match=message):
    jax.block_until_ready(run(X))
  assert caplog.records  # JAX logs again


def test_reported_leaves_other_errors_alone():
  def fail(x):
    raise OSError("disk")

  with pytest.raises(jax.errors.JaxRuntimeError, match="disk"), reported():
    jax.block_until_ready(jax.jit(lambda x: jax.pure_callback(fail, x, x))(X))
  with pytest.raises(KeyError), reported():
    raise KeyError
  with reported():
    assert callback(quadratic)(X).shape == (6,)


@pytest.mark.parametrize("function", [lambda: 0, lambda x, y, z: 0, lambda x, *, scale: 0])
def test_functions_of_other_arguments(function):
  with pytest.raises(ValueError, match=r"reward 'mine' must take \(x\) or \(x, cond\); got \("):
    callback(function, name="mine")


# ---- by name ----


def test_a_callable_by_name(tmp_path, monkeypatch):
  (tmp_path / "own_rewards.py").write_text("def brightness(x):\n  return x.mean((1, 2, 3))\n")
  monkeypatch.syspath_prepend(tmp_path)
  reward = callback(load_callable("own_rewards:brightness"))
  np.testing.assert_allclose(reward(jnp.full((2, 4, 4, 3), 0.5)), 0.5)
  assert load_callable("mfm_jax.rewards.callback:callback") is callbacks.callback
  assert load_callable("mfm_jax.oracles:GaussianMixture.covs.fget") is oracles.GaussianMixture.covs.fget


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("numpy.mean", "a callable must be written package.module:function; got 'numpy.mean'"),
    (":mean", "must be written package.module:function"),
    ("numpy:", "must be written package.module:function"),
    ("no_such_package.x:f", "'no_such_package.x:f' must name a module that can be imported; got ModuleNot"),
    ("broken_rewards:f", "must name a module that can be imported; got ZeroDivisionError: division by zero"),
    (".relative:f", "must name a module that can be imported; got TypeError"),
    ("numpy:no_such", "'numpy:no_such' must name something in the module; got module 'numpy' has no attr"),
    ("numpy:pi", "'numpy:pi' must name a callable; got float"),
  ],
)
def test_bad_names(path, message, tmp_path, monkeypatch):
  (tmp_path / "broken_rewards.py").write_text("1 / 0\n")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ValueError, match=message):
    load_callable(path)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_function_that_hangs_is_an_error(compiled):
  never = threading.Event()
  reward = callback(lambda x: never.wait(), name="mine", timeout=0.2)
  x = jnp.ones((2, 3))
  message = r"reward 'mine' must return within 0\.2 s; got no answer"
  with pytest.raises(RewardError, match=message), reported():
    jax.block_until_ready(jax.jit(reward)(x) if compiled else reward(x))
  never.set()


def test_a_timeout_changes_nothing_for_one_that_answers():
  x = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(callback(lambda x: x.sum(1), timeout=60.0)(x), [3.0, 12.0])
  with pytest.raises(RewardError, match="must not raise; got ZeroDivisionError"):
    callback(lambda x: 1 / 0, timeout=60.0)(x)
  with pytest.raises(ValueError, match="timeout must be at least 0; got -1"):
    callback(lambda x: x, timeout=-1)


@pytest.mark.parametrize("timeout", [0.0, 60.0])
def test_a_timeout_of_the_function_is_its_own_error(timeout):
  def function(x):
    raise TimeoutError("no judge")

  with pytest.raises(RewardError, match="must not raise; got TimeoutError: no judge"):
    callback(function, timeout=timeout)(jnp.ones((2, 3)))


def test_a_function_that_ends_the_program_is_not_taken_for_one_that_hangs():
  with pytest.raises(SystemExit):
    callback(lambda x: sys.exit(3), timeout=60.0)(jnp.ones((2, 3)))
