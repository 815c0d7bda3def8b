"""The objective as a whole: every combination trains every network, warm-up, shapes, what it refuses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.interpolants import Linear
from mfm_jax.losses import CONSISTENCIES, DIAGONALS, DrawConfig, Objective, draw
from mfm_jax.models import ModelConfig, build
from mfm_jax.precondition import GaussianSkip

SKIP = GaussianSkip(interpolant=Linear(), data_std=0.5)
DRAWS = DrawConfig(num_classes=3, guidance_scales=(2.5,))
NETWORKS = {
  "mlp": (ModelConfig(name="mlp", width=8, depth=1, learned_weight=True), (2,)),
  "vit": (ModelConfig(name="vit", width=8, depth=1, heads=2, patch=2), (4, 4, 1)),
}
# These programs run once: what the compiler would save is less than what it takes.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def quick_jit(f):
  return jax.jit(f, compiler_options=QUICK if jax.default_backend() == "cpu" else None)


def model_of(name):
  config, shape = NETWORKS[name]
  return build(config, shape=shape, num_classes=3, guided=True, skip=SKIP), shape


def draws_of(shape, n=6, seed=0):
  rng = np.random.default_rng(seed)
  x1 = jnp.asarray(rng.normal(size=(n, *shape)), jnp.float32)
  batch = {"x1": x1, "label": jnp.asarray(rng.integers(3, size=n))}
  return draw(jax.random.key(seed), batch, 1, DRAWS)


def teacher(t, x, cond=None):
  return jnp.sin(x) + 0.1 * cond["label"].reshape((-1,) + (1,) * (x.ndim - 1))


def mean_loss(objective, model, **kwargs):
  def loss(params, draws, step):
    per_example, errors = objective(
      model.velocity(params),
      Linear(),
      draws,
      step=step,
      teacher=teacher,
      weight=model.loss_weight,
      log_weight=None if model.log_weight is None else model.log_weight(params),
      **kwargs,
    )
    return per_example.mean(), (per_example, errors)

  return loss


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("diagonal", "consistency"), itertools.product(DIAGONALS, (*CONSISTENCIES, "none")))
def test_any_diagonal_goes_with_any_consistency(name, diagonal, consistency):
  model, shape = model_of(name)
  objective = Objective(diagonal=diagonal, consistency=consistency, null_label=3)
  params, draws = model.init(jax.random.key(0)), draws_of(shape)
  step = quick_jit(jax.value_and_grad(mean_loss(objective, model), has_aux=True))
  (_, (per_example, errors)), gradient = step(params, draws, 1)
  terms = {"diagonal"} | ({"consistency"} if consistency != "none" else set())
  assert set(errors) == terms
  for values in (per_example, *errors.values()):
    assert values.shape == (6,)
    assert values.dtype == jnp.float32
    assert jnp.isfinite(values).all()
  assert all((error > 0).any() for error in errors.values())
  for leaf in jax.tree.leaves(gradient):
    assert jnp.isfinite(leaf).all()
  assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["net"]["out"]))


@pytest.mark.parametrize("form", ["cheap", "published"])
@pytest.mark.parametrize("consistency", ["lagrangian", "lagrangian_teacher"])
def test_every_lagrangian_form_trains_the_network_off_the_diagonal(consistency, form):
  """More than the diagonal term alone would."""
  model, shape = model_of("mlp")
  draws, params = draws_of(shape), model.init(jax.random.key(0))
  gradients = []
  for name in (consistency, "none"):
    objective = Objective(consistency=name, lagrangian_form=form, weighting="l2", null_label=3)
    gradient, _ = quick_jit(jax.grad(mean_loss(objective, model), has_aux=True))(params, draws, 1)
    gradients.append(gradient["net"])
  difference = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), *gradients)
  assert all(leaf > 0 for leaf in jax.tree.leaves(difference["out"]))
  assert all(leaf > 0 for leaf in jax.tree.leaves(difference["context"]))


@pytest.mark.parametrize("weighting", ["l2", "adaptive", "log"])
def test_halves_of_a_batch_have_the_losses_of_the_whole(weighting):
  model, shape = model_of("mlp")
  objective = Objective(consistency="eulerian", weighting=weighting, null_label=3)
  params, draws = model.init(jax.random.key(1)), draws_of(shape)
  loss = quick_jit(mean_loss(objective, model))
  value, (whole, _) = loss(params, draws, 1)
  halves = [
    loss(params, jax.tree.map(lambda leaf, rows=rows: leaf[rows], draws), 1)
    for rows in (slice(3), slice(3, 6))
  ]
  np.testing.assert_allclose(
    np.concatenate([per_example for _, (per_example, _) in halves]), whole, rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(value, np.mean([value for value, _ in halves]), rtol=1e-4)


def test_consistency_starts_after_the_warm_up():
  model, shape = model_of("mlp")
  params, draws = model.init(jax.random.key(0)), draws_of(shape)

  def run(warmup, consistency, steps):
    objective = Objective(consistency=consistency, warmup=warmup, null_label=3)
    step_of = quick_jit(jax.value_and_grad(mean_loss(objective, model), has_aux=True))
    return [step_of(params, draws, step) for step in steps]

  before, at, after = run(10, "semigroup", (1, 10, 11))
  (alone,), (both,) = run(0, "none", (1,)), run(0, "semigroup", (1,))
  for result in (before, at):
    assert (result[0][1][1]["consistency"] == 0).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), result[1], alone[1])
    np.testing.assert_allclose(result[0][0], alone[0][0], rtol=1e-5)
  np.testing.assert_allclose(after[0][0], both[0][0], rtol=1e-5)
  np.testing.assert_allclose(after[0][1][1]["consistency"], both[0][1][1]["consistency"], rtol=1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after[1], both[1])


def test_reported_errors_are_unweighted_means_over_the_coordinates():
  """A loss weight and a learned variance change the loss alone."""
  x1 = jnp.zeros((4, 3))
  draws = draw(jax.random.key(0), {"x1": x1}, 1, DrawConfig())

  def zero(s, u, x, t, x_t, cond):
    return jnp.zeros_like(x)

  objective = Objective(consistency="none", weighting="l2")
  loss, errors = objective(
    zero, Linear(), draws, weight=lambda s, t: 2.0 + 0.0 * s, log_weight=lambda s, u, t: jnp.ones_like(s)
  )
  expected = (draws.e_r**2).mean(-1)  # dI = x1 - e_r on a prediction of 0
  np.testing.assert_allclose(errors["diagonal"], expected, rtol=1e-6)
  np.testing.assert_allclose(loss, 2.0 * 3 * expected * np.exp(-1.0) + 1.0, rtol=1e-5)


def test_weights_are_asked_at_the_times_of_their_term():
  draws = draw(jax.random.key(0), {"x1": jnp.zeros((4, 3))}, 1, DrawConfig())

  def zero(s, u, x, t, x_t, cond):
    return jnp.zeros_like(x)

  seen = []
  Objective(consistency="semigroup")(
    zero,
    Linear(),
    draws,
    weight=lambda s, t: seen.append((s, t)) or jnp.ones_like(s),
    log_weight=lambda s, u, t: seen.append((s, u, t)) or jnp.zeros_like(s),
  )
  d = draws
  expected = [(d.r, d.t), (d.r, d.r, d.t), (d.s, d.t), (d.s, d.u, d.t)]
  for times, wanted in zip(seen, expected, strict=True):
    for time, want in zip(times, wanted, strict=True):
      np.testing.assert_array_equal(time, want)


@pytest.mark.parametrize(
  "choice",
  [{"diagonal": "teacher"}, {"consistency": "eulerian_teacher"}, {"consistency": "lagrangian_teacher"}],
)
def test_a_missing_teacher_is_refused(choice):
  objective = Objective(**choice)
  assert objective.needs_teacher
  (named,) = choice.values()
  with pytest.raises(ValueError, match=f"a teacher is needed by .*{named}.*; got None"):
    objective(teacher, Linear(), draws_of((2,)))


def test_without_a_teacher_form_none_is_needed():
  for consistency in ("semigroup", "eulerian", "mean_flow", "lagrangian", "none"):
    assert not Objective(consistency=consistency).needs_teacher


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"diagonal": "date"}, "diagonal must be one of data, teacher; got 'date'"),
    ({"consistency": "shortcut"}, "consistency must be one of semigroup, .*none; got 'shortcut'"),
    ({"weighting": "huber"}, "weighting must be one of l2, adaptive, log; got 'huber'"),
    ({"lagrangian_form": "fast"}, "lagrangian_form must be one of tangent, cheap, published; got 'fast'"),
    ({"offset": 0.0}, "offset must be at least 1e-12; got 0.0"),
    ({"diagonal_power": -1.0}, "diagonal_power must be at least 0; got -1.0"),
    ({"warmup": -1}, "warmup must be at least 0; got -1"),
  ],
)
def test_bad_objectives_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    Objective(**changes)
