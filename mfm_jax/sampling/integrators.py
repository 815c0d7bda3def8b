"""Fixed-step integrators of dx = drift dt and dX = drift dt + sigma dW; each is one `lax.scan`.

A drift is any function (t_B, x) -> array like x: a marginal velocity, an inner velocity with its
context bound, or either with steering added. A drift that is random, or finds more than a slope, takes
an entry of `inputs` as third argument and returns (slope, aux). The caller gives the time grid
(`times.grid`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.types import Array, PRNGKey, PyTree, expand_like

Drift = Callable[..., Any]  # (t_B, x) or, with inputs, (t_B, x, entry) -> slope or, with aux, (slope, aux)
Scale = Callable[[Array], Array]

EVALUATIONS = {"euler": 1, "heun": 2}  # drift evaluations a step


def check_times(times: Array, *, start: float | None = None, end: float | None = None) -> None:
  """The rules of a time grid; values under a trace pass, their shape is checked all the same.

  Raises:
    ValueError: not a vector of at least 2 times, not strictly increasing, a time outside [0, 1], or
      a first or last time other than `start` or `end` where these are given.
  """
  if jnp.ndim(times) != 1 or jnp.shape(times)[0] < 2:
    raise ValueError(f"times must be a vector of at least 2 times; got shape {jnp.shape(times)}")
  if isinstance(times, jax.core.Tracer):
    return
  values = np.asarray(times)
  checks.in_interval("times", values)
  if not (np.diff(values) > 0).all():
    k = int(np.argmin(np.diff(values)))
    raise ValueError(f"times must increase; got {values[k]} before {values[k + 1]}")
  for name, index, wanted in (("start", 0, start), ("end", -1, end)):
    if wanted is not None and values[index] != wanted:
      raise ValueError(f"times must {name} at {wanted}; got {values[index]}")


def ode(
  x: Array,
  times: Array,
  drift: Drift,
  *,
  method: str = "euler",
  keep: bool = False,
  inputs: PyTree = None,
  has_aux: bool = False,
) -> tuple[Array, dict]:
  """Integrates dx/dt = drift(t, x) from times[0] to times[-1].

  Args:
    x: (B, ...), the state at times[0].
    times: (K + 1,), increasing in [0, 1].
    drift: (t_B, x) -> like x. Euler evaluates it at times[:-1], Heun at the end of each step too.
    method: "euler" (order 1) or "heun" (order 2, the explicit trapezoid rule).
    keep: also return every state.
    inputs: leaves (K, ...), one entry a step, the drift's third argument; None for a drift of two.
    has_aux: the drift returns (slope, aux).

  Returns:
    x at times[-1] and {"evaluations": drift evaluations, "path": (K + 1, B, ...) with `keep`, "aux":
    with `has_aux` what the drift found at times[:-1], leaves (K, ...)}.

  Raises:
    ValueError: an unknown method; times that break a rule of `check_times`.
  """
  checks.one_of("method", method, EVALUATIONS)
  check_times(times)
  starts, steps = _grid(times, x)
  evaluate = _evaluator(drift, has_aux)

  def advance(x, step):
    t, h, entry = step
    slope, aux = evaluate(t, x, entry)
    if method == "heun":
      ahead, _ = evaluate(t + h, x + (h * slope).astype(x.dtype), entry)
      slope = 0.5 * (slope + ahead)
    x = x + (h * slope).astype(x.dtype)
    return x, (x if keep else None, aux)

  end, kept = jax.lax.scan(advance, x, (starts, steps, inputs))
  return end, _info(EVALUATIONS[method] * len(steps), x, *kept)


def sde(
  key: PRNGKey | None,
  x: Array,
  times: Array,
  drift: Drift,
  sigma: Scale,
  *,
  noise: Array | None = None,
  keep: bool = False,
  inputs: PyTree = None,
  has_aux: bool = False,
) -> tuple[Array, dict]:
  """Euler-Maruyama for dX = drift(t, X) dt + sigma(t) dW.

  The noise is additive (sigma does not see X), so both the weak and the strong order are 1.

  A last step that ends at t = 1 is the drift alone: data carry no noise. What is left out has
  variance sigma^2 h, O(h^2) under the sampling SDE (sigma(1) = 0), within the order of the method.

  Args:
    key: typed key; None with `noise`.
    x: (B, ...), the state at times[0].
    times: (K + 1,), increasing in [0, 1]. sigma of MATH 1.4 is singular at 0, so there start at
      t >= 1e-3 and keep each step well below t (`times.grid` with power 2 does).
    drift: (t_B, x) -> like x.
    sigma: t_B -> (B,).
    noise: (K, B, ...) standard normals of the steps in place of the key's, which are
      `normal(split(key, K)[k], x.shape, x.dtype)`.
    keep, inputs, has_aux: as `ode`.

  Returns:
    x at times[-1] and info as `ode`.

  Raises:
    ValueError: times that break a rule of `check_times`, noise of another shape, neither key nor
      noise.
  """
  check_times(times)
  starts, steps = _grid(times, x)
  source = step_noise(key, noise, len(steps), x)
  ends_at_data = jnp.arange(len(steps)) == len(steps) - 1
  ends_at_data &= jnp.asarray(times)[1:] >= 1.0
  evaluate = _evaluator(drift, has_aux)

  def advance(x, step):
    t, h, last, source, entry = step
    slope, aux = evaluate(t, x, entry)
    spread = jnp.where(last, 0.0, sigma(_batch(t, x)) * jnp.sqrt(h))
    change = h * slope + expand_like(spread, x) * draw_noise(source, x)
    x = x + change.astype(x.dtype)
    return x, (x if keep else None, aux)

  end, kept = jax.lax.scan(advance, x, (starts, steps, ends_at_data, source, inputs))
  return end, _info(len(steps), x, *kept)


def step_noise(
  key: PRNGKey | None, noise: Array | None, steps: int, x: Array | jax.ShapeDtypeStruct
) -> Array:
  """What a scan over `steps` steps takes its noise from: the recorded noise or a key a step."""
  if noise is not None:
    checks.shape("noise", noise, (steps, *x.shape))
    return noise
  if key is None:
    raise ValueError("a key must be given where noise is None; got key=None")
  return jax.random.split(key, steps)


def draw_noise(source: Array, x: Array) -> Array:
  """One step's noise like `x` from an entry of `step_noise`, drawn inside the scan."""
  if jnp.issubdtype(source.dtype, jax.dtypes.prng_key):
    return jax.random.normal(source, x.shape, x.dtype)
  return source


def _grid(times: Array, x: Array) -> tuple[Array, Array]:
  """Left ends and lengths of the steps, at least in float32 whatever the dtype of x."""
  times = jnp.asarray(times, jnp.promote_types(x.dtype, jnp.float32))
  return times[:-1], jnp.diff(times)


def _batch(t: Array, x: Array) -> Array:
  return jnp.full(x.shape[:1], t)


def _evaluator(drift: Drift, has_aux: bool) -> Callable[[Array, Array, PyTree], tuple[Array, PyTree]]:
  """The drift as (t, x, entry) -> (slope, aux), for a scalar t and whatever the drift takes and gives."""

  def evaluate(t: Array, x: Array, entry: PyTree):
    out = drift(_batch(t, x), x) if entry is None else drift(_batch(t, x), x, entry)
    return out if has_aux else (out, None)

  return evaluate


def _info(evaluations: int, start: Array, path: Array | None, aux: PyTree) -> dict:
  info: dict[str, Any] = {"evaluations": evaluations}
  if path is not None:
    info["path"] = jnp.concatenate([start[None], path])
  if aux is not None:
    info["aux"] = aux
  return info
