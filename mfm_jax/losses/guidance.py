"""Classifier-free guidance inside the training target (MATH 5)."""

import jax
import jax.numpy as jnp

from mfm_jax.types import Array, Cond, MarginalVelocity, Velocity, expand_like


def model_guidance(
  velocity: Velocity, s: Array, x_s: Array, t: Array, x_t: Array, cond: Cond, null_label: int
) -> Array:
  """g sg(v_{s,s}(.; y) - v_{s,s}(.; null)), g = 1 - 1/w, to add to a data velocity (MATH 5.1).

  v(.; y) is taken at the sampled scale w = cond["guidance"], v(.; null) at scale 1, in one batched call.
  The result is frozen: it is part of a target.

  Raises:
    ValueError: no cond.
  """
  if cond is None:
    raise ValueError("cond must hold label and guidance; got None")
  unconditional = _unconditional(cond, null_label)
  both = jax.tree.map(lambda *pair: jnp.concatenate(pair), cond, unconditional)
  s2, x_s2, t2, x_t2 = (jnp.concatenate([value, value]) for value in (s, x_s, t, x_t))
  v_label, v_null = jnp.split(velocity(s2, s2, x_s2, t2, x_t2, both), 2)
  gain = 1.0 - 1.0 / cond["guidance"]
  return jax.lax.stop_gradient(expand_like(gain, x_s) * (v_label - v_null))


def guided_teacher(
  marginal: MarginalVelocity,
  null_label: int,
  *,
  trained_scale: float = 1.0,
  interval: tuple[float, float] = (0.0, 1.0),
) -> MarginalVelocity:
  """v_null + w (v_cond - v_null) of a teacher, w = cond["guidance"] (MATH 5).

  The teacher itself is asked at scale 1, label and null in one batched call. Without a label it is asked
  once, as it is, and so without a guidance scale (w = 1) where no guidance is built in.

  Args:
    marginal: the teacher.
    null_label: of the teacher.
    trained_scale: of the guidance that is built into the teacher's labelled velocity, 1 for none:
      v_cond = (1 - g) v_label + g v_null with g = 1 - 1 / trained_scale takes it out first.
    interval: times of the teacher in which there is guidance; w = 1 elsewhere.
  """
  built_in = 1.0 - 1.0 / trained_scale

  def guided(t: Array, x: Array, cond: Cond = None) -> Array:
    if cond is None or "label" not in cond or ("guidance" not in cond and not built_in):
      return marginal(t, x, cond)
    labelled = {"label": cond["label"]}
    unlabelled = {"label": jnp.full_like(cond["label"], null_label)}
    both = jax.tree.map(lambda *pair: jnp.concatenate(pair), labelled, unlabelled)
    v_label, v_null = jnp.split(marginal(jnp.concatenate([t, t]), jnp.concatenate([x, x]), both), 2)
    v_cond = (1.0 - built_in) * v_label + built_in * v_null
    scale = jnp.where((interval[0] <= t) & (t <= interval[1]), cond.get("guidance", jnp.ones_like(t)), 1.0)
    return v_null + expand_like(scale, x) * (v_cond - v_null)

  return guided


def _unconditional(cond, null_label):
  return {
    "label": jnp.full_like(cond["label"], null_label),
    "guidance": jnp.ones_like(cond["guidance"]),
  }
