"""Operators against loops in NumPy, the reward against the closed-form likelihood, and every refusal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from mfm_jax import flow_map
from mfm_jax.interpolants import Linear
from mfm_jax.rewards import inverse, operators
from mfm_jax.rewards.likelihoods import GaussianLikelihood
from mfm_jax.steering import drifts, value

SHAPE = (6, 8, 2)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, *SHAPE)).astype(np.float32)
EVERY = {
  "inpaint": operators.Inpaint(seen=operators.centre_box(6, 8, 4)),
  "inpaint_channels": operators.Inpaint(seen=RNG.random(SHAPE) < 0.4),
  "pool": operators.AveragePool(factor=2),
  "blur": operators.GaussianBlur(width=0.8, radius=2),
  "matrix": operators.Matrix(matrix=RNG.normal(size=(5, 96))),
}


@pytest.mark.parametrize("name", EVERY)
def test_linear_and_of_the_shape_that_is_promised(name):
  operator = EVERY[name]
  out = operator(X)
  assert out.shape == (3, *operator.output_shape(SHAPE))
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(operator(2.0 * X[:1] - X[1:2]), 2 * out[:1] - out[1:2], rtol=1e-4, atol=1e-4)
  with jax.enable_x64(True):
    assert operator(jnp.asarray(X, "float64")).dtype == "float64"
  assert operator(jnp.asarray(X, "bfloat16")).dtype == "float32"


@pytest.mark.parametrize("name", EVERY)
def test_no_compute_before_the_shape_is_checked(name):
  """Abstract arrays have no values: the refusal comes all the same."""
  with pytest.raises(ValueError, match=r"image|examples"):
    jax.eval_shape(EVERY[name], jax.ShapeDtypeStruct((3, 5, 3, 2), jnp.float32))


def test_inpainting_takes_the_seen_values_in_order():
  mask = EVERY["inpaint_channels"].seen
  np.testing.assert_array_equal(EVERY["inpaint_channels"](X), X[:, mask])
  seen = EVERY["inpaint"].seen
  assert seen.sum() == 48 - 16
  np.testing.assert_array_equal(EVERY["inpaint"](X), X[:, seen].reshape(3, -1))


def test_the_picture_of_an_observation_puts_values_back_in_place():
  operator = EVERY["inpaint"]
  picture = operator.picture(np.asarray(operator(X)), SHAPE)
  np.testing.assert_array_equal(picture, np.where(operator.seen[..., None], X, np.nan))


def test_pooling_is_the_mean_of_each_block():
  out = operators.AveragePool(factor=2)(X)
  for i in range(3):
    for j in range(4):
      np.testing.assert_allclose(
        out[:, i, j], X[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)), atol=1e-6
      )


@pytest.mark.parametrize("radius", [2, 0])
def test_blur_is_that_of_scipy_with_mirrored_borders(radius):
  operator = operators.GaussianBlur(width=0.6, radius=radius)
  expected = X
  for axis in (1, 2):
    expected = ndimage.gaussian_filter1d(expected, 0.6, axis=axis, mode="mirror", radius=2)
  np.testing.assert_allclose(operator(X), expected, atol=1e-5)
  np.testing.assert_allclose(operator(np.ones_like(X)), 1.0, atol=1e-6)


def test_masks_by_hand():
  box = [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
  np.testing.assert_array_equal(operators.centre_box(4, 4, 2), np.array(box, bool))
  np.testing.assert_array_equal(operators.half(2, 3, "left"), [[False, True, True]] * 2)
  np.testing.assert_array_equal(operators.half(2, 3, "right"), [[True, True, False]] * 2)
  np.testing.assert_array_equal(operators.half(3, 2, "top"), [[False] * 2, [True] * 2, [True] * 2])
  np.testing.assert_array_equal(operators.half(3, 2, "bottom"), [[True] * 2, [True] * 2, [False] * 2])
  drawn = operators.scattered(8, 8, 0.3, seed=1)
  assert drawn.sum() == 19
  np.testing.assert_array_equal(drawn, operators.scattered(8, 8, 0.3, seed=1))
  assert (drawn != operators.scattered(8, 8, 0.3, seed=2)).any()
  assert operators.scattered(8, 8, 0.0).sum() == 1


def test_operators_of_a_configuration(tmp_path):
  def same(text, operator):
    np.testing.assert_allclose(operators.parse(text, SHAPE)(X), operator(X), atol=1e-6)

  same("half:top", operators.Inpaint(seen=operators.half(6, 8, "top")))
  same("box:4", EVERY["inpaint"])
  same("scattered:0.3", operators.Inpaint(seen=operators.scattered(6, 8, 0.3)))
  same("pool:2", EVERY["pool"])
  same("blur:0.6", operators.GaussianBlur(width=0.6))
  matrix = np.random.default_rng(0).normal(size=(3, 6 * 8 * 2))
  np.save(tmp_path / "a.npy", matrix)
  same(f"matrix:{tmp_path}/a.npy", operators.Matrix(matrix=matrix))


# ---- the reward ----


def test_reward_is_the_gaussian_likelihood_for_a_matrix():
  matrix, y = RNG.normal(size=(5, 96)), RNG.normal(size=5)
  reward = inverse.InverseProblem(operator=operators.Matrix(matrix=matrix), sigma=0.7)
  expected = GaussianLikelihood(matrix=matrix, observed=y, sigma=0.7)(X)
  observed = jnp.tile(jnp.asarray(y, jnp.float32)[None], (3, 1))
  np.testing.assert_allclose(reward(X, {"observed": observed}), expected, rtol=1e-5)


def test_each_example_has_its_own_observation():
  reward = inverse.InverseProblem(operator=operators.AveragePool(factor=2), sigma=0.5)
  y = reward.operator(X)
  np.testing.assert_allclose(reward(X, {"observed": y}), 0.0, atol=1e-6)
  found = reward(X, {"observed": y.at[1, 0, 0, 0].add(1.5)})
  np.testing.assert_allclose(found, [0.0, -0.5 * 9.0, 0.0], atol=1e-4)


def test_noise_of_observations_has_standard_deviation_sigma():
  reward = inverse.InverseProblem(operator=EVERY["inpaint"], sigma=0.3)
  x = jnp.tile(jnp.asarray(X[:1]), (400, 1, 1, 1))
  residual = reward.residual(x, reward.observe(jax.random.key(0), x))
  assert residual.shape == (400, 64)
  assert abs(float(residual.mean())) < 4 / np.sqrt(residual.size)
  assert abs(float((residual**2).mean()) - 1) < 4 * np.sqrt(2 / residual.size)


def network(s, u, x_s, t, x_t, cond):
  """As built networks: refuses keys that are no inputs."""
  assert set(cond or {}) <= {"label"}, cond
  return x_t - x_s


@pytest.mark.parametrize("label", [False, True])
def test_a_steered_batch_of_observations_is_each_steered_alone(label):
  """Through drifts and value: cond is repeated for draws, the network does not see the observation."""
  reward = inverse.InverseProblem(operator=EVERY["pool"], sigma=1.0)
  x, t = jnp.asarray(X), jnp.full(3, 0.5)
  noise = jnp.asarray(RNG.normal(size=(3, 4, *SHAPE)), jnp.float32)
  cond = {"observed": reward.observe(jax.random.key(0), x)} | ({"label": jnp.arange(3)} if label else {})
  velocity = inverse.without(network, inverse.OBSERVED)
  marginal = inverse.without(flow_map.marginal_velocity(network), inverse.OBSERVED)
  guide = drifts.mfm_gf(velocity, Linear(), reward, cond, draws=4, marginal=marginal)
  found = jax.jit(guide)(noise, t, x)

  @jax.jit
  def alone(noise, t, x, cond):
    return value.value_and_grad_gf(None, velocity, Linear(), t, x, reward, cond, draws=4, noise=noise)

  for i in range(3):
    part = {name: leaf[i : i + 1] for name, leaf in cond.items()}
    estimate, gradient = alone(noise[i : i + 1], t[:1], x[i : i + 1], part)
    np.testing.assert_allclose(found.gradient[i], gradient[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.found["value"][i], estimate.value[0], rtol=1e-5)
  assert len({float(v) for v in found.found["value"]}) == 3


# ---- refusals ----


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: operators.Inpaint(seen=np.ones((2, 2))),
      r"seen must be bool \(H, W\) or \(H, W, C\); got float64",
    ),
    (lambda: operators.Inpaint(seen=np.ones(2, bool)), r"got bool of shape \(2,\)"),
    (lambda: operators.Inpaint(seen=np.zeros((2, 2), bool)), "seen must hold at least one pixel; got none"),
    (
      lambda: operators.Inpaint(seen=np.ones((2, 2), bool)).output_shape((2, 3, 1)),
      r"seen must fit the image \(2, 3, 1\); got \(2, 2\)",
    ),
    (
      lambda: operators.Inpaint(seen=np.ones((2, 2), bool))(jnp.ones((4, 6))),
      r"the operator needs images \(H, W, C\); got examples of shape \(6,\)",
    ),
    (
      lambda: EVERY["inpaint"].picture(np.zeros((2, 3)), SHAPE),
      r"y must have shape \(any, 64\); got \(2, 3\)",
    ),
    (lambda: operators.AveragePool(factor=1), "factor must be at least 2; got 1"),
    (
      lambda: operators.AveragePool(factor=4).output_shape(SHAPE),
      r"factor must divide the sides of the image; got factor=4, image \(6, 8, 2\)",
    ),
    (lambda: operators.GaussianBlur(width=0.0), "width must be a positive number; got 0.0"),
    (lambda: operators.GaussianBlur(width=1.0, radius=-1), "radius must be at least 0; got -1"),
    (
      lambda: operators.GaussianBlur(width=1.0).output_shape(SHAPE),
      r"the kernel of 2 radius \+ 1 = 7 taps must not be larger than the image; got \(6, 8, 2\)",
    ),
    (lambda: operators.Matrix(matrix=np.ones(3)), r"matrix must have shape \(any, any\); got \(3,\)"),
    (lambda: operators.Matrix(matrix=np.full((1, 1), np.nan)), "matrix must be finite"),
    (
      lambda: operators.Matrix(matrix=np.ones((2, 3)))(jnp.ones((4, 2, 2))),
      r"matrix must have one column a coordinate; got 3 for examples of \(2, 2\)",
    ),
    (lambda: operators.centre_box(4, 4, 0), "side must be at least 1; got 0"),
    (lambda: operators.centre_box(4, 4, 4), r"side must leave pixels to be seen; got side=4, image \(4, 4\)"),
    (lambda: operators.centre_box(4, 6, 5), "side must leave pixels to be seen; got side=5"),
    (lambda: operators.half(4, 4, "up"), "hidden must be one of left, right, top, bottom; got 'up'"),
    (lambda: operators.half(4, 1, "left"), "the number of lines to be halved must be at least 2; got 1"),
    (lambda: operators.scattered(4, 4, 1.5), r"share must lie in \[0.0, 1.0\]; got 1.5"),
    (lambda: operators.scattered(4, 4, 0.5, seed=-1), "seed must be at least 0; got -1"),
    (lambda: operators.parse("crop:2", SHAPE), "an operator must be one of half:left, .*; got 'crop:2'$"),
    (lambda: operators.parse("matrix:none.npy", SHAPE), "got 'matrix:none.npy': .*No such file"),
    (lambda: operators.parse("box", SHAPE), "got 'box': invalid literal for int"),
    (lambda: operators.parse("half:up", SHAPE), "got 'half:up': hidden must be one of"),
    (lambda: operators.parse("pool:4", SHAPE), "factor must divide the sides of the image"),
    (lambda: operators.parse("pool:2", (6,)), r"the operator needs images \(H, W, C\)"),
    (
      lambda: inverse.InverseProblem(operator=EVERY["pool"], sigma=-1.0),
      "sigma must be a positive number; got -1.0",
    ),
    (
      lambda: inverse.InverseProblem(operator=EVERY["pool"], sigma=1.0)(X, {"label": jnp.zeros(3)}),
      r"cond must hold 'observed', the observation; got \['label'\]",
    ),
    (
      lambda: inverse.InverseProblem(operator=EVERY["pool"], sigma=1.0)(X, None),
      r"cond must hold 'observed', the observation; got \[\]",
    ),
    (
      lambda: inverse.InverseProblem(operator=EVERY["pool"], sigma=1.0)(X, {"observed": jnp.zeros((3, 5))}),
      r"observed must have shape \(3, 3, 4, 2\); got \(3, 5\)",
    ),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()
