"""Samples from a trained run: marginal and posterior, by the map or by integrating its velocity."""

import functools
import pathlib
import zipfile
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mfm_jax import checks, times
from mfm_jax.data import datasets
from mfm_jax.interpolants import interpolate
from mfm_jax.sampling import integrators, marginal, posterior, refinement
from mfm_jax.training import distributed, sharding
from mfm_jax.training.run import Run
from mfm_jax.types import Array, Cond, PRNGKey

MARGINAL_SAMPLERS = ("map", "ode", "sde")
POSTERIOR_SAMPLERS = ("map", "glass")
SDE_START = 1e-3  # the sampling SDE is singular at t = 0
BATCH = 1024  # examples in one network call


def marginal_samples(
  run: Run,
  key: PRNGKey,
  *,
  num: int,
  sampler: str = "",
  steps: int = 0,
  label: ArrayLike | None = None,
  guidance: float | None = None,
) -> np.ndarray:
  """num samples of the data law, (num, ...).

  Args:
    run: a trained run.
    key: typed key.
    num: how many.
    sampler, steps: see `marginal_sampler`.
    label: (num,), None for the null label.
    guidance: a trained scale.

  Raises:
    ValueError: an unknown sampler, "map" for a plain flow, counts below 1, a label or scale that the run
      does not have.
  """
  checks.at_least("num", num, 1)
  sample = marginal_sampler(run, sampler=sampler, steps=steps)
  cond = run.cond(label, guidance, num)
  parts = [slice(start, min(start + BATCH, num)) for start in range(0, num, BATCH)]
  shapes = [(rows.stop - rows.start, *run.info.shape) for rows in parts]

  def make(i: int) -> np.ndarray:
    part = jax.tree.map(lambda leaf: leaf[parts[i]], cond)
    return np.asarray(sample(jax.random.fold_in(key, i), shapes[i][0], part))

  return np.concatenate(distributed.shared(make, shapes))


def marginal_sampler(run: Run, *, sampler: str = "", steps: int = 0) -> Callable[[PRNGKey, int, Cond], Array]:
  """`sample(key, n, cond) -> (n, ...)`, compiled once for each n, split over this process's devices.

  Args:
    run: a trained run.
    sampler: "map", K-step refinement of a map; "ode", Heun on the probability flow; "sde",
      Euler-Maruyama from t = 1e-3; "" for map, or ode where the run is a plain flow.
    steps: of the sampler; 0 for 1 (map), 50 (ode) or 250 (sde).

  Raises:
    ValueError: an unknown sampler, "map" for a plain flow, steps below 1.
  """
  sampler = sampler or ("map" if run.config.is_map else "ode")
  checks.one_of("sampler", sampler, MARGINAL_SAMPLERS)
  steps = steps or {"map": 1, "ode": 50, "sde": 250}[sampler]
  checks.at_least("steps", steps, 1)
  if sampler == "map":
    run.require_map()
  model, interpolant = run.parts.model, run.interpolant

  @functools.partial(jax.jit, static_argnames="n")
  def sample(params, key, cond, n):
    key_start, key_path = jax.random.split(key)
    velocity = model.velocity(params)
    x = sharding.split_rows(jax.random.normal(key_start, (n, *run.info.shape)))
    if sampler == "map":
      return refinement.refine(key_path, x, times.grid(steps), velocity, interpolant, cond)[0]
    flow = run.marginal_of(params)
    if sampler == "ode":
      drift = marginal.probability_flow(flow, cond)
      return integrators.ode(x, times.grid(steps), drift, method="heun")[0]
    drift, sigma = marginal.diffusion(flow, interpolant, cond)
    # Power 2: near t = 0 the steps must be short against t (`integrators.sde`).
    grid = times.grid(steps, start=SDE_START, power=2.0)
    return integrators.sde(key_path, x, grid, drift, sigma)[0]

  return lambda key, n, cond: sample(run.params, key, cond, n)


def posterior_samples(
  run: Run,
  key: PRNGKey,
  t: ArrayLike,
  x_t: ArrayLike,
  *,
  num: int,
  sampler: str = "",
  steps: int = 0,
  label: ArrayLike | None = None,
  guidance: float | None = None,
) -> np.ndarray:
  """num posterior draws for each context, (contexts, num, ...).

  Args:
    run: a trained run.
    key: typed key.
    t, x_t: contexts (n,), (n, ...).
    num: draws a context.
    sampler, steps: see `posterior_sampler`.
    label, guidance: as `marginal_samples`, (n,).

  Raises:
    ValueError: as `marginal_samples`; t outside [0, 1], shapes that disagree with the run's.
  """
  t, x_t = jnp.asarray(t, jnp.float32), jnp.asarray(x_t, jnp.float32)
  sample = posterior_sampler(run, num=num, sampler=sampler, steps=steps)
  checks.shape("x_t", x_t, (None, *run.info.shape))
  checks.shape("t", t, x_t.shape[:1])
  checks.in_interval("t", t)
  checks.at_least("number of contexts", len(t), 1)
  return np.asarray(sample(key, t, x_t, run.cond(label, guidance, len(t))))


