"""The transformer against the published network's numbers, and what must not change a value."""

import dataclasses

import flax.linen as nn
import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import error, nhwc

from mfm_jax.models import dit, layers, vit

VALUES, DERIVATIVES = 2e-5, 5e-5
EVERY = pytest.mark.golden_files("A_", "_io")


def points(golden, variant):
  """(s, u, x, t, x_t), tensors of the file."""
  io = golden(f"A_{variant}_io")
  return [
    jnp.asarray(io["s"]),
    jnp.asarray(io["u"]),
    nhwc(io["x"]),
    jnp.asarray(io["t_cond"]),
    nhwc(io["x_cond"]),
  ], io


def conditions(io):
  label = jnp.asarray(io["labels"], jnp.int32)
  scales = {"mixed": io["cfg_scale_mixed"]}
  for name in io:
    if name.startswith("v_cfg") and name != "v_cfg_diag":  # v_cfg25: at scale 2.5
      digits = name.removeprefix("v_cfg")
      scales[f"cfg{digits}"] = np.full_like(io["s"], float(f"{digits[0]}.{digits[1:]}"))
  assert len(scales) == 3
  return {name: {"label": label, "guidance": jnp.asarray(scale)} for name, scale in scales.items()}


@EVERY
def test_velocities_and_derivatives_are_the_published_ones(golden, case):
  point, io = points(golden, case)
  velocity = golden_case.velocity(golden, case)
  s, u, x, t, x_t = point
  zero, one = jnp.zeros_like(s), jnp.ones_like(s)

  @jax.jit
  def along(cond):
    def at(s, u, x):
      return velocity(s, u, x, t, x_t, cond)

    value, first = jax.jvp(at, (s, u, x), (one, zero, nhwc(io["w"])))
    return value, first, jax.jvp(at, (s, u, x), (zero, one, jnp.zeros_like(x)))[1]

  for name, cond in conditions(io).items():
    value, first, second = along(cond)
    assert error(value, nhwc(io[f"v_{name}"])) <= VALUES
    assert error(x + (u - s)[:, None, None, None] * value, nhwc(io[f"X_{name}"])) <= VALUES
    assert error(first, nhwc(io[f"jvp_v_10w_{name}"])) <= DERIVATIVES
    assert error(second, nhwc(io[f"jvp_v_010_{name}"])) <= DERIVATIVES
    if f"jvp_X_010_{name}" in io:
      end = value + (u - s)[:, None, None, None] * second
      assert error(end, nhwc(io[f"jvp_X_010_{name}"])) <= DERIVATIVES
  assert error(jax.jit(velocity)(*point, None), nhwc(io["v_nolabel"])) <= VALUES


@EVERY
def test_reverse_derivatives_are_the_published_ones(golden, case):
  point, io = points(golden, case)
  velocity, cond = golden_case.velocity(golden, case), conditions(io)["mixed"]
  _, pull = jax.vjp(jax.jit(lambda *point: velocity(*point, cond)), *point)
  names = ("vjp_s", "vjp_u", "vjp_x", "vjp_t_cond", "vjp_x_cond")
  for name, gradient in zip(names, pull(nhwc(io["ct"])), strict=True):
    theirs = nhwc(io[name]) if io[name].ndim > 1 else io[name]
    assert error(gradient, theirs) <= DERIVATIVES, name


@EVERY
def test_two_pass_guidance_is_the_published_one(golden, case):
  (s, _, x, t, x_t), io = points(golden, case)
  if "v_cfg_diag" not in io:
    pytest.skip("not in this variant's file")
  velocity = golden_case.velocity(golden, case)
  at = jax.jit(lambda cond: velocity(s, s, x, t, x_t, cond))
  label = at({"label": jnp.asarray(io["labels"], jnp.int32)})
  null = at(None)
  ours = null + io["cfg_scale_mixed"][:, None, None, None] * (label - null)
  assert error(ours, nhwc(io["v_cfg_diag"])) <= VALUES


