"""The train step and the held-out loss, as pure functions, and their compilation."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mfm_jax.interpolants import Interpolant
from mfm_jax.losses import DrawConfig, Objective, draw
from mfm_jax.models import Model
from mfm_jax.training import averages, sharding
from mfm_jax.training.sharding import MeshConfig
from mfm_jax.training.state import TrainState
from mfm_jax.types import Array, MarginalVelocity, PRNGKey, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Loss:
  """A loss in two halves, the randomness and what is computed from it: (params, frozen, batch, key, step).

  Attributes:
    draw: (key, batch, step) -> the batch with its noise; each leaf has the examples along its first axis.
    of: (params, frozen, draws, step) -> (loss, terms), means over the examples. `frozen` are other
      parameters that the loss reads, such as a teacher's: an argument, because a compiled program would hold
      a copy of each constant.
  """

  draw: Callable[[PRNGKey, dict[str, Array], Array], PyTree]
  of: Callable[[PyTree, PyTree, PyTree, Array], tuple[Array, dict[str, Array]]]

  def __call__(self, params, frozen, batch, key, step):
    return self.of(params, frozen, self.draw(key, batch, step), step)


def make_loss(
  model: Model,
  interpolant: Interpolant,
  objective: Objective,
  draws: DrawConfig,
  teacher: Callable[[PyTree], MarginalVelocity] | None,
) -> Loss:
  """The loss and its terms, each a mean over the batch; the one place where the mean is taken.

  `teacher` takes the frozen parameters.
  """

  def loss(params, frozen, drawn, step):
    per_example, terms = objective(
      model.velocity(params),
      interpolant,
      drawn,
      step=step,
      teacher=None if teacher is None else teacher(frozen),
      weight=model.loss_weight,
      log_weight=None if model.log_weight is None else model.log_weight(params),
    )
    return jnp.mean(per_example), jax.tree.map(jnp.mean, terms)

  return Loss(draw=lambda key, batch, step: draw(key, batch, step, draws), of=loss)


def make_train_step(
  loss: Loss,
  optimizer: optax.GradientTransformation,
  seed: int,
  *,
  accumulate: int = 1,
  mesh: Mesh | None = None,
):
  """(state, frozen, batch) -> (state, metrics). The key of a step is fold_in(key(seed), step).

  A step with a loss, term or gradient that is not finite changes nothing but the count of steps; its metric
  "skipped" is 1.

  Args:
    loss: of the parameters.
    optimizer: of the run.
    seed: of the run.
    accumulate: parts that a batch is worked through in, one after the other; the noise is the same for any.
    mesh: that the state is split over; None for one device.
  """

  def train_step(state: TrainState, frozen: PyTree, batch: dict[str, Array]):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    step = state.step + 1  # counted from 1, so that "after warmup steps" is step > warmup
    draws = loss.draw(key, batch, step)
    params, frozen = sharding.whole(state.params, mesh), sharding.whole(frozen, mesh)
    (value, terms), grads = _gradients(loss, params, frozen, draws, step, accumulate)
    metrics = {"loss": value, **terms, "grad_norm": optax.tree.norm(grads)}
    finite = jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = {name: averages.update(own, params, name, state.step) for name, own in state.ema.items()}
    new = TrainState(step, params, opt_state, ema)
    new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state._replace(step=step))
    return new, {**metrics, "skipped": 1.0 - finite}

  return train_step


def _gradients(loss: Loss, params, frozen, draws, step, parts: int):
  """((loss, terms), gradients), means over the examples, of one part of them at a time."""
  gradient = jax.value_and_grad(loss.of, has_aux=True)
  if parts == 1:
    return gradient(params, frozen, draws, step)
  # Part i has the examples i, i + parts, ...: those that are on a device stay there.
  split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), draws)

  def add(total, part):
    return jax.tree.map(jnp.add, total, gradient(params, frozen, part, step)), None

  first = jax.tree.map(lambda x: x[0], split)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, params, frozen, first, step)
  )
  total, _ = jax.lax.scan(add, zeros, split)
  return jax.tree.map(lambda x: x / parts, total)


def compile_step(
  train_step, state: TrainState, frozen: PyTree, batch: PyTree, mesh: Mesh, config: MeshConfig
):
  """`train_step` compiled for these arguments: batch split over the mesh, state and frozen by the rules."""
  places, split = sharding.by_rules(state, mesh, config), sharding.over_batch(mesh)
  compiled = jax.jit(
    train_step,
    in_shardings=(places, sharding.by_rules(frozen, mesh, config), split),
    out_shardings=(places, sharding.replicated(mesh)),
    donate_argnums=0,
  )
  return compiled.lower(state, frozen, batch).compile()
