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
from mfm_jax.interpolants import Linear, interpolate
from mfm_jax.losses import DrawConfig
from mfm_jax.training import optimizer, run, step
from mfm_jax.training.config import RunConfig, from_dict

STEPS, SHARE = 3, 1e-4
NAMES = sorted(m.name for m in pkgutil.iter_modules(configs.__path__) if m.name != "common")
SHAPES = {"mixture": ((2,), 3), "digits": ((8, 8, 1), 10), "idx": ((28, 28, 1), 10)}


def info_of(config):
  """The data description that `config.data` leads to, without the data."""
  shape, classes = SHAPES[config.data.name]
  if config.data.size:
    shape = (config.data.size, config.data.size, shape[-1])
  num_classes = classes if config.data.labelled else 0
  return run.DataInfo(shape=shape, num_classes=num_classes, data_std=0.8, image=len(shape) == 3)


def config_of(name, *, skip, guided):
  """The smoke form of a shipped configuration, without warm-ups."""
  get_config = importlib.import_module(f"experiments.configs.{name}").get_config
  config = from_dict(RunConfig, get_config("smoke").to_dict())
  changes = {
    "model": dataclasses.replace(config.model, precondition=skip),
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
  gradient_of = jax.jit(jax.grad(loss))
  update = jax.jit(transformation.update)
  state, gradients = transformation.init(params), []
  for i, batch in enumerate(batches):
    gradients.append(gradient_of(params, batch, i))
    updates, state = update(gradients[-1], state, params)
    params = optax.apply_updates(params, updates)
  return gradients, params


def input_effects(velocity, info, guided):
  """{input: rms derivative, or rms change, of the velocity over its own rms}."""
  rng = np.random.default_rng(1)
  n = 16
  x, x_t = (jnp.asarray(rng.normal(size=(n, *info.shape)), jnp.float32) for _ in range(2))
  s, u, t = (jnp.asarray(value, jnp.float32) for value in (np.full(n, 0.2), np.full(n, 0.7), np.full(n, 0.5)))
  label = jnp.asarray(rng.integers(info.num_classes, size=n)) if info.num_classes else None
  cond = {} if label is None else {"label": label}
  if guided:
    cond["guidance"] = jnp.full(n, 2.5)

  def rms(value):
    return float(jnp.sqrt(jnp.mean(value**2)))

  @jax.jit
  def derivative(tangents):
    def at(s, u, x, t, x_t):
      return velocity(s, u, x, t, x_t, cond or None)

    return jax.jvp(at, (s, u, x, t, x_t), tangents)

  zeros = [jnp.zeros_like(value) for value in (s, u, x, t, x_t)]
  effects = {}
  for i, name in enumerate(("s", "u", "x_s", "t", "x_t")):
    tangents = [*zeros]
    direction = jnp.asarray(rng.normal(size=zeros[i].shape), jnp.float32)
    tangents[i] = direction / rms(direction)
    value, tangent = derivative(tuple(tangents))
    effects[name] = rms(tangent) / rms(value)
  for name, other in (("label", lambda v: (v + 1) % info.num_classes), ("guidance", jnp.ones_like)):
    if name in cond:
      changed = velocity(s, u, x, t, x_t, {**cond, name: other(cond[name])})
      effects[name] = rms(changed - value) / rms(value)
  return effects


@pytest.mark.parametrize("skip", [False, True], ids=["bare", "skip"])
@pytest.mark.parametrize("name", [*NAMES, "digits-guided"])
def test_nothing_is_dead_in_a_shipped_configuration(name, skip):
  name, _, guided = name.partition("-")
  config = config_of(name, skip=skip, guided=bool(guided))
  info = info_of(config)
  pieces = run.parts(config, info)
  assert pieces.interpolant == Linear()
  mean_loss = step.make_loss(pieces.model, pieces.interpolant, pieces.objective, pieces.draws, None)

  def loss(params, batch, i):
    return mean_loss(params, batch, jax.random.fold_in(jax.random.key(2), i), i + 1)[0]

  params = jax.jit(pieces.model.init)(jax.random.key(0))
  before = input_effects(pieces.model.velocity(params), info, guided)
  transformation = optimizer.build(config.optimizer, config.steps)
  gradients, params = train(loss, params, random_batches(info, config.batch_size), transformation)
  assert dead_groups([gradient["net"] for gradient in gradients]) == []
  after = input_effects(pieces.model.velocity(params), info, guided)
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
  config = config_of("digits", skip=True, guided=False)
  values = importlib.import_module("experiments.configs.digits").get_config("smoke").unlock()
  values.draws.guidance_scales = (2.5,)
  pieces = run.parts(from_dict(RunConfig, values.to_dict()), info_of(config))
  assert pieces.draws.guidance_scales == (2.5,)
  assert "guidance" in pieces.model.init(jax.random.key(0))["net"]["conditioning"]
  assert (
    "guidance" not in run.parts(config, info_of(config)).model.init(jax.random.key(0))["net"]["conditioning"]
  )
  unlabelled = dataclasses.replace(info_of(config), num_classes=0)
  with pytest.raises(ValueError, match="a guidance scale needs labelled data"):
    run.parts(from_dict(RunConfig, values.to_dict()), unlabelled)


def test_a_plain_flow_draws_no_context():
  config = config_of("digits", skip=True, guided=False)
  config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, consistency="none"))
  pieces = run.parts(config, info_of(config))
  assert pieces.draws == DrawConfig(num_classes=10, context_zero_rate=1.0)
  assert pieces.objective.null_label == 10
