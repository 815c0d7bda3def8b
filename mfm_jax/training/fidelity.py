"""Reports on a trained run: posterior and value fidelity, use of every conditioning input.

Mixtures are compared with closed forms; images, latents and other data with GLASS rollouts, and labelled
images in memory with the training set's exact posterior.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from mfm_jax import checks
from mfm_jax.data import datasets
from mfm_jax.data.sources import ArraySource, to_pixels
from mfm_jax.metrics import classes, closed_form, rollouts
from mfm_jax.rewards import likelihoods
from mfm_jax.training import generate
from mfm_jax.training.classifier import decode_for
from mfm_jax.training.conditioning import conditioning_rows
from mfm_jax.training.run import Run
from mfm_jax.types import Decode
from mfm_jax.viz import grids
from mfm_jax.viz.files import write_atomically

IMAGE_TIMES = (0.1, 0.2, 0.3, 0.5, 0.8)
ROLLOUT_STEPS = 30  # Heun steps of the GLASS reference
GRID, GRID_DRAWS = 4, 6  # contexts for each t, and draws of each, in the picture
INK = 20.0  # weight of the mean pixel in the value report's reward
METRICS = ("posterior", "value", "conditioning")
Rows = Sequence[Mapping[str, str | float]]


def evaluate(
  run: Run,
  metrics: Sequence[str],
  *,
  seed: int = 0,
  contexts: int = 0,
  draws: int = 0,
  steps: int = 1,
  times: Sequence[float] = (),
  decode: Decode | None = None,
) -> dict[str, Rows]:
  """Tables by name, one row for each t; of pictures also samples/fidelity.png in the run folder.

  The picture has GRID contexts for each t, one a row: x_t, GRID_DRAWS draws, as many rollouts.

  Args:
    run: a trained map.
    metrics: of METRICS.
    seed: of contexts and draws.
    contexts: number of noisy states at each t; 0 for 64 (mixture posterior), 256 (mixture value) or 32.
    draws: posterior draws a context; 0 for 1024 (mixture posterior), 16384 (mixture value) or 64.
    steps: jumps of the map.
    times: () for the defaults of the paper's tables.
    decode: model space -> pictures in [0, 1], for the picture; None for that of images.

  Raises:
    ValueError: no metric or an unknown one, t outside [0, 1], a plain flow.
  """
  checks.at_least("number of metrics", len(metrics), 1)
  for metric in metrics:
    checks.one_of("metrics", metric, METRICS)
  for t in times:
    checks.in_interval("times", t)
  key = jax.random.key(seed)
  out: dict[str, Rows] = {}
  draw_metrics = [metric for metric in metrics if metric != "conditioning"]
  if draw_metrics:
    run.require_map()
    if run.config.data.name == "mixture":
      out |= _mixture(run, draw_metrics, key, contexts, draws, steps, times)
    else:
      sizes = contexts or 32, draws or 64
      decode = decode or decode_for(run.info)
      out |= _others(run, draw_metrics, key, *sizes, steps, times or IMAGE_TIMES, decode)
  if "conditioning" in metrics:
    out["conditioning"] = conditioning_rows(run, seed=seed)
  return out


def _mixture(run, metrics, key, contexts, draws, steps, times) -> dict[str, Rows]:
  mixture = run.config.mixture.build()
  out: dict[str, Rows] = {}
  common = (run.velocity, mixture, run.interpolant)
  if "posterior" in metrics:
    out["posterior"] = closed_form.posterior_rows(
      key,
      *common,
      times=times or closed_form.POSTERIOR_TIMES,
      contexts=contexts or 64,
      draws=draws or 1024,
      steps=steps,
    )
  if "value" in metrics:
    rewards = {"sharp": likelihoods.paper_likelihood(), "quadratic": likelihoods.broad_quadratic()}
    for name, reward in rewards.items():
      out[f"value_{name}"] = closed_form.value_rows(
        key,
        *common,
        reward,
        times=times or closed_form.VALUE_TIMES,
        states=contexts or 256,
        draws=draws or 16384,
      )
  return out


def _others(run, metrics, key, contexts, draws, steps, times, decode) -> Mapping[str, Rows]:
  """Draws and rollouts without a label: the posterior of the data, not of one class.

  Where the data are labelled images in memory, their exact posterior is a second reference.
  """
  source = datasets.load(run.config.data).train
  exact = run.info.image and run.info.num_classes and isinstance(source, ArraySource)
  if exact and "posterior" in metrics:
    judge, train = classes.judge_of(source), source.take(np.arange(len(source)))
  out: dict[str, list[dict[str, float]]] = {metric: [] for metric in metrics}
  lines = []
  for i, t in enumerate(times):
    keys = jax.random.split(jax.random.fold_in(key, i), 4)
    given = generate.test_contexts(run, keys[0], t, contexts)
    t_B, x_t = given["t"], given["x_t"]
    drawn = generate.posterior_samples(run, keys[1], t_B, x_t, num=draws, steps=steps)
    reference, again = (
      generate.posterior_samples(run, key, t_B, x_t, num=draws, sampler="glass", steps=ROLLOUT_STEPS)
      for key in keys[2:]
    )
    shown = x_t[:, None], drawn[:, :GRID_DRAWS], reference[:, :GRID_DRAWS]
    lines.append(np.concatenate(shown, axis=1)[:GRID])
    if "posterior" in metrics:
      row = rollouts.energy_row(drawn, reference, again)
      row |= rollouts.spread_row(drawn, reference, again)
      if exact:
        row |= rollouts.data_row(
          drawn,
          reference,
          x_t,
          t_B,
          judge,
          train,
          run.info.num_classes,
          run.interpolant,
        )
      out["posterior"].append({"t": t, **row})
    if "value" in metrics:
      row = rollouts.value_row(drawn, reference, _ink)
      floor = rollouts.value_row(again, reference, _ink)
      out["value"].append({"t": t, **row, "value_floor": floor["value_error"]})
  if decode is not None:
    rows = np.concatenate(lines)
    pictures = np.asarray(decode(rows.reshape(-1, *rows.shape[2:])))
    png = grids.png_bytes(grids.image_grid(pictures, columns=rows.shape[1]))
    write_atomically(run.workdir / "samples" / "fidelity.png", png)
  return out


def _ink(x: np.ndarray) -> np.ndarray:
  """The value report's reward: INK times the mean pixel, of latents and vectors the mean coordinate."""
  return INK * to_pixels(x).reshape(len(x), -1).mean(axis=1)
