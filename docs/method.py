"""Writes the pictures of docs/method.md, from the closed forms of a mixture: nothing is trained.

python docs/method.py
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mfm_jax import interpolants, oracles, times
from mfm_jax.metrics import distances
from mfm_jax.rewards import likelihoods
from mfm_jax.sampling import posterior
from mfm_jax.steering import drifts, steer
from mfm_jax.viz import fields, style

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINEAR, MIXTURE, KEY = interpolants.Linear(), oracles.paper_mixture(), jax.random.key
MARGINAL, SAMPLER = oracles.as_marginal(MIXTURE, LINEAR), oracles.as_sampler(MIXTURE, LINEAR)
REWARDS = {
  "broad reward": likelihoods.quadratic((2.0, 2.0), 2.0),
  "sharp reward": likelihoods.paper_likelihood(),
}


def posterior_figure():
  """One state at four times: draws of what it may become, and their mean."""
  at = jnp.asarray([0.1, 0.3, 0.5, 0.8], jnp.float32)
  x_t = jnp.stack([t * jnp.asarray([2.0, 2.0]) + (1.0 - t) * jnp.asarray([-1.4, 0.6]) for t in at])
  draws = np.asarray(posterior.draw(KEY(0), SAMPLER, at, x_t, draws=400))
  mean = np.asarray(oracles.denoiser(MIXTURE, LINEAR, at, x_t))
  data = np.asarray(oracles.sample(KEY(1), MIXTURE, 600))
  figure = style.new_figure(2.3)
  for axes, t, x, points, middle in zip(
    figure.subplots(1, 4, sharex=True, sharey=True), at, x_t, draws, mean, strict=True
  ):
    style.tidy(axes)
    axes.scatter(*data.T, s=6.0, c=style.REFERENCE, alpha=0.35, linewidths=0)
    axes.scatter(
      *points.T, s=4.0, c=style.PALETTE[0], alpha=0.5, linewidths=0, label="draws, one evaluation each"
    )
    axes.scatter(*middle, s=45.0, c=style.PALETTE[1], marker="D", label="their mean, all that DPS looks at")
    axes.scatter(*x, s=45.0, c=style.INK, marker="x", label="the noisy state $x_t$")
    axes.set_title(f"t = {t:.1f}", loc="left", **style.text())
    axes.set(xlim=(-6, 6), ylim=(-6, 6), aspect="equal")
  font = {"family": style.FONT, "size": style.SMALL}
  figure.legend(
    *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, prop=font
  )
  return figure


def value_figure():
  """V_t and the direction of its gradient, for the sharp reward, at three times."""
  side = np.linspace(-5.0, 5.0, 81)
  grid = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), jnp.float32)
  r = REWARDS["sharp reward"]
  how = (jnp.asarray(r.matrix), jnp.asarray(r.observed), 0.8)  # less sharp than the paper's .2, to be seen
  found = {}
  for t in (0.1, 0.5, 0.9):
    at = jnp.full(len(grid), t)
    v = oracles.value(MIXTURE, LINEAR, at, grid, *how)
    gradient = oracles.grad_value(MIXTURE, LINEAR, at, grid, *how)
    found[f"t = {t}"] = np.asarray(v).reshape(81, 81), np.asarray(gradient).reshape(81, 81, 2)
  return fields.value_maps(side, side, found)


def steering_figure():
  """Samples without and with steering over the exact law, with their distance to it."""
  grid, start = times.grid(250, start=1e-3, power=2.0), jax.random.normal(KEY(2), (1000, 2))
  samples, reference = {}, {}
  for name, reward in REWARDS.items():
    tilted, _ = oracles.tilt(MIXTURE, jnp.asarray(reward.matrix), jnp.asarray(reward.observed), reward.sigma)
    reference[name] = np.asarray(oracles.sample(KEY(3), tilted, 1000))
    how = {"draws": 32, "chunk": 32, "marginal": MARGINAL}
    guides = {
      "base": drifts.unguided(MARGINAL),
      "DPS": drifts.dps(MARGINAL, LINEAR, reward),
      "MFM-GF": drifts.mfm_gf(SAMPLER, LINEAR, reward, jackknife=8, **how),
    }
    row = {}
    for method, guide in guides.items():
      x, _ = jax.jit(lambda x, guide=guide: steer.steer(KEY(4), x, grid, guide, LINEAR))(start)
      row[f"{method}: {distances.sliced_w2(x, reference[name]):.2f}"] = np.asarray(x)
    samples[name] = row
  return fields.scatter_table(samples, reference)


def write(name: str, figure) -> None:
  """docs/method_<name>.png, in few colours, so that it stays small."""
  path = ROOT / "docs" / f"method_{name}.png"
  path.write_bytes(style.figure_png(figure))
  picture = (
    Image.open(path)
    .convert("RGB")
    .resize((1050, round(1050 * Image.open(path).height / Image.open(path).width)))
  )
  picture.quantize(128).save(path, optimize=True)
  print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
  write("posterior", posterior_figure())
  write("value", value_figure())
  write("steering", steering_figure())