def test_primitives_are_the_published_ones(golden):
  """Small inputs, where the epsilons of the norms show, which they do not in a velocity."""
  file = golden("A_primitives")
  _, params = golden_case.model(golden, "base")
  net = params["net"]
  assert error(dit.time_features(jnp.asarray(file["t"])), file["time_features"]) <= VALUES
  embed = dit._TimeEmbedding(net["start"]["in"]["bias"].shape[0], *[nn.initializers.zeros] * 2)
  embedded = embed.apply({"params": net["start"]}, jnp.asarray(file["t"]))
  assert error(embedded, file["s_embedder_out"]) <= VALUES
  assert error(jax.nn.gelu(jnp.asarray(file["x_grid"]), approximate=True), file["gelu"]) <= VALUES

  def dense(layer, x):
    return nn.Dense(layer["bias"].shape[0]).apply({"params": layer}, x)

  shift, scale = jnp.split(dense(net["modulation_out"], jax.nn.silu(jnp.asarray(file["c"]))), 2, -1)
  tokens = dit._norm(jnp.float32).apply({}, jnp.asarray(file["tokens"]))
  last = dense(net["out"], layers.modulate(tokens, shift, scale))
  assert error(last, file["final_layer_small_tokens"]) <= VALUES
  image = nhwc(file["img"])
  patch = golden.json("configs")["base"]["dit"]["patch_size"]
  assert error(dense(net["state"], vit.patches(image, patch)), file["x_embedder_out"]) <= VALUES
  ids = nhwc(file["unpatchify_ids"])
  np.testing.assert_array_equal(vit.unpatch(jnp.asarray(file["ids"]), patch, ids.shape), ids)
  scale = golden_case.model(golden, "qk_norm")[1]["net"]["blocks"]["q_norm"]["scale"][0]
  normed = nn.RMSNorm(epsilon=dit.EPSILON).apply({"params": {"scale": scale}}, jnp.asarray(file["q"]))
  assert error(normed, file["q_norm_small"]) <= VALUES


def test_every_trained_scale_has_a_row_of_its_own(golden):
  """The published index collides where there are more class scales than scales of the context."""
  file = golden("A_guidance_index")
  theirs = file["index__c1.0_1.5_2.5__x1.0_3.0"]
  pairs = [(w, v) for w in (1.0, 1.5, 2.5) for v in (1.0, 3.0)]

  def at(values, value):
    return int(np.abs(values - value).argmin())

  rows = [theirs[at(file["class_ws"], w), at(file["x_cond_ws"], v)] for w, v in pairs]
  assert len(set(rows)) < len(pairs)
  net = dit.DiT(8, 1, 2, 2, num_classes=3, guidance_scales=(1.0, 1.5, 2.5))
  x, one = jnp.ones((1, 4, 4, 1)), jnp.ones(1)
  variables = jax.jit(net.init)(jax.random.key(0), one, one, x, one, x, None, one)
  apply = jax.jit(lambda w: net.apply(variables, one, one, x, one, x, jnp.zeros(1, int), w * one))
  outputs = [apply(w) for w in (1.0, 1.5, 2.5)]
  assert all(jnp.abs(a - b).max() > 0 for a, b in zip(outputs, outputs[1:] + outputs[:1], strict=True))


