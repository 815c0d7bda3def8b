"""The pictures that a run shows while it trains: samples, and posterior draws for noisy test examples."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import flow_map, oracles, times
from mfm_jax.data.sources import Source, to_pixels
from mfm_jax.interpolants import Interpolant, interpolate
from mfm_jax.sampling import integrators, marginal, posterior, refinement
from mfm_jax.types import Array, Cond, PyTree, Velocity
from mfm_jax.viz import grids, panels, style

CONTEXT_TIMES = (0.1, 0.3, 0.5, 0.8)
FLOW_STEPS = 50  # Heun steps of a plain flow's samples


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Painter:
  """Pictures of a network. Its jitted functions take the parameters, so each is compiled once.

  Attributes:
    velocity: parameters -> velocity.
    interpolant: of the run.
    test: held-out examples.
    num_classes: 0 without labels; samples cycle through the classes, posterior draws have none.
    image: whether examples are images.
    guided: whether the network takes a guidance scale (pictures are at scale 1).
    is_map: False for a plain flow: ODE samples and no posterior.
    mixture: the law of the data, where it is a mixture.
  """

  velocity: Callable[[PyTree], Velocity]
  interpolant: Interpolant
  test: Source
  num_classes: int
  image: bool
  guided: bool
  is_map: bool
  mixture: oracles.GaussianMixture | None = None

  def pictures(self, params: PyTree) -> dict[str, np.ndarray]:
    """uint8 (H, W, 3) by name: "samples", for a map of images or of a plane "posterior"; none of latents."""
    if not (self.image or len(self.test.shape) == 1):
      return {}
    out = {"samples": self.samples(params)}
    if self.is_map and self.image:
      out["posterior"] = self.posterior(params)
    elif self.is_map and self.mixture is not None and self.test.shape == (2,):
      out["posterior"] = self.posterior_in_the_plane(params)
    return out

  def samples(self, params: PyTree) -> np.ndarray:
    """One-step samples of a map, ODE samples of a flow; one class a column."""
    columns = max(self.num_classes, 10)
    n = 8 * columns if self.image else 4096
    drawn = np.asarray(self._sample(params, n))
    if self.image:
      return grids.image_grid(to_pixels(drawn), columns=columns)
    reference = self.test.take(np.arange(min(n, len(self.test))))["x1"]
    figure = panels.scatter_panel(drawn[:, :2], reference[:, :2], "Samples and held-out data")
    return style.figure_array(figure)

  def posterior(self, params: PyTree, *, examples: int = 4, draws: int = 6) -> np.ndarray:
    """One-step posterior draws for the first test images at CONTEXT_TIMES."""
    x1 = jnp.asarray(self.test.take(np.arange(examples))["x1"])
    x_t, drawn = self._posterior(params, x1, draws)
    rows, shape = (examples, len(CONTEXT_TIMES)), x1.shape[1:]
    figure = panels.posterior_panel(
      to_pixels(np.asarray(x1)),
      to_pixels(np.asarray(x_t)).reshape(*rows, *shape),
      to_pixels(np.asarray(drawn)).reshape(*rows, draws, *shape),
      CONTEXT_TIMES,
    )
    return style.figure_array(figure)

  def posterior_in_the_plane(self, params: PyTree, *, draws: int = 200) -> np.ndarray:
    """One-step draws over exact ones for the first test point at CONTEXT_TIMES."""
    x1 = jnp.asarray(self.test.take(np.arange(1))["x1"])
    x_t, drawn = self._posterior(params, x1, draws)
    t = np.asarray(CONTEXT_TIMES, np.float32)
    assert self.mixture is not None  # `pictures` has asked
    key = jax.random.key(2)
    exact = oracles.posterior_sample(key, self.mixture, self.interpolant, jnp.asarray(t), x_t, draws)
    clean = np.repeat(x1, len(t), axis=0)
    return style.figure_array(panels.posterior_scatter(x_t, t, drawn, exact, clean=clean))

  def cond(self, label: Array) -> Cond:
    """Conditioning for these labels at guidance scale 1."""
    if not self.num_classes:
      return None
    cond = {"label": label.astype(jnp.int32)}
    return {**cond, "guidance": jnp.ones(label.shape)} if self.guided else cond

  @functools.partial(jax.jit, static_argnames=("self", "n"))
  def _sample(self, params, n):
    key_start, key_draw = jax.random.split(jax.random.key(0))
    start = jax.random.normal(key_start, (n, *self.test.shape))
    velocity = self.velocity(params)
    cond = self.cond(jnp.arange(n) % max(self.num_classes, 1))
    if self.is_map:
      return refinement.refine(key_draw, start, times.grid(1), velocity, self.interpolant, cond)[0]
    drift = marginal.probability_flow(flow_map.marginal_velocity(velocity), cond)
    return integrators.ode(start, times.grid(FLOW_STEPS), drift, method="heun")[0]

  @functools.partial(jax.jit, static_argnames=("self", "draws"))
  def _posterior(self, params, x1, draws):
    key_context, key_draw = jax.random.split(jax.random.key(1))
    t = jnp.tile(jnp.asarray(CONTEXT_TIMES), len(x1))
    clean = jnp.repeat(x1, len(CONTEXT_TIMES), axis=0)
    x_t = interpolate(self.interpolant, t, jax.random.normal(key_context, clean.shape), clean)
    cond = self.cond(jnp.full(t.shape, self.num_classes))
    velocity = self.velocity(params)
    return x_t, posterior.draw(key_draw, velocity, t, x_t, cond, draws=draws)
