"""Weights of the squared errors against the recorded numbers of the published code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.losses import weighting

# Bounds that come with the recorded numbers, relative to the largest entry.
VALUE, GRADIENT = 2e-5, 5e-5
KINDS = {"l2": "l2", "lv": "log"}
BY_CONSTANTS = ["adaptive_p0.5_c0.01", "adaptive_p0.75_c0.001", "adaptive_p1.0_c0.01"]


def options(name):
  """The arguments of `weighted` for a recorded loss, such as adaptive_p0.5_c0.01."""
  if name in KINDS:
    return {"kind": KINDS[name]}
  kind, power, offset = name.split("_")
  return {"kind": kind, "power": float(power[1:]), "offset": float(offset[1:])}


def losses(name, prediction, target, log_variance):
  """Per example, (B,)."""
  delta = weighting.squared_error(prediction, target)
  return weighting.weighted(delta, size=prediction[0].size, log_variance=log_variance, **options(name))


def assert_near(actual, expected, bound):
  np.testing.assert_allclose(actual, expected, rtol=0, atol=bound * np.abs(expected).max())


@pytest.mark.parametrize("name", [*KINDS, *BY_CONSTANTS])
def test_losses_and_gradients_are_the_recorded_ones(golden, name):
  run = golden("C_compute_loss")
  pair, w = (run["pred"], run["target"]), run["weighting"]
  assert_near(losses(name, *pair, jnp.zeros_like(w)).mean(), run[f"{name}__w_zero__stop0__loss"], VALUE)
  np.testing.assert_array_equal(losses(name, *pair, None), losses(name, *pair, jnp.zeros_like(w)))
  for stop in ("stop0", "stop1"):
    prefix = f"{name}__w_vec__{stop}__"

    def mean(prediction, target, w, stop=stop):
      target = jax.lax.stop_gradient(target) if stop == "stop1" else target
      return losses(name, prediction, target, w).mean()

    value, gradients = jax.value_and_grad(mean, argnums=(0, 1, 2))(*pair, w)
    assert_near(value, run[prefix + "loss"], VALUE)
    recorded = dict(zip(("pred", "target", "weighting"), gradients))
    for quantity, gradient in recorded.items():
      if prefix + f"grad_{quantity}" in run:
        assert_near(gradient, run[prefix + f"grad_{quantity}"], GRADIENT)
  if name not in BY_CONSTANTS[1:]:  # recorded for these
    assert f"{name}__w_vec__stop0__grad_target" in run


def test_squared_error_is_the_recorded_one(golden):
  run = golden("C_compute_loss")
  delta = weighting.squared_error(run["pred"], run["target"])
  assert_near(delta.mean(), run["l2__w_vec__stop0__unweighted"], VALUE)
  assert_near((delta / run["pred"][0].size).mean(), run["lv__w_vec__stop0__unweighted"], VALUE)


@pytest.mark.parametrize("name", BY_CONSTANTS)
def test_the_published_average_over_pairs_of_examples_is_not_ours(golden, name):
  """There a weight (B, 1, 1, 1) met an error (B,): every error was weighted by every other example's W."""
  run = golden("C_compute_loss")
  w, published = run["weighting"], run[f"{name}__w_b111__stop0__loss"]
  plain = losses(name, run["pred"], run["target"], None)
  pairs = np.asarray(plain)[None] * np.exp(-w)[:, None] + w[:, None]
  assert_near(pairs.mean(), published, VALUE)
  own = losses(name, run["pred"], run["target"], w).mean()
  assert abs(own - published) > 100 * VALUE * published
  with pytest.raises(ValueError, match=r"log_variance must have shape \(6,\); got \(6, 1, 1, 1\)"):
    losses(name, run["pred"], run["target"], w[:, None, None, None])


@pytest.mark.parametrize("name", [*KINDS, *BY_CONSTANTS])
def test_every_example_has_its_own_loss(golden, name):
  run = golden("C_compute_loss")
  arguments = run["pred"], run["target"], run["weighting"]
  together = losses(name, *arguments)
  assert together.shape == (6,)
  alone = [losses(name, *(value[i : i + 1] for value in arguments))[0] for i in range(6)]
  np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-6)
  jacobian = np.asarray(jax.jacobian(lambda w: losses(name, *arguments[:2], w))(run["weighting"]))
  assert (np.diagonal(jacobian) != 0).all()
  assert (jacobian[~np.eye(6, dtype=bool)] == 0).all()


def test_adaptive_weight_is_a_constant_of_the_gradient():
  # d (w delta) with w = (delta + c)^-p frozen: at delta = 0.99, c = 0.01 the weight is 1 for every p.
  slope = jax.grad(lambda delta: weighting.weighted(delta, kind="adaptive", size=1, power=0.7).sum())
  np.testing.assert_allclose(slope(jnp.array([0.99])), [1.0], rtol=1e-6)
  np.testing.assert_allclose(slope(jnp.array([4.0 - 0.01])), [4.0**-0.7], rtol=1e-6)


def test_learned_variance_is_best_at_the_error_itself():
  """The minimum over W of delta e^-W + W is at W = log delta, of the log form at W = log mean-delta."""
  delta = jnp.array([0.3, 5.0])
  for kind, size, best in (("l2", 1, jnp.log(delta)), ("log", 4, jnp.log(delta / 4))):
    slope = jax.grad(
      lambda w, kind=kind, size=size: weighting.weighted(delta, kind=kind, size=size, log_variance=w).sum()
    )
    np.testing.assert_allclose(slope(best), jnp.zeros(2), atol=1e-6)
    assert (slope(best + 1.0) > 0).all()
    assert (slope(best - 1.0) < 0).all()


def test_half_precision_errors_are_taken_in_float32():
  x = jnp.full((2, 1024), 256.0, jnp.bfloat16)
  delta = weighting.squared_error(x, jnp.full_like(x, 0.5))  # 255.5 has too many digits for bfloat16
  assert delta.dtype == jnp.float32
  np.testing.assert_array_equal(delta, [1024 * 255.5**2] * 2)