def test_published_sizes():
  """Parameters of the published XL/2 and B/2, without and with the fixed table of positions."""
  one, x = jnp.ones(1), jnp.ones((1, 32, 32, 4))
  for size, patch, trained, table in (
    ("XL", 2, 683_991_952, 684_286_864),
    ("B", 2, 134_651_152, 134_847_760),
  ):
    width, depth, heads, encoder = dit.SIZES[size]
    config = dit.DiTConfig(encoder_depth=encoder)
    net = dit.DiT(width, depth, heads, patch, 1000, (1.0, 2.5), config)
    shapes = jax.eval_shape(net.init, jax.random.key(0), one, one, x, one, x, None, None)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert (count, count + (32 // patch) ** 2 * width) == (trained, table)


@pytest.fixture(scope="module")
def small():
  """(config -> network), inputs and parameters of a small transformer with everything on."""
  base = dit.DiTConfig(encoder_depth=2, joint_attention=True, qk_norm=True)

  def net(dtype=jnp.float32, **changes):
    return dit.DiT(16, 3, 2, 2, 5, (1.0, 2.5), dataclasses.replace(base, **changes), dtype)

  rng = np.random.default_rng(0)
  s, u = np.sort(rng.uniform(size=(2, 3)), axis=0)
  x, x_t = rng.normal(size=(2, 3, 4, 4, 2))
  point = [jnp.asarray(v, jnp.float32) for v in (s, u, x, rng.uniform(size=3), x_t)]
  point += [jnp.array([0, 3, 5]), jnp.array([1.0, 2.5, 1.0])]
  return net, point, jax.jit(net().init)(jax.random.key(0), *point)


@pytest.mark.parametrize(
  "changes",
  [{"unroll": True}, {"remat": "full"}, pytest.param({"remat": "dots"}, marks=pytest.mark.slow)],
  ids=str,
)
def test_scan_and_remat_do_not_change_values_or_derivatives(small, changes):
  net, point, variables = small

  def everything(net):
    def loss(variables, point):
      def at(s, u):
        return net.apply(variables, s, u, *point[2:])

      value, slope = jax.jvp(at, point[:2], (jnp.ones(3), -jnp.ones(3)))
      return jnp.mean(slope**2), value

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables, tuple(point))

  for ours, theirs in zip(*(jax.tree.leaves(everything(n)) for n in (net(**changes), net())), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


def test_half_precision_is_close(small):
  net, point, variables = small
  half = jax.jit(net(jnp.bfloat16).apply)(variables, *point)
  assert half.dtype == jnp.float32
  exact = jax.jit(net().apply)(variables, *point)
  assert 1e-4 < error(half, exact) <= 2e-2


def test_time_derivatives_are_those_of_finite_differences(small, x64):
  net, point, variables = small

  def to64(tree):
    return jax.tree.map(lambda v: v.astype(jnp.float64) if v.dtype == jnp.float32 else v, tree)

  (s, u, x, t, *rest), variables = to64(point), to64(variables)
  run = jax.jit(lambda s, u, x, t: net(jnp.float64).apply(variables, s, u, x, t, *rest))
  rng = np.random.default_rng(1)
  tangents = tuple(jnp.asarray(rng.normal(size=v.shape)) for v in (s, u, x, t))
  _, slope = jax.jvp(run, (s, u, x, t), tangents)

  def moved(step):
    return run(*(v + step * d for v, d in zip((s, u, x, t), tangents, strict=True)))

  assert error((moved(1e-5) - moved(-1e-5)) / 2e-5, slope) <= 1e-6


def test_the_live_start_lets_the_context_through_and_the_published_one_does_not():
  """The published zeros are two factors in a row: neither ever gets a gradient."""
  one, x = jnp.full(2, 0.5), jnp.ones((2, 4, 4, 1))

  def norms(init):
    net = dit.DiT(16, 2, 2, 2, config=dit.DiTConfig(init=init))
    variables = jax.jit(net.init)(jax.random.key(0), one, one, x, one, x, None, None)

    def loss(variables):
      out = net.apply(variables, one, one, x, one, 2 * x, None, None)
      return jnp.mean((out - 1.0) ** 2)

    if init == "published":  # past its zero output, which opens after one step, as its modulations do
      variables = jax.tree_util.tree_map_with_path(
        lambda path, v: v + 0.1 if not any(k in str(path) for k in ("context'", "context_modulation")) else v,
        variables,
      )
    gradient = jax.jit(jax.grad(loss))(variables)["params"]
    scale = gradient["context_modulation"]["kernel"][:, 16:]
    kernels = gradient["context"]["kernel"], scale, gradient["state"]["kernel"]
    return [float(jnp.abs(kernel).max()) for kernel in kernels]

  context, scale, state = norms("live")
  assert min(context, scale, state) > 0
  context, scale, state = norms("published")
  assert context == scale == 0 < state
