"""Seconds of a training step with a JVP target, ours against PyTorch's, on a CPU, in turn.

python tests/models/torch_speed.py                 (with the extra `torch`)

A stack of B/2 blocks and the MLP of the mixture: the prediction and its derivative in time in forward mode,
the mean squared error to the frozen target that it makes, gradients, Adam. The same function on both sides,
from PyTorch's own modules, eager and compiled; attention written out, which PyTorch needs for forward mode
as well.
"""

import argparse
import statistics
import time

import flax.linen as flax_nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import nn
from torch.nn import functional as F

from mfm_jax.models import dit
from mfm_jax.models.mlp import MLP
from mfm_jax.training import flops

BATCH, WIDTH, DEPTH, HEADS, TOKENS = 2, 768, 6, 12, 256
MLP_BATCH, MLP_WIDTH, MLP_DEPTH = 512, 128, 3


class Block(nn.Module):
  def __init__(self):
    super().__init__()
    self.qkv, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
    self.mlp_in, self.mlp_out = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
    self.modulation = nn.Linear(WIDTH, 6 * WIDTH)

  def forward(self, h, c):
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c)[:, None].chunk(6, -1)
    y = F.layer_norm(h, (WIDTH,), eps=1e-6) * (1 + scale_a) + shift_a
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in self.qkv(y).chunk(3, -1))
    weights = (q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5).softmax(-1)
    h = h + gate_a * self.projection((weights @ v).transpose(1, 2).flatten(2))
    y = F.layer_norm(h, (WIDTH,), eps=1e-6) * (1 + scale_m) + shift_m
    return h + gate_m * self.mlp_out(F.gelu(self.mlp_in(y), approximate="tanh"))


class Stack(nn.Module):
  def __init__(self):
    super().__init__()
    self.blocks = nn.ModuleList([Block() for _ in range(DEPTH)])

  def forward(self, s, h, c):
    c = F.silu(c * s[:, None])
    for block in self.blocks:
      h = block(h, c)
    return h


class OurStack(flax_nn.Module):
  """The scanned blocks of the transformer."""

  @flax_nn.compact
  def __call__(self, s, h, c):
    blocks = flax_nn.scan(
      dit.Block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, *[flax_nn.broadcast] * 4),
      length=DEPTH,
    )(HEADS, dit.DiTConfig(), jnp.float32, name="blocks")
    c = flax_nn.silu(c * s[:, None])[:, None]
    return blocks(h, jnp.zeros(DEPTH, bool), c, c, None, None)[0]


class TheirMLP(nn.Module):
  """The MLP of the mixture in PyTorch."""

  def __init__(self, size=2):
    super().__init__()
    width = MLP_WIDTH
    self.times_in, self.times_out = nn.Linear(64, width), nn.Linear(width, width)
    self.state, self.context = nn.Linear(size, width), nn.Linear(size, width)
    self.modulation = nn.ModuleList([nn.Linear(width, 2 * width) for _ in range(MLP_DEPTH)])
    self.inner = nn.ModuleList([nn.Linear(width, width) for _ in range(MLP_DEPTH)])
    self.outer = nn.ModuleList([nn.Linear(width, width) for _ in range(MLP_DEPTH)])
    self.out = nn.Linear(width, size)
    self.register_buffer("frequencies", torch.logspace(0, np.log10(8.0), 8))

  def features(self, t):
    angles = t[:, None] * self.frequencies
    return torch.cat([torch.cos(angles), torch.sin(angles)], -1)

  def forward(self, s, x, u, t, x_t):
    times = torch.cat([self.features(time) for time in (s, u, u - s, t)], -1)
    c = F.silu(self.times_out(F.silu(self.times_in(times))))
    h = self.state(x) + self.context(x_t)
    for modulation, inner, outer in zip(self.modulation, self.inner, self.outer, strict=True):
      shift, scale = modulation(c).chunk(2, -1)
      h = h + outer(F.silu(inner(h) * (1 + scale) + shift))
    return self.out(F.silu(h))


def our_step(apply, params, inputs, target, length):
  optimiser = optax.adam(1e-4)

  def loss(params):
    s, x, *rest = inputs
    value, slope = jax.jvp(
      lambda s, x: apply(params, s, x, *rest), (s, x), (jnp.ones_like(s), jnp.zeros_like(x))
    )
    return jnp.mean((value - jax.lax.stop_gradient(target + length * slope)) ** 2)

  def step(params, state):
    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = optimiser.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, value

  state = optimiser.init(params)
  count = flops.count(step, params, state)
  compiled = jax.jit(step, donate_argnums=(0, 1))
  kept = [params, state]

  def call():
    kept[0], kept[1], value = compiled(*kept)
    return float(value)

  return call, count


def their_step(net, inputs, target, length, compiled):
  optimiser = torch.optim.Adam(net.parameters(), 1e-4)

  def loss():
    s, x, *rest = inputs
    tangents = (torch.ones_like(s), torch.zeros_like(x))
    value, slope = torch.func.jvp(lambda s, x: net(s, x, *rest), (s, x), tangents)
    return ((value - (target + length * slope).detach()) ** 2).mean()

  loss = torch.compile(loss) if compiled else loss

  def call():
    optimiser.zero_grad(set_to_none=True)
    value = loss()
    value.backward()
    optimiser.step()
    return float(value.detach())

  return call


