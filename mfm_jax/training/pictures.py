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
from mfm_jax.training import decoding
from mfm_jax.types import Array, Cond, Decode, PyTree, Velocity
from mfm_jax.viz import grids, panels, style

CONTEXT_TIMES = (0.1, 0.3, 0.5, 0.8)
FLOW_STEPS = 50  # Heun steps of a plain flow's samples
COLUMNS = 10  # of a picture of samples; of more classes some are shown
LATENTS = "Latents, not pictures: their first three channels (--config.decoder decodes them)"
_RANGE = 3.0  # of latents, whose standard deviation is about 1, as shades


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Painter:
  """Pictures of a network. Its jitted functions take the parameters, so each is compiled once.

  Attributes:
    velocity: parameters -> velocity.
    interpolant: of the run.
    test: held-out examples.
    num_classes: 0 without labels; samples cycle through the classes, posterior draws have none.
    image: whether examples are images.
    decode: of latents: model space -> images in [0, 1]; without it three of their channels are shown, and
      the picture says so.
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
  decode: Decode | None = None

  @property
  def shows(self) -> bool:
    """Whether an example is shown as a picture: an image, or a latent."""
    return self.image or len(self.test.shape) == 3

  def pictures(self, params: PyTree) -> dict[str, np.ndarray]:
    """uint8 (H, W, 3) by name: "samples", for a map of images, of latents or of a plane "posterior"."""
    if not (self.shows or len(self.test.shape) == 1):
      return {}
    out = {"samples": self.samples(params)}
    if self.is_map and self.shows:
      out["posterior"] = self.posterior(params)
    elif self.is_map and self.mixture is not None and self.test.shape == (2,):
      out["posterior"] = self.posterior_in_the_plane(params)
    return out

  def samples(self, params: PyTree) -> np.ndarray:
    """One-step samples of a map, ODE samples of a flow; one class a column."""
    drawn = np.asarray(self._sample(params, 8 * COLUMNS if self.shows else 4096))
    if self.shows:
      shown = self.shown(drawn)
      grid = grids.image_grid(shown, columns=COLUMNS, scale=grids.scale_of(shown))
      return style.figure_array(panels.titled(grid, self.title)) if self.title else grid
    reference = self.test.take(np.arange(min(len(drawn), len(self.test))))["x1"]
    figure = panels.scatter_panel(drawn[:, :2], reference[:, :2], "Samples and held-out data")
    return style.figure_array(figure)

  def posterior(self, params: PyTree, *, examples: int = 4, draws: int = 6) -> np.ndarray:
    """One-step posterior draws for the first test images at CONTEXT_TIMES."""
    x1 = jnp.asarray(self.test.take(np.arange(examples))["x1"])
    x_t, drawn = self._posterior(params, x1, draws)
    clean, noisy, drawn = (self.shown(np.asarray(x)) for x in (x1, x_t, drawn))
    rows, shape = (examples, len(CONTEXT_TIMES)), clean.shape[1:]
    noisy, drawn = noisy.reshape(*rows, *shape), drawn.reshape(*rows, draws, *shape)
    return style.figure_array(panels.posterior_panel(clean, noisy, drawn, CONTEXT_TIMES, title=self.title))

  @property
  def title(self) -> str:
    """Of a picture that is not what it seems: latents that cannot be decoded."""
    return LATENTS if self.shows and not self.image and self.decode is None else ""

  def shown(self, x: np.ndarray) -> np.ndarray:
    """Examples (..., h, w, C) as images in [0, 1]."""
    if self.image:
      return to_pixels(x)
    if self.decode is not None:
      return decoding.pictures(self.decode, x)
    return 0.5 + 0.5 / _RANGE * x[..., : 3 if x.shape[-1] >= 3 else 1]

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
    classes = max(self.num_classes, 1)
    spread = max(classes / COLUMNS, 1.0)  # over all classes, where there are more than columns
    cond = self.cond(jnp.floor(spread * (jnp.arange(n) % min(classes, COLUMNS))))
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
