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
  """
  unconditional = _unconditional(cond, null_label)
  both = jax.tree.map(lambda *pair: jnp.concatenate(pair), cond, unconditional)
  doubled = (jnp.concatenate([value, value]) for value in (s, s, x_s, t, x_t))
  v_label, v_null = jnp.split(velocity(*doubled, both), 2)
  gain = 1.0 - 1.0 / cond["guidance"]
  return jax.lax.stop_gradient(expand_like(gain, x_s) * (v_label - v_null))


def guided_teacher(marginal: MarginalVelocity, null_label: int) -> MarginalVelocity:
  """v_null + w (v_label - v_null) of a teacher trained without guidance, w = cond["guidance"] (MATH 5).

  The teacher itself is asked at scale 1, label and null in one batched call. Without a guidance scale or
  a label it is asked once, as it is.
  """

  def guided(t: Array, x: Array, cond: Cond = None) -> Array:
    if cond is None or "guidance" not in cond or "label" not in cond:
      return marginal(t, x, cond)
    labelled = {"label": cond["label"]}
    unlabelled = {"label": jnp.full_like(cond["label"], null_label)}
    both = jax.tree.map(lambda *pair: jnp.concatenate(pair), labelled, unlabelled)
    v_label, v_null = jnp.split(marginal(jnp.concatenate([t, t]), jnp.concatenate([x, x]), both), 2)
    return v_null + expand_like(cond["guidance"], x) * (v_label - v_null)

  return guided


def _unconditional(cond, null_label):
  return {
    "label": jnp.full_like(cond["label"], null_label),
    "guidance": jnp.ones_like(cond["guidance"]),
  }