def posterior_sampler(
  run: Run, *, num: int, sampler: str = "", steps: int = 0
) -> Callable[[PRNGKey, Array, Array, Cond], Array]:
  """`sample(key, t, x_t, cond) -> (contexts, num, ...)`, compiled once for each number of contexts.

  Args:
    run: a trained run.
    num: draws a context.
    sampler: "map", `steps` jumps of a map; "glass", the GLASS inner ODE on the run's marginal velocity
      (also for a plain flow); "" for map, or glass where the run is a plain flow.
    steps: of the sampler; 0 for 1 (map) or 50 Heun steps (glass).

  Raises:
    ValueError: an unknown sampler, "map" for a plain flow, num or steps below 1.
  """
  sampler = sampler or ("map" if run.config.is_map else "glass")
  checks.one_of("sampler", sampler, POSTERIOR_SAMPLERS)
  if sampler == "map":
    run.require_map()
  checks.at_least("num", num, 1)
  steps = steps or {"map": 1, "glass": 50}[sampler]
  checks.at_least("steps", steps, 1)
  model, interpolant = run.parts.model, run.interpolant

  @jax.jit
  def sample(params, key, t, x_t, cond):
    x_t, chunk = sharding.split_rows(x_t), max(BATCH // len(t), 1)
    if sampler == "map":
      velocity = model.velocity(params)
      return posterior.draw(key, velocity, t, x_t, cond, draws=num, steps=steps, chunk=chunk)
    flow, grid = run.marginal_of(params), times.grid(steps)
    return posterior.draw_glass(key, flow, interpolant, t, x_t, cond, draws=num, times=grid, chunk=chunk)

  return lambda key, t, x_t, cond: sample(run.params, key, t, x_t, cond)


def read_contexts(path: str | pathlib.Path, run: Run) -> dict[str, np.ndarray]:
  """A user's noisy states from an .npz with `x_t` (n, ...), `t` (n,) and optionally `label` (n,).

  Raises:
    ValueError: a file that is missing, is no .npz, lacks an array, or has values a run cannot take.
  """
  path = pathlib.Path(path)
  try:
    file = np.load(path, allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
      raise ValueError("an .npy file, a single array")
    with file:
      arrays = {name: file[name] for name in file.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(f"contexts must be a readable .npz file; got {path}: {error}") from error
  for name in ("x_t", "t"):
    if name not in arrays:
      raise ValueError(f"contexts must hold x_t and t; got {sorted(arrays)} in {path}")
  unknown = sorted(set(arrays) - {"x_t", "t", "label"})
  if unknown:
    raise ValueError(f"contexts may hold x_t, t and label alone; got {unknown} in {path}")
  for name, array in arrays.items():
    kind, letters = ("integers", "iu") if name == "label" else ("real numbers", "fiu")
    if array.dtype.kind not in letters:
      raise ValueError(f"{name} of contexts must be {kind}; got {array.dtype} in {path}")
  checks.shape("x_t of contexts", arrays["x_t"], (None, *run.info.shape))
  checks.shape("t of contexts", arrays["t"], arrays["x_t"].shape[:1])
  checks.in_interval("t of contexts", arrays["t"])
  largest = float(np.finfo(np.float32).max)
  checks.in_interval("x_t of contexts", arrays["x_t"], -largest, largest)
  return arrays


def test_contexts(run: Run, key: PRNGKey, t: float, n: int) -> dict[str, np.ndarray]:
  """The first n held-out examples of the run's data, noised to time t: {"x_t", "t", "x1", "label"}.

  `label` is the example's own, to be shown or passed on by the caller.
  """
  checks.in_interval("t", t)
  checks.at_least("number of contexts", n, 1)
  mixture = run.config.mixture.build() if run.config.data.name == "mixture" else None
  test = datasets.load(run.config.data, mixture).test
  checks.at_least("number of held-out examples", len(test), n)
  batch = test.take(np.arange(n))
  x1, t_B = jnp.asarray(batch["x1"]), jnp.full((n,), t)
  x_t = interpolate(run.interpolant, t_B, jax.random.normal(key, x1.shape), x1)
  return {"x_t": np.asarray(x_t), "t": np.asarray(t_B), **batch}
