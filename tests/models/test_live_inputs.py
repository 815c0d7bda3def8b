"""Dead-conditioning detector: every parameter group and every input of every shipped network is alive.

An input behind two factors that both start at zero has no gradient, for ever. So within the first three
steps of every configuration every parameter group must have had a gradient of at least 1e-4 of the median
group's, and every input a derivative.
"""

import dataclasses
import importlib
import pkgutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import configs
from mfm_jax.flow_map import marginal_velocity
from mfm_jax.interpolants import Linear, interpolate
from mfm_jax.training import folder, optimizer, run, step
from mfm_jax.training.config import RunConfig, from_dict

STEPS, SHARE = 3, 1e-4
OTHERS = ("benchmark_", "common", "steer_", "classifier_", "finetune_")  # no flow maps
# At the size of these tests the same as imagenet_xl2 and its distillation; and flows, which have no context.
SAME = ("imagenet_b2", "imagenet_b2_distill", "cifar10_distill", "cifar10_flow", "digits_flow")
NAMES = sorted(
  m.name
  for m in pkgutil.iter_modules(configs.__path__)
  if not m.name.startswith(OTHERS) and m.name not in SAME
)
SHAPES = {"mixture": ((2,), 3), "digits": ((8, 8, 1), 10), "idx": ((28, 28, 1), 10)}


def info_of(config):
  """The data description that `config.data` leads to, without the data."""
  if config.data.name == "noise":
    shape, classes = (8, 8, config.data.shape[-1]), config.data.classes
  else:
    shape, classes = SHAPES[config.data.name]
  if config.data.size:
    shape = (config.data.size // config.data.pool,) * 2 + (shape[-1],)
  num_classes = classes if config.data.labelled else 0
  return folder.DataInfo(shape=shape, num_classes=num_classes, data_std=0.8, image=len(shape) == 3)


def config_of(name, *, skip=None, guided=False):
  """The smoke form of a shipped configuration, without warm-ups, with one block, or one at each of two
  resolutions: they are all alike. `skip`: with the Gaussian skip or without, None as shipped."""
  get_config = importlib.import_module(f"experiments.configs.{name}").get_config
  config = from_dict(RunConfig, get_config("smoke").to_dict())
  changes = {
    "model": dataclasses.replace(
      config.model,
      precondition=config.model.precondition if skip is None else skip,
      depth=2 if config.model.name == "dit" else 1,  # a block of the encoder and one of the decoder
      multipliers=config.model.multipliers[:2],
    ),
    "optimizer": dataclasses.replace(config.optimizer, warmup=0),
    "loss": dataclasses.replace(config.loss, warmup=0),
  }
  if guided:
    changes["draws"] = dataclasses.replace(config.draws, guidance_scales=(1.5, 2.5))
  return dataclasses.replace(config, **changes)


def random_batches(info, n):
  rng = np.random.default_rng(0)
  for _ in range(STEPS):
    batch = {"x1": info.data_std * rng.normal(size=(n, *info.shape)).astype(np.float32)}
    if info.num_classes:
      batch["label"] = rng.integers(info.num_classes, size=n)
    yield jax.tree.map(jnp.asarray, batch)


def groups_of(tree):
  """Largest norm over {group: norm}: leaves grouped by the module that holds them."""
  squares = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    group = "/".join(entry.key for entry in path[:-1]) or "root"
    squares[group] = squares.get(group, 0.0) + float(jnp.sum(leaf.astype(jnp.float32) ** 2))
  return {group: np.sqrt(value) for group, value in squares.items()}


def dead_groups(gradients):
  """Groups whose gradient, at its largest over the steps, is below SHARE of the median group's."""
  norms = [groups_of(gradient) for gradient in gradients]
  largest = {group: max(norm[group] for norm in norms) for group in norms[0]}
  bound = SHARE * np.median(list(largest.values()))
  return [group for group, norm in largest.items() if not norm >= bound > 0]


def train(loss, params, batches, transformation):
  """(gradients of the steps, final parameters); loss(params, batch, i) -> scalar."""

  @jax.jit
  def one_step(params, state, batch, i):
    gradient = jax.grad(loss)(params, batch, i)
    updates, state = transformation.update(gradient, state, params)
    return gradient, optax.apply_updates(params, updates), state

  state, gradients = transformation.init(params), []
  for i, batch in enumerate(batches):
    gradient, params, state = one_step(params, state, batch, i)
    gradients.append(gradient)
  return gradients, params


def make_input_effects(velocity_of, info, guided):
  """params -> {input: rms derivative, or rms change, of the velocity over its own rms}."""
  rng = np.random.default_rng(1)
  n = 8
  names = ("s", "u", "x_s", "t", "x_t")
  x, x_t = (jnp.asarray(rng.normal(size=(n, *info.shape)), jnp.float32) for _ in range(2))
  s, u, t = (jnp.full(n, time, jnp.float32) for time in (0.2, 0.7, 0.5))
  point = (s, u, x, t, x_t)
  # One unit of rms in each input in turn.
  tangents = []
  for k, value in enumerate(point):
    direction = rng.choice([-1.0, 1.0], size=value.shape)
    tangents.append(jnp.stack([jnp.asarray(direction * (i == k), jnp.float32) for i in range(len(point))]))
  cond = {"label": jnp.asarray(rng.integers(info.num_classes, size=n))} if info.num_classes else {}
  if guided:
    cond["guidance"] = jnp.full(n, 2.5)
  changes = {"label": lambda v: (v + 1) % info.num_classes, "guidance": jnp.ones_like}

  @jax.jit
  def effects(params):
    velocity = velocity_of(params)

    def at(*point):
      return velocity(*point, cond or None)

    value, linear = jax.linearize(at, *point)
    out = dict(zip(names, jax.vmap(linear)(*tangents)))
    for name in cond:
      out[name] = velocity(*point, {**cond, name: changes[name](cond[name])}) - value
    return {name: jnp.sqrt(jnp.mean(change**2) / jnp.mean(value**2)) for name, change in out.items()}

  return effects


# Other networks and objectives of their kinds are in the quick set.
SLOW = (
  *("mnist", "mnist_cpu", "imagenet_xl2", "imagenet_xl2_distill"),
  *("cifar10", "digits", "digits_distill", "digits-bare", "digits-guided"),
)


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in (*NAMES, "gmm-bare", "digits-bare", "digits-guided")
  ],
)
def test_nothing_is_dead_in_a_shipped_configuration(name):
  name, _, how = name.partition("-")
  guided = how == "guided"
  config = config_of(name, skip=False if how == "bare" else None, guided=guided)
  info = info_of(config)
  pieces = run.parts(config, info)
  assert pieces.interpolant == Linear()
  frozen, teacher = None, None
  if config.loss.needs_teacher:
    frozen = jax.jit(pieces.model.init)(jax.random.key(7))
    teacher = lambda params: marginal_velocity(pieces.model.velocity(params))  # noqa: E731
  mean_loss = step.make_loss(pieces.model, pieces.interpolant, pieces.objective, pieces.draws, teacher)

  def loss(params, batch, i):
    return mean_loss(params, frozen, batch, jax.random.fold_in(jax.random.key(2), i), i + 1)[0]

  params = jax.jit(pieces.model.init)(jax.random.key(0))
  input_effects = make_input_effects(pieces.model.velocity, info, guided)
  before = input_effects(params)
  transformation = optimizer.build(config.optimizer, config.steps)
  gradients, params = train(loss, params, random_batches(info, config.batch_size), transformation)
  assert dead_groups([gradient["net"] for gradient in gradients]) == []
  after = input_effects(params)
  wanted = {"s", "u", "x_s", "t", "x_t"} | ({"label"} if info.num_classes else set())
  wanted |= {"guidance"} if guided else set()
  for effects in (before, after):
    assert set(effects) == wanted
    for value in effects.values():
      assert value > 1e-3, effects


