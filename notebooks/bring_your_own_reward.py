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
# # Bring your own reward
#
# A reward is a function `reward(x, cond) -> (B,)` of samples in data space. If it is written in JAX, every
# method takes it; if it is any Python function (a physics code, a tokenizer, a model in another framework),
# the methods that need no gradient do.

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
import os

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import interpolants, oracles, times
from mfm_jax.metrics import distances
from mfm_jax.metrics.steering import diversity
from mfm_jax.rewards import callback, composition
from mfm_jax.sampling import posterior
from mfm_jax.steering import drifts, search, steer, value
from mfm_jax.viz import fields, tradeoffs
from mfm_jax.viz.notebook import show

key = jax.random.key
TINY = bool(os.environ.get("MFM_TINY"))  # seconds in place of minutes: checks that the cells run
STEPS, SAMPLES, DRAWS = (6, 32, 4) if TINY else (60, 600, 16)

# %% [markdown]
# ## The model
#
# The closed form of the paper's mixture, so that nothing has to be trained. With a run of yours: `run =
# load_run("runs/mine"); velocity, interpolant = run.velocity, run.interpolant` (`mfm_jax.training.run`).

# %%
interpolant, mixture = interpolants.Linear(), oracles.paper_mixture()
velocity, marginal = oracles.as_sampler(mixture, interpolant), oracles.as_marginal(mixture, interpolant)
grid = times.grid(STEPS, start=1e-3, power=2.0)
start = jax.random.normal(key(0), (SAMPLES, 2))


def sample(guide):
  """Samples along `guide`: the base model's drift, with or without steering."""
  return np.asarray(jax.jit(lambda x: steer.steer(key(1), x, grid, guide, interpolant)[0])(start))


base = sample(drifts.unguided(marginal))

# %% [markdown]
# ## A differentiable reward
#
# Samples should lie on a ring of radius 3. That is the whole of it:


# %%
def ring(x, cond):
  """Nats below the ring of radius 3."""
  return -((jnp.linalg.norm(x, axis=-1) - 3.0) ** 2) / 0.1


how = {"draws": DRAWS, "chunk": DRAWS, "marginal": marginal}
steered = {
  "base": base,
  "dps": sample(drifts.dps(marginal, interpolant, ring)),
  "mfm_gf": sample(drifts.mfm_gf(velocity, interpolant, ring, **how)),
}
show(fields.scatter_table({"": steered}, {"": base}), "ring")

# %% [markdown]
# ## A reward without a gradient
#
# Any function of NumPy arrays, here one that counts: samples should lie in the odd squares of a chessboard.
# `callback` makes a reward of it that works in compiled programs; differentiating it is an error that says
# so.


# %%
def chessboard(x):
  """4 nats in the odd squares of a board of side 2, of NumPy arrays."""
  return 4.0 * (np.floor(x / 2.0).astype(int).sum(-1) % 2)


board = callback.callback(chessboard, name="chessboard")
options = {"particles": 2, "draws": DRAWS}
pairs = jnp.repeat(start, options["particles"], axis=0)
found, _ = jax.jit(
  lambda x: search.search(key(2), x, times.grid(STEPS, power=2.5), velocity, interpolant, board, **options)
)(pairs)
free = {
  "base": base,
  "mfm_gf": sample(drifts.mfm_gf(velocity, interpolant, board, **how)),
  "search": np.asarray(found),
}
show(fields.scatter_table({"": free}, {"": base}), "chessboard")

# %% [markdown]
# ## Is the reward being exploited?
#
# Look at more than the reward. Here beside it: diversity, and the distance to what the model gives by
# itself.

# %%
names, apart = list(free), oracles.sample(key(5), mixture, SAMPLES)
figures = {
  "reward": [
    (float(chessboard(x).mean()), float(chessboard(x).std() / len(x) ** 0.5)) for x in free.values()
  ],
  "diversity": [(diversity(x), None) for x in free.values()],
  "distance to base": [(distances.energy_distance(x, apart), None) for x in free.values()],
}
show(tradeoffs.by_method(names, figures), "hacking")

# %% [markdown]
# ## Several rewards, and the value itself
#
# Rewards add up with weights; a sum with a part that has no gradient has none. The estimate of $V_t$ takes
# any of them, with its standard error and the effective number of draws.

# %%
both = composition.weighted_sum([ring, board], [0.5, 1.0])
assert not composition.is_differentiable(both)
t = jnp.full((4,), 0.5)
estimate = value.estimate_value(key(3), velocity, t, start[:4], both, draws=DRAWS)
for v, error, ess in zip(estimate.value, estimate.standard_error, estimate.ess, strict=True):
  print(f"V = {v:.2f} ± {error:.2f} nats, {ess:.1f} effective draws of {DRAWS}")
draws = posterior.draw(key(4), velocity, t, start[:4], draws=DRAWS)
print(f"from posterior draws of shape {draws.shape}")

# %% [markdown]
# ## From the command line
#
# Put the function into a file, `my_rewards.py`, in the folder that you start the command in:
#
#     python -m experiments.steer --config=experiments/configs/steer_gmm.py --workdir=runs/gmm \
#         --config.reward.name=python --config.reward.function=my_rewards:chessboard \
#         --method=base,mfm_gf,search,best_of_n
#
# Several of its calls at a time, timeouts and errors: `mfm_jax.rewards.callback`.
