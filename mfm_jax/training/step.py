"""The train step and the held-out loss, as pure functions, and their compilation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mfm_jax.interpolants import Interpolant
from mfm_jax.losses import DrawConfig, Objective, draw
from mfm_jax.models import Model
from mfm_jax.training import sharding
from mfm_jax.training.state import TrainState, ema_update
from mfm_jax.types import Array, MarginalVelocity, PRNGKey, PyTree

# (params, frozen, batch, key, step) -> (loss, terms). `frozen` are other parameters that the loss reads, such
# as a teacher's: an argument, because a compiled program would hold a copy of each constant.
LossFn = Callable[[PyTree, PyTree, dict[str, Array], PRNGKey, Array], tuple[Array, dict[str, Array]]]


def make_loss(
  model: Model,
  interpolant: Interpolant,
  objective: Objective,
  draws: DrawConfig,
  teacher: Callable[[PyTree], MarginalVelocity] | None,
) -> LossFn:
  """The loss and its terms, each a mean over the batch; the one place where the mean is taken.

  `teacher` takes the frozen parameters.
  """

  def loss(params, frozen, batch, key, step):
    per_example, terms = objective(
      model.velocity(params),
      interpolant,
      draw(key, batch, step, draws),
      step=step,
      teacher=None if teacher is None else teacher(frozen),
      weight=model.loss_weight,
      log_weight=None if model.log_weight is None else model.log_weight(params),
    )
    return jnp.mean(per_example), jax.tree.map(jnp.mean, terms)

  return loss


def make_train_step(loss: LossFn, optimizer: optax.GradientTransformation, seed: int):
  """(state, frozen, batch) -> (state, metrics). The key of a step is fold_in(key(seed), step)."""

  def train_step(state: TrainState, frozen: PyTree, batch: dict[str, Array]):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    step = state.step + 1  # counted from 1, so that "after warmup steps" is step > warmup
    (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(state.params, frozen, batch, key, step)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = {
      decay: ema_update(average, params, float(decay), state.step) for decay, average in state.ema.items()
    }
    metrics = {"loss": value, **terms, "grad_norm": optax.global_norm(grads)}
    return TrainState(step, params, opt_state, ema), metrics

  return train_step


def compile_step(train_step, state: TrainState, frozen: PyTree, batch: PyTree, mesh: Mesh):
  """`train_step` compiled for these arguments: batch split over the mesh, state donated."""
  whole, split = sharding.replicated(mesh), sharding.over_batch(mesh)
  shardings = {"in_shardings": (whole, whole, split), "out_shardings": (whole, whole)}
  return jax.jit(train_step, **shardings, donate_argnums=0).lower(state, frozen, batch).compile()
