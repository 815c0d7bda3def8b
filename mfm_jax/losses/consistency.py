"""The consistency objectives (MATH 4.3-4.8): each gives a prediction and its frozen target.

All are written for the mean velocity v_{s,u}, so that every squared error has the scale of a velocity.
`inner(s, x)` is the velocity c that transports x along the inner path at time s: the network's own
diagonal, a teacher's, or the data velocity; it is what tells the self, teacher and mean-flow forms apart.

Targets are frozen. `freeze=False` lets the gradient through those terms of a target that the published code
lets it through when told so (its distill_teacher_stop_grad=false): for comparison, not for training.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mfm_jax.types import Array, expand_like

Mean = Callable[[Array, Array, Array], Array]  # (s, u, x) -> v_{s,u}(x), context and cond bound
Inner = Callable[[Array, Array], Array]  # (s, x) -> velocity at s

LAGRANGIAN_FORMS = ("tangent", "cheap", "published")


def semigroup(v: Mean, s: Array, u: Array, x: Array, g: Array, *, freeze: bool = True) -> tuple[Array, Array]:
  """v_{s,u} on g v_{s,w}(x) + (1 - g) v_{w,u}(X_{s,w}(x)), w = s + g (u - s) (MATH 4.3)."""
  w = s + g * (u - s)
  first = jax.lax.stop_gradient(v(s, w, x))
  second = v(w, u, x + expand_like(w - s, x) * first)
  share = expand_like(g, x)
  return v(s, u, x), _frozen(share * first + (1.0 - share) * second, freeze)


def eulerian(v: Mean, s: Array, u: Array, x: Array, c: Array, *, freeze: bool = True) -> tuple[Array, Array]:
  """v_{s,u} on c + (u - s) dv/ds along (ds, du, dx) = (1, 0, c) (MATH 4.4-4.6).

  `c` is frozen, and so is the derivative: it is part of the target.
  """
  c = jax.lax.stop_gradient(c)
  tangents = (jnp.ones_like(s), jnp.zeros_like(u), c)
  prediction, derivative = jax.jvp(v, (s, u, x), tangents)
  return prediction, _frozen(c + expand_like(u - s, x) * derivative, freeze)


def lagrangian(
  v: Mean, s: Array, u: Array, x: Array, inner: Inner, form: str = "tangent", *, freeze: bool = True
) -> tuple[Array, Array]:
  """d/du X_{s,u}(x) on the velocity at its end, `inner(u, X)` (MATH 4.7, 4.8).

  Args:
    v, s, u, x: as above.
    inner: v_{u,u} of the network or the GLASS velocity of a teacher.
    form: "tangent" puts the gradient on the derivative d/du X (the theory's form; `inner` and its
      argument are frozen). "cheap" freezes the derivative too and moves it to the target, so that only
      v_{s,u} carries gradient. "published" swaps the roles, as the published code does: the prediction
      is `inner(u, X)` with gradient through X, the target the frozen derivative.
  """
  zeros, ones = jnp.zeros_like(s), jnp.ones_like(u)
  mean, slope = jax.jvp(v, (s, u, x), (zeros, ones, jnp.zeros_like(x)))
  length = expand_like(u - s, x)
  end = x + length * mean
  if form == "published":
    return inner(u, end), _frozen(mean + length * slope, freeze)
  target = jax.lax.stop_gradient(inner(u, jax.lax.stop_gradient(end)))
  if form == "cheap":
    return mean, target - jax.lax.stop_gradient(length * slope)
  return mean + length * slope, target


def _frozen(target: Array, freeze: bool) -> Array:
  return jax.lax.stop_gradient(target) if freeze else target
