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
# # Inspect a Meta Flow Map
#
# Load a run, draw from its posteriors, look at the value function that they give, and steer with it.
#
# A Meta Flow Map draws clean data $x_1$ given a noisy state $x_t$ in **one** network evaluation. Averages
# of $\exp r(x_1)$ over such draws are the value $V_t(x_t) = \log E[\exp r(X_1) \mid x_t]$ of a reward $r$;
# its gradient, added to the model's drift, samples from $p_1(x)\,\exp r(x)$.

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
import dataclasses
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs import gmm
from mfm_jax import oracles, times
from mfm_jax.rewards.likelihoods import broad_quadratic
from mfm_jax.steering import drifts, steer, value
from mfm_jax.training import generate, loop, showcase
from mfm_jax.training.config import RunConfig, from_dict
from mfm_jax.training.run import load_run
from mfm_jax.viz import fields
from mfm_jax.viz.notebook import in_notebook, show

key = jax.random.key
TINY = bool(os.environ.get("MFM_TINY"))  # seconds in place of minutes: checks that the cells run
RUN = pathlib.Path(os.environ.get("MFM_RUN", "runs/gmm"))  # your run folder
STEPS, GRID, DRAWS, SAMPLES = (20, 9, 16, 64) if TINY else (1500, 41, 256, 1000)

# %% [markdown]
# ## A run
#
# Any folder of `experiments.train`. Where there is none, a map of the paper's mixture is trained now: about
# a minute on a laptop.

# %%
if not (RUN / "config.json").exists():
  config = from_dict(RunConfig, gmm.get_config("smoke" if TINY else "").to_dict())
  loop.train(dataclasses.replace(config, steps=STEPS), RUN)
run = load_run(RUN)
print(
  f"{RUN}: {run.config.data.name}, examples of shape {run.info.shape}, step {run.step}, average {run.ema}"
)

# %% [markdown]
# ## Posterior draws
#
# Noisy versions of one held-out example at four times, and independent draws of what it may have been. For
# the mixture the exact posterior is known, and shown beneath in grey. Images are a row for each state.

# %%
at = [generate.test_contexts(run, key(0), t, 1) for t in (0.1, 0.3, 0.5, 0.8)]
given = {name: np.concatenate([one[name] for one in at]) for name in ("x_t", "t")}
drawn = generate.posterior_samples(run, key(1), **given, num=DRAWS)
show(showcase.picture({**given, "x1": drawn}, run), "posterior")

# %% [markdown]
# ## The value and its gradient
#
# For a reward on the plane, here a broad quadratic about (2, 2). MFM-GF needs no gradient of the reward or
# of the network: it weighs the draws. The exact map is known for the mixture.

# %%
reward = broad_quadratic()
T = 0.3
if run.info.shape == (2,) and not run.finetuned:
  side = np.linspace(-5.0, 5.0, GRID)
  x = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), jnp.float32)
  t = jnp.full((len(x),), T)
  estimate, gradient = jax.jit(
    lambda x: value.value_and_grad_gf(
      key(2), run.velocity, run.interpolant, t, x, reward, draws=DRAWS, chunk=16
    )
  )(x)
  law = (run.config.mixture.build(), run.interpolant, t, x)
  likelihood = (reward.matrix, reward.observed, reward.sigma)
  maps = {
    f"{DRAWS} draws of the map": (estimate.value, gradient),
    "exact": (oracles.value(*law, *likelihood), oracles.grad_value(*law, *likelihood)),
  }
  square = {
    title: (np.asarray(v).reshape(GRID, GRID), np.asarray(g).reshape(GRID, GRID, 2))
    for title, (v, g) in maps.items()
  }
  show(fields.value_maps(side, side, square), "value")

# %% [markdown]
# ## Steering
#
# $\lambda$ multiplies the reward, $N$ is the number of posterior draws at each step: more of them follow
# the gradient with less noise. In grey: exact samples of $p_1 \exp(\lambda r)$. With `ipywidgets` there are
# sliders, otherwise a table of settings.

# %%
grid = times.grid(8 if TINY else 60, start=1e-3, power=2.0)


def steered(scale: float, draws: int) -> np.ndarray:
  """SAMPLES samples of the run, steered to `scale` times the reward by `draws` draws a step."""
  return np.asarray(_steered(jnp.float32(scale), draws))


@functools.partial(jax.jit, static_argnums=1)
def _steered(scale, draws):
  guide = drifts.mfm_gf(
    run.velocity, run.interpolant, lambda x, cond: scale * reward(x, cond), draws=draws, chunk=draws
  )
  return steer.steer(key(3), jax.random.normal(key(4), (SAMPLES, 2)), grid, guide, run.interpolant)[0]


def exact(scale: float) -> np.ndarray:
  """Samples of the tilted mixture."""
  sigma = reward.sigma / np.sqrt(scale)
  return oracles.sample(
    key(5), oracles.tilt(run.config.mixture.build(), reward.matrix, reward.observed, sigma)[0], SAMPLES
  )


def compare(scale: float = 1.0, draws: int = 16) -> None:
  """One setting."""
  title = f"λ = {scale:g}"
  show(
    fields.scatter_table({title: {f"N = {draws}": steered(scale, draws)}}, {title: exact(scale)}), "steered"
  )


if run.info.shape == (2,) and not run.finetuned:
  try:
    import ipywidgets
  except ImportError:
    ipywidgets = None
  if ipywidgets is not None and in_notebook():
    ipywidgets.interact(
      compare,
      scale=ipywidgets.FloatLogSlider(1.0, min=-1, max=1, step=0.25, description="λ"),
      draws=ipywidgets.SelectionSlider(options=[2, 4, 8, 16, 32, 64], value=16, description="N"),
    )
  else:
    scales, counts = ((1.0,), (2, 4)) if TINY else ((0.25, 1.0, 4.0), (2, 8, 32))
    table = {f"λ = {scale:g}": {f"N = {n}": steered(scale, n) for n in counts} for scale in scales}
    show(fields.scatter_table(table, {f"λ = {scale:g}": exact(scale) for scale in scales}), "steered")

# %% [markdown]
# ## Next
#
# `experiments.steer` compares eight methods at equal cost, and `experiments.report` puts all of it on one
# page. Your own reward: `bring_your_own_reward`. Your own flow: `bring_your_own_flow`.
