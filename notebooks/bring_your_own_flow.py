# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Bring your own flow
#
# You have a flow, or a diffusion model, as a function `flow(t, x, cond) -> velocity` of JAX arrays. Its
# posteriors cost an ODE each (GLASS). Distilled into a Meta Flow Map they cost one evaluation.

# %%
# In Colab this installs the library; `make notebooks` fills in where from.
REPOSITORY = ""  # such as git+https://<host>/<owner>/<repository>
import subprocess
import sys

if "google.colab" in sys.modules:
  if not REPOSITORY:
    raise ValueError("set REPOSITORY to the address of the library; got none")
  subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", REPOSITORY], check=True)

# %%
import functools
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mfm_jax import interpolants, times
from mfm_jax.interpolants import interpolate
from mfm_jax.losses import DrawConfig, Objective
from mfm_jax.metrics import distances
from mfm_jax.models import ModelConfig, build
from mfm_jax.precondition import GaussianSkip
from mfm_jax.sampling import integrators, marginal, posterior
from mfm_jax.training import optimizer, state, step
from mfm_jax.viz import panels
from mfm_jax.viz.notebook import show

key = jax.random.key
TINY = bool(os.environ.get("MFM_TINY"))  # seconds in place of minutes: checks that the cells run
FLOW_STEPS, MAP_STEPS, BATCH, DRAWS = (20, 20, 32, 16) if TINY else (1500, 1500, 256, 200)
interpolant = interpolants.Linear()  # t = 0 is noise, t = 1 data, as of your flow

# %% [markdown]
# ## Your flow
#
# Here a small network without any library, trained for half a minute on two moons. In its place: yours,
# with its parameters as the first argument. What runs backwards in time, predicts noise or $x_1$: one line
# turns it into a velocity (`interpolants` has the formulas).


# %%
def moons(key, n):
  """Two half circles with a little noise."""
  key_angle, key_side, key_noise = jax.random.split(key, 3)
  angle = jnp.pi * jax.random.uniform(key_angle, (n,))
  side = jax.random.bernoulli(key_side, 0.5, (n,))[:, None]
  upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
  points = jnp.where(side, upper, jnp.array([1.0, 0.5]) - upper)
  return 2.0 * (points - jnp.array([0.5, 0.25])) + 0.1 * jax.random.normal(key_noise, (n, 2))


def init(key, sizes=(3 + 16, 128, 128, 2)):
  """Weights and biases of a perceptron."""
  keys = jax.random.split(key, len(sizes) - 1)
  pairs = itertools.pairwise(sizes)
  return [(jax.random.normal(k, s) / s[0] ** 0.5, jnp.zeros(s[1])) for k, s in zip(keys, pairs, strict=True)]


def my_flow(params, t, x, cond=None):
  """The velocity of the flow at times t (B,) and states x (B, 2)."""
  waves = t[:, None] * 2.0 ** jnp.arange(8)
  h = jnp.concatenate([x, t[:, None], jnp.sin(waves), jnp.cos(waves)], -1)
  for weight, bias in params[:-1]:
    h = jax.nn.silu(h @ weight + bias)
  return h @ params[-1][0] + params[-1][1]


adam = optax.adam(optax.cosine_decay_schedule(3e-3, FLOW_STEPS))


@jax.jit
def train_flow(params):
  """Flow matching."""

  def one(carry, key):
    params, moments = carry
    key_data, key_noise, key_time = jax.random.split(key, 3)
    x1, x0 = moons(key_data, BATCH), jax.random.normal(key_noise, (BATCH, 2))
    t = jax.random.uniform(key_time, (BATCH,))
    x = interpolate(interpolant, t, x0, x1)
    error, gradient = jax.value_and_grad(lambda p: jnp.mean((my_flow(p, t, x) - (x1 - x0)) ** 2))(params)
    update, moments = adam.update(gradient, moments)
    return (optax.apply_updates(params, update), moments), error

  return jax.lax.scan(one, (params, adam.init(params)), jax.random.split(key(1), FLOW_STEPS))


(flow_params, _), errors = train_flow(init(key(0)))
print(f"flow: error {errors[-20:].mean():.3f}")

# %% [markdown]
# ## The map
#
# A network of the library (or yours, with the signature of `mfm_jax.types.Velocity`) and the objective: the
# flow is the teacher of the diagonal and of the consistency term. The data gives the noisy states $x_t$
# alone; samples of the flow itself do as well.

# %%
model = build(
  ModelConfig(name="mlp", width=32 if TINY else 128, depth=3),
  shape=(2,),
  skip=GaussianSkip(interpolant=interpolant, data_std=1.2),
)
objective = Objective(diagonal="teacher", consistency="eulerian_teacher", weighting="l2")
loss = step.make_loss(
  model, interpolant, objective, DrawConfig(), teacher=lambda params: functools.partial(my_flow, params)
)
optimiser = optimizer.build(optimizer.OptimizerConfig(learning_rate=2e-3, warmup=10), MAP_STEPS)
train_step = step.make_train_step(loss, optimiser, seed=0)


@jax.jit
def distil(now, flow_params):
  """MAP_STEPS steps; every batch is new."""

  def one(now, key):
    now, metrics = train_step(now, flow_params, {"x1": moons(key, BATCH)})
    return now, metrics["diagonal"]

  return jax.lax.scan(one, now, jax.random.split(key(2), MAP_STEPS))


now, errors = distil(state.create(model.init(key(3)), optimiser, ("0.99",)), flow_params)
params = now.ema["0.99"]
print(f"map: squared distance to the flow {errors[-20:].mean():.4f}")

# %% [markdown]
# ## What came out
#
# One-step samples beside the flow's own, and posterior draws at one evaluation each (blue) over the flow's
# (grey, by GLASS: an ODE of 50 evaluations a draw).

# %%
velocity, flow = model.velocity(params), functools.partial(my_flow, flow_params)
noise = jax.random.normal(key(4), (64 if TINY else 2000, 2))
own, _ = jax.jit(
  lambda x: integrators.ode(x, times.grid(50), marginal.probability_flow(flow), method="heun")
)(noise)
zero, one = jnp.zeros(len(noise)), jnp.ones(len(noise))
context = jax.random.normal(key(5), noise.shape)  # at t = 0 the state says nothing
single = noise + jax.jit(velocity)(zero, one, noise, zero, context, None)
title = "Samples in one evaluation, and of the flow"
show(panels.scatter_panel(np.asarray(single), np.asarray(own), title, names=("map", "flow")), "samples")

t = jnp.asarray([0.2, 0.4, 0.6, 0.8], jnp.float32)
x1 = jnp.repeat(moons(key(6), 1), 4, axis=0)
x_t = interpolate(interpolant, t, jax.random.normal(key(7), (4, 2)), x1)
drawn = posterior.draw(key(8), velocity, t, x_t, draws=DRAWS)
rolled = posterior.draw_glass(key(9), flow, interpolant, t, x_t, draws=DRAWS, times=times.grid(25))
show(panels.posterior_scatter(x_t, t, drawn, rolled, clean=x1, names=("map", "flow")), "posterior")
for at, mine, theirs in zip(t, drawn, rolled, strict=True):
  print(f"t = {at:.1f}: sliced W2 of the map's draws to the flow's {distances.sliced_w2(mine, theirs):.3f}")

# %% [markdown]
# ## At scale
#
# A flow trained by `experiments.train --config.loss.consistency=none`, or converted by
# `experiments.convert` from SiT, REPA or DMF weights, is a teacher as it stands:
# `--config.teacher=<folder>`, with checkpoints, averages and as many devices as there are.
