"""Is every input of a trained network used? Shuffle one among the batch and see the held-out loss rise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax.data import datasets, pipeline
from mfm_jax.interpolants import interpolate, interpolate_dot
from mfm_jax.losses import draw
from mfm_jax.losses.guidance import model_guidance
from mfm_jax.losses.weighting import squared_error
from mfm_jax.training.run import Run
from mfm_jax.types import Array, Velocity


def conditioning_rows(
  run: Run, *, seed: int = 0, batches: int = 16, batch_size: int = 256
) -> list[dict[str, str | float]]:
  """Held-out diagonal loss (MATH 4.1) with each input of the bare network shuffled among the batch.

  An input that is dead (a zero embedder behind a closed gate, say) raises the loss by nothing when
  shuffled. With the Gaussian skip on, only what the network itself is told is shuffled: the skip sees the
  true context. Examples at t = 0, which have no context, are left out.

  Returns:
    Rows {"input", "loss", "shuffled", "increase"}: squared errors, weighted as in training, and
    shuffled / loss - 1.
  """
  mixture = run.config.mixture.build() if run.config.data.name == "mixture" else None
  source = iter(
    pipeline.batches(datasets.load(run.config.data, mixture).test, batch_size=batch_size, seed=seed)
  )
  law = dataclasses.replace(run.parts.draws, context_zero_rate=0.0)
  inputs = ["x_t", "t"] if run.config.is_map else []
  inputs += ["label"] * bool(law.num_classes) + ["guidance"] * bool(law.guidance_scales)

  @jax.jit
  def losses(params, key, batch):
    key_draw, key_shuffle = jax.random.split(key)
    drawn = draw(key_draw, batch, 0, law)
    order = jax.random.permutation(key_shuffle, batch_size)
    model, interpolant = run.parts.model, run.interpolant
    x_t, x = drawn.context(interpolant), interpolate(interpolant, drawn.r, drawn.e_r, drawn.x1)
    target = interpolate_dot(interpolant, drawn.r, drawn.e_r, drawn.x1)
    if drawn.guidance is not None:
      velocity = model.velocity(params)
      target += model_guidance(velocity, drawn.r, x, drawn.t, x_t, drawn.cond, law.num_classes)
    weight = jnp.ones_like(drawn.t) if model.loss_weight is None else model.loss_weight(drawn.r, drawn.t)

    def loss(name):
      velocity = model.wrap(_shuffled(model.net(params), name, order))
      prediction = velocity(drawn.r, drawn.r, x, drawn.t, x_t, drawn.cond)
      return jnp.mean(weight * squared_error(prediction, target))

    return {name: loss(name) for name in ("", *inputs)}

  totals = [
    jax.device_get(losses(run.params, jax.random.fold_in(jax.random.key(seed), i), next(source)))
    for i in range(batches)
  ]
  means = {name: float(np.mean([total[name] for total in totals])) for name in totals[0]}
  base = means.pop("")
  return [
    {"input": name, "loss": base, "shuffled": value, "increase": value / base - 1.0}
    for name, value in means.items()
  ]


def _shuffled(net: Velocity, name: str, order: Array) -> Velocity:
  """`net` with the rows of one input in another order; "" shuffles nothing."""

  def velocity(s, u, x_s, t, x_t, cond):
    cond = dict(cond or {})
    if name == "t":
      t = t[order]
    elif name == "x_t":
      x_t = x_t[order]
    elif name:
      cond[name] = cond[name][order]
    return net(s, u, x_s, t, x_t, cond or None)

  return velocity
