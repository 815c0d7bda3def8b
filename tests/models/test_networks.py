"""Every network as a velocity: conditioning, precision, derivatives under jit, lowering for a TPU, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from mfm_jax.interpolants import Linear
from mfm_jax.losses import DrawConfig, Objective, draw
from mfm_jax.models import ModelConfig, build
from mfm_jax.models.dit import DiTConfig
from mfm_jax.precondition import GaussianSkip, precondition

SKIP = GaussianSkip(interpolant=Linear(), data_std=0.5)
SHAPES = {"mlp": (3,), "vit": (4, 4, 2), "unet": (8, 4, 2), "dit": (4, 4, 2)}
CLASSES, N = 5, 4
EVERY = pytest.mark.parametrize("name", SHAPES)
SLOWLY = pytest.mark.parametrize(
  "name", [pytest.param(name, marks=pytest.mark.slow) if name in ("unet", "vit") else name for name in SHAPES]
)


def model_of(name, *, guided=True, num_classes=CLASSES, **changes):
  changes = {"width": 16, "depth": 1, "heads": 2, "precondition": False, **changes}
  config = ModelConfig(name=name, **changes)
  scales = (2.5, 4.0) if guided else ()
  return build(config, shape=SHAPES[name], num_classes=num_classes, guidance_scales=scales, skip=SKIP)


@functools.cache
def params_of(name):
  """Of the bare network; the compute dtype and the skip do not change them."""
  return jax.jit(model_of(name).init)(jax.random.key(0))


def inputs(name, seed=0):
  rng = np.random.default_rng(seed)
  s, u = np.sort(rng.uniform(size=(2, N)), axis=0)
  x, x_t = rng.normal(size=(2, N, *SHAPES[name]))
  return [jnp.asarray(value, jnp.float32) for value in (s, u, x, rng.uniform(size=N), x_t)]


def conditioning(label=(0, 2, 4, CLASSES), guidance=(1.0, 2.5, 4.0, 1.0)):
  return {"label": jnp.asarray(label), "guidance": jnp.asarray(guidance, jnp.float32)}


@functools.cache
def velocity_of(name):
  """The bare network at its initial parameters, compiled."""
  return jax.jit(model_of(name).velocity(params_of(name)))


@EVERY
def test_absent_conditioning_is_the_null_label_at_scale_one(name):
  velocity, point = jax.jit(model_of(name).velocity(params_of(name))), inputs(name)
  null, one = jnp.full(N, CLASSES), jnp.ones(N)
  full = velocity(*point, {"label": null, "guidance": one})
  assert full.shape == point[2].shape
  for cond in (None, {}, {"label": null}, {"guidance": one}):
    np.testing.assert_allclose(velocity(*point, cond), full, rtol=1e-5, atol=1e-6)
  with_label = velocity(*point, {"label": jnp.arange(N)})
  np.testing.assert_allclose(
    with_label, velocity(*point, {"label": jnp.arange(N), "guidance": one}), rtol=1e-5, atol=1e-6
  )
  assert jnp.abs(with_label - full).max() > 1e-3


@EVERY
def test_examples_do_not_mix(name):
  velocity, point, cond = velocity_of(name), inputs(name), conditioning()
  whole = velocity(*point, cond)
  order = jnp.array([2, 0, 3, 1])
  shuffled = velocity(*(value[order] for value in point), jax.tree.map(lambda value: value[order], cond))
  np.testing.assert_allclose(shuffled, whole[order], rtol=1e-5, atol=1e-6)


@EVERY
def test_half_precision_is_in_the_computation_alone(name):
  params, point, cond = params_of(name), inputs(name), conditioning()
  half = model_of(name, dtype="bfloat16")
  shapes = jax.eval_shape(half.init, jax.random.key(0))
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
  velocity = jax.jit(half.velocity(params))
  exact, rounded = velocity_of(name)(*point, cond), velocity(*point, cond)
  assert rounded.dtype == jnp.float32
  error = jnp.sqrt(jnp.mean((rounded - exact) ** 2) / jnp.mean(exact**2))
  # The bound of bfloat16; the unet has 12 convolutions in a row. Above zero: the computation is in it.
  assert 1e-5 < error < (2e-2 if name == "unet" else 1e-2)
  products = [e for e in jaxpr_equations(velocity, *point, cond) if e.primitive.name == "dot_general"]
  assert len(products) > 4
  assert {e.outvars[0].aval.dtype for e in products} <= {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)}
  full = [e for e in products if any(v.aval.dtype != jnp.bfloat16 for v in e.invars)]
  assert len(full) == (10 if name == "dit" else 0)  # its five embeddings of times


def jaxpr_equations(f, *args):
  """All equations, those of inner functions too."""

  def walk(jaxpr):
    for equation in jaxpr.eqns:
      yield equation
      for inner in jaxprs_in_params(equation.params):
        yield from walk(inner)

  return walk(jax.make_jaxpr(f)(*args).jaxpr)


@SLOWLY
def test_gradient_of_a_time_derivative_is_that_of_finite_differences(name):
  """Reverse mode through forward mode, under jit."""
  params, model = params_of(name), model_of(name)
  s, u, x, t, x_t = inputs(name)

  @jax.jit
  def loss_and_gradient(params):
    def loss(params):
      def at(s, u):
        return model.velocity(params)(s, u, x, t, x_t, conditioning())

      _, slope = jax.jvp(at, (s, u), (jnp.full_like(s, 1.0), jnp.full_like(u, -0.5)))
      return jnp.mean(slope**2)

    return jax.value_and_grad(loss)(params)

  value, gradient = loss_and_gradient(params)
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  direction = tree.unflatten([jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)])
  expected = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)))
  h = 1e-3
  ahead, behind = (
    loss_and_gradient(jax.tree.map(lambda p, d, h=h: p + h * d, params, direction))[0] for h in (h, -h)
  )
  # float32: each loss is rounded to about 1e-6 relative, which is divided by 2 h.
  np.testing.assert_allclose((ahead - behind) / (2 * h), expected, rtol=0.02, atol=1e-3 * value)


@EVERY
def test_time_derivatives_are_those_of_finite_differences_and_moderate(name):
  s, u, x, t, x_t = inputs(name)
  velocity, h = velocity_of(name), 1e-2
  s, u = 0.1 + 0.8 * s, 0.1 + 0.8 * u
  at = jax.jit(lambda s, u: velocity(s, u, x, t, x_t, conditioning()))
  for ds, du in ((1.0, 0.0), (0.0, 1.0)):
    value, slope = jax.jvp(at, (s, u), (jnp.full_like(s, ds), jnp.full_like(u, du)))

    def d(h, ds=ds, du=du):
      return (at(s + h * ds, u + h * du) - at(s - h * ds, u - h * du)) / (2 * h)

    expected = (4 * d(h) - d(2 * h)) / 3  # Richardson: the error is of order h^4
    scale = jnp.abs(expected).max()
    np.testing.assert_allclose(slope, expected, atol=0.03 * scale)
    assert jnp.sqrt(jnp.mean(slope**2)) < 10 * jnp.sqrt(jnp.mean(value**2))


@SLOWLY
def test_a_training_gradient_lowers_for_a_tpu(name):
  """With the forward-mode derivative inside, which hand-written attention kernels refuse."""
  model = model_of(name, precondition=True, dtype="bfloat16", learned_weight=True)
  params = jax.eval_shape(model.init, jax.random.key(0))
  batch = {"x1": jnp.zeros((N, *SHAPES[name])), "label": jnp.zeros(N, jnp.int32)}
  draws = draw(jax.random.key(0), batch, 1, DrawConfig(num_classes=CLASSES, guidance_scales=(2.5,)))
  objective = Objective(consistency="lagrangian", null_label=CLASSES)

  def loss(params):
    return objective(
      model.velocity(params),
      Linear(),
      draws,
      weight=model.loss_weight,
      log_weight=model.log_weight(params),
    )[0].mean()

  for platform in ("tpu", "cuda"):
    lowered = jax.jit(jax.grad(loss)).trace(params).lower(lowering_platforms=(platform,))
    assert "dot_general" in lowered.as_text()


@EVERY
def test_the_skip_is_around_the_same_network(name):
  params, point, cond = params_of(name), inputs(name), conditioning()
  bare, wrapped = model_of(name), model_of(name, precondition=True)
  assert bare.loss_weight is None
  expected = jax.jit(precondition(bare.velocity(params), SKIP))(*point, cond)
  np.testing.assert_allclose(jax.jit(wrapped.velocity(params))(*point, cond), expected, rtol=1e-5, atol=1e-6)
  s, t = point[0], point[3]
  np.testing.assert_allclose(wrapped.loss_weight(s, t), SKIP.loss_weight(s, t))


def test_parameters_are_what_the_configuration_asks_for():
  def shapes(**kwargs):
    return jax.eval_shape(model_of("mlp", depth=2, **kwargs).init, jax.random.key(0))

  full = shapes()
  assert set(full) == {"net"}
  assert set(shapes(learned_weight=True)) == {"net", "log_weight"}
  assert model_of("mlp").log_weight is None
  assert full["net"]["conditioning"]["label"]["embedding"].shape == (CLASSES + 1, 16)
  assert "label" not in shapes(guided=False, num_classes=0)["net"]["conditioning"]
  assert {name for name in full["net"] if name.startswith("in_")} == {"in_0", "in_1"}
  small = build(ModelConfig(width=4, depth=1), shape=(2,), skip=SKIP)
  # times 64 -> 4 -> 4; state and context 2 -> 4; modulation 4 -> 8; block 4 -> 4 -> 4; out 4 -> 2
  count = (64 * 4 + 4) + (4 * 4 + 4) + 2 * (2 * 4 + 4) + (4 * 8 + 8) + 2 * (4 * 4 + 4) + (4 * 2 + 2)
  assert sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(small.init, jax.random.key(0)))) == count


def test_the_learned_log_variance_is_that_of_its_parameters():
  model = model_of("mlp", learned_weight=True, width=4)
  params = jax.jit(model.init)(jax.random.key(0))
  s = jnp.linspace(0.0, 1.0, N)
  np.testing.assert_array_equal(model.log_weight(params)(s, s, s), np.zeros(N))
  params["log_weight"]["out"]["bias"] += 0.5
  np.testing.assert_array_equal(model.log_weight(params)(s, s, s), np.full(N, 0.5))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"name": "cnn"}, "model.name must be one of mlp, vit, unet, dit; got 'cnn'"),
    ({"dtype": "float16"}, "model.dtype must be one of float32, bfloat16; got 'float16'"),
    ({"depth": 0}, "model.depth must be at least 1; got 0"),
    ({"name": "vit", "width": 30, "heads": 4}, "model.heads must divide model.width; got width 30, heads 4"),
    ({"name": "dit", "width": 6, "heads": 2}, "model.width must be a multiple of 4 for a dit's .*; got 6"),
    (
      {"name": "dit", "dit": DiTConfig(encoder_depth=4)},
      "model.dit.encoder_depth must be at most model.depth; got 4, depth 3",
    ),
  ],
)
def test_bad_sizes_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    ModelConfig(**changes)


@pytest.mark.parametrize(
  ("shape", "patch", "message"),
  [
    ((3,), 2, r"model.name=vit needs images \(H, W, C\); got examples of shape \(3,\)"),
    ((8, 6, 1), 4, r"model.patch must divide the image; got patch 4, examples of \(8, 6, 1\)"),
  ],
)
def test_bad_images_are_refused(shape, patch, message):
  with pytest.raises(ValueError, match=message):
    build(ModelConfig(name="vit", patch=patch), shape=shape, skip=SKIP)


def test_conditioning_that_the_network_does_not_take_is_refused():
  point = inputs("mlp")
  plain, params = model_of("mlp", guided=False, num_classes=0), params_of("mlp")
  with pytest.raises(ValueError, match=r"cond may hold \(\) for this network; got 'label'"):
    plain.velocity(params)(*point, {"label": jnp.zeros(N, jnp.int32)})
  with pytest.raises(ValueError, match=r"cond may hold \('label', 'guidance'\) .*; got 'labels'"):
    model_of("mlp").velocity(params)(*point, {"labels": jnp.zeros(N, jnp.int32)})
  with pytest.raises(ValueError, match=r"guidance scales need labelled data; got .*num_classes=0"):
    model_of("mlp", num_classes=0)