class Gated(nn.Module):
  """A context embedder behind a gate, each of which starts at zero or does not."""

  zero_embedder: bool
  zero_gate: bool

  @nn.compact
  def __call__(self, x, t, context):
    def dense(name, zero=False):
      kind = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
      return nn.Dense(8, kernel_init=kind, name=name)

    embedded = dense("embedder", self.zero_embedder)(context)
    gate = dense("gate", self.zero_gate)(jnp.sin(3.0 * t[:, None]))
    h = nn.silu(dense("state")(x)) + gate * embedded
    return nn.Dense(2, name="out")(h)


@pytest.mark.parametrize(
  ("zero_embedder", "zero_gate", "dead"),
  [(True, True, ["embedder", "gate"]), (True, False, []), (False, True, []), (False, False, [])],
)
def test_the_detector_sees_a_zero_embedder_behind_a_closed_gate(zero_embedder, zero_gate, dead):
  """The published initialisation. One zero factor opens in the first step, two never do."""
  net = Gated(zero_embedder, zero_gate)
  rng = np.random.default_rng(0)
  x1, noise, t = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((64, 2), (64, 2), (64,)))
  t = jax.nn.sigmoid(t)
  x_t = interpolate(Linear(), t, noise, x1)
  params = net.init(jax.random.key(0), noise, t, x_t)["params"]

  def loss(params, batch, i):
    return ((net.apply({"params": params}, noise, t, x_t) - x1) ** 2).mean()

  gradients, params = train(loss, params, [None] * STEPS, optax.radam(1e-2))
  assert sorted(dead_groups(gradients)) == dead
  slope = jax.grad(lambda x_t: net.apply({"params": params}, noise, t, x_t).sum())(x_t)
  assert bool(jnp.abs(slope).max() > 0) == (not dead)


def test_guidance_can_be_configured():
  """Scales in a configuration reach the network as an input; without labels they are refused."""
  values = importlib.import_module("experiments.configs.digits").get_config("smoke").unlock()
  values.draws.guidance_scales = (2.5,)
  guided = from_dict(RunConfig, values.to_dict())
  plain = config_of("digits", skip=True)

  def inputs(config):
    return jax.eval_shape(run.parts(config, info_of(config)).model.init, jax.random.key(0))["net"][
      "conditioning"
    ]

  assert run.parts(guided, info_of(guided)).draws.guidance_scales == (2.5,)
  assert set(inputs(guided)) - set(inputs(plain)) == {"guidance"}
  unlabelled = dataclasses.replace(info_of(guided), num_classes=0)
  with pytest.raises(ValueError, match="guidance scales need labelled data"):
    run.parts(guided, unlabelled)


def test_parts_know_the_data_and_a_plain_flow_draws_no_context():
  config = config_of("digits", skip=True)
  pieces = run.parts(config, info_of(config))
  assert pieces.draws == dataclasses.replace(config.draws, num_classes=10)
  assert pieces.objective == dataclasses.replace(config.loss, null_label=10)
  flow = dataclasses.replace(config, loss=dataclasses.replace(config.loss, consistency="none"))
  assert run.parts(flow, info_of(flow)).draws == dataclasses.replace(pieces.draws, context_zero_rate=1.0)