def compare(name, calls, repeats, block):
  """Medians and quartiles of blocks of calls taken in turn, and the ratio of each to the first, pair by pair.

  Blocks, because the threads of one library go on waiting for work for a while, on the cores of the other.
  """
  first_values, seconds = {}, {label: [] for label in calls}
  for label, call in list(calls.items()):
    try:
      first_values[label] = call()
      call()
    except Exception as error:  # PyTorch may be unable to compile forward mode
      print(f"{name}: {label} does not run: {' '.join(str(error).split())[:120]}")
      del calls[label], seconds[label]
  values = list(first_values.values())
  np.testing.assert_allclose(values, values[0], rtol=1e-3, err_msg=str(first_values))
  for _ in range(repeats):
    for label, call in calls.items():
      call()
      start = time.perf_counter()
      for _ in range(block):
        call()
      seconds[label].append((time.perf_counter() - start) / block)
  ours = seconds["ours"]
  for label, found in seconds.items():
    low, middle, high = statistics.quantiles(found, n=4)
    ratios = [a / b for a, b in zip(found, ours, strict=True)]
    q1, ratio, q3 = statistics.quantiles(ratios, n=4)
    print(
      f"{name:<6} {label:<9} {middle * 1e3:9.2f} ms ({low * 1e3:.2f} to {high * 1e3:.2f})   "
      f"{ratio:.2f} times ours ({q1:.2f} to {q3:.2f})",
      flush=True,
    )


def peak(repeats, size=2048):
  """Prints what the machine is able to do: GFLOP/s of large products, the best of each library."""
  a = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
  theirs, ours = torch.from_numpy(a), jnp.asarray(a)
  product = jax.jit(jnp.matmul)
  products = {
    "ours": lambda: product(ours, ours).block_until_ready(),
    "PyTorch": lambda: torch.mm(theirs, theirs),
  }
  for label, call in products.items():
    call()
    seconds = []
    for _ in range(repeats):
      start = time.perf_counter()
      call()
      seconds.append(time.perf_counter() - start)
    print(f"products of {size} x {size}, {label}: {2 * size**3 / min(seconds) / 1e9:.0f} GFLOP/s")


def stack(repeats):
  rng = np.random.default_rng(0)
  s = rng.uniform(size=BATCH).astype(np.float32)
  h, target = rng.normal(size=(2, BATCH, TOKENS, WIDTH)).astype(np.float32)
  c = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
  ours = OurStack()
  params = ours.init(jax.random.key(0), s, h, c)
  nets = [Stack(), Stack()]
  inner = params["params"]["blocks"]
  for net in nets:
    with torch.no_grad():
      for i, block in enumerate(net.blocks):
        for name in ("qkv", "projection", "mlp_in", "mlp_out", "modulation"):
          getattr(block, name).weight.copy_(torch.from_numpy(np.array(inner[name]["kernel"][i]).T))
          getattr(block, name).bias.copy_(torch.from_numpy(np.array(inner[name]["bias"][i])))
  call, count = our_step(ours.apply, params, [*map(jnp.asarray, (s, h, c))], jnp.asarray(target), 0.3)
  inputs, goal = [*map(torch.from_numpy, (s, h, c))], torch.from_numpy(target)
  print(f"stack: {DEPTH} blocks of B/2, batch {BATCH}, {count / 1e9:.0f} GFLOP a step")
  calls = {"ours": call, "eager": their_step(nets[0], inputs, goal, 0.3, False)}
  calls["compiled"] = their_step(nets[1], inputs, goal, 0.3, True)
  compare("stack", calls, repeats, 2)


def mlp(repeats):
  rng = np.random.default_rng(0)
  s, u, t = rng.uniform(size=(3, MLP_BATCH)).astype(np.float32)
  x, x_t, target = rng.normal(size=(3, MLP_BATCH, 2)).astype(np.float32)
  ours = MLP(MLP_WIDTH, MLP_DEPTH)

  def apply(params, s, x, u, t, x_t):
    return ours.apply(params, s, u, x, t, x_t, None, None)

  params = ours.init(jax.random.key(0), s, u, x, t, x_t, None, None)
  nets = [TheirMLP(), TheirMLP()]
  inner = params["params"]
  for net in nets:
    with torch.no_grad():
      pairs = [(net.state, inner["state"]), (net.context, inner["context"]), (net.out, inner["out"])]
      pairs += [
        (net.times_in, inner["conditioning"]["times_in"]),
        (net.times_out, inner["conditioning"]["times_out"]),
      ]
      for i in range(MLP_DEPTH):
        pairs += [(net.modulation[i], inner[f"modulation_{i}"]["dense"])]
        pairs += [(net.inner[i], inner[f"in_{i}"]), (net.outer[i], inner[f"out_{i}"])]
      for layer, leaf in pairs:
        layer.weight.copy_(torch.from_numpy(np.array(leaf["kernel"]).T))
        layer.bias.copy_(torch.from_numpy(np.array(leaf["bias"])))
  call, count = our_step(apply, params, [*map(jnp.asarray, (s, x, u, t, x_t))], jnp.asarray(target), 0.3)
  inputs, goal = [*map(torch.from_numpy, (s, x, u, t, x_t))], torch.from_numpy(target)
  print(f"mlp: width {MLP_WIDTH}, depth {MLP_DEPTH}, batch {MLP_BATCH}, {count / 1e9:.2f} GFLOP a step")
  calls = {"ours": call, "eager": their_step(nets[0], inputs, goal, 0.3, False)}
  calls["compiled"] = their_step(nets[1], inputs, goal, 0.3, True)
  compare("mlp", calls, repeats, 100)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--repeats", type=int, default=10)
  parser.add_argument("--only", choices=["stack", "mlp"])
  arguments = parser.parse_args()
  print(f"jax {jax.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
  peak(arguments.repeats)
  if arguments.only != "mlp":
    stack(arguments.repeats)
  if arguments.only != "stack":
    mlp(arguments.repeats)
