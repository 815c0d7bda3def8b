"""The objective as a whole: every combination trains every network, warm-up, shapes, what it refuses."""

import functools

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
# The pairs that are run and not only lowered, which is most of this file's time.
RUN = {
  "mlp": [("data", "semigroup"), ("teacher", "mean_flow"), ("data", "lagrangian")],
  "vit": [("teacher", "eulerian_teacher")],
}


@functools.cache
def model_of(name):
  """(model, parameters, draws) of a network."""
  config, shape = NETWORKS[name]
  model = build(config, shape=shape, num_classes=3, guidance_scales=(2.5,), skip=SKIP)
  return model, jax.jit(model.init)(jax.random.key(0)), draws_of(shape)


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


def lowered(name, **choice):
  """The gradient step of an objective, lowered, and the arguments it takes."""
  model, params, draws = model_of(name)
  objective = Objective(null_label=3, **choice)
  step = jax.jit(jax.value_and_grad(mean_loss(objective, model), has_aux=True))
  return step.trace(params, draws, 1).lower(), (params, draws, 1)


def run(program, arguments):
  return program.compile()(*arguments)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("diagonal", DIAGONALS)
@pytest.mark.parametrize("consistency", [*CONSISTENCIES, "none"])
def test_any_diagonal_goes_with_any_consistency(name, diagonal, consistency):
  """Under jit with gradient: all are lowered, where a missing derivative shows; a selection is run."""
  program, arguments = lowered(name, diagonal=diagonal, consistency=consistency)
  (_, (per_example, errors)), gradient = program.out_info
  assert set(errors) == {"diagonal"} | ({"consistency"} if consistency != "none" else set())
  for values in (per_example, *errors.values()):
    assert values.shape == (6,)
    assert values.dtype == jnp.float32
  assert jax.tree.structure(gradient) == jax.tree.structure(arguments[0])
  if (diagonal, consistency) in RUN[name]:
    (_, (per_example, errors)), gradient = run(program, arguments)
    for leaf in jax.tree.leaves((per_example, errors, gradient)):
      assert jnp.isfinite(leaf).all()
    assert all((error > 0).any() for error in errors.values())
    for leaf in jax.tree.leaves(gradient["net"]):
      assert jnp.abs(leaf).max() > 0


def test_halves_of_a_batch_have_the_losses_of_the_whole():
  model, params, draws = model_of("mlp")
  loss = jax.jit(mean_loss(Objective(consistency="semigroup", null_label=3), model))
  value, (whole, _) = loss(params, draws, 1)
  halves = []
  for rows in (slice(3), slice(3, 6)):
    halves.append(loss(params, jax.tree.map(lambda leaf, rows=rows: leaf[rows], draws), 1))
  together = np.concatenate([per_example for _, (per_example, _) in halves])
  np.testing.assert_allclose(together, whole, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(value, np.mean([value for value, _ in halves]), rtol=1e-4)


def test_consistency_starts_after_the_warm_up():
  program, (params, draws, _) = lowered("mlp", consistency="semigroup", warmup=10)
  compiled = program.compile()
  before, at, after = (compiled(params, draws, step) for step in (1, 10, 11))
  alone, both = (run(*lowered("mlp", consistency=name)) for name in ("none", "semigroup"))

  def assert_same(actual, expected):
    """Loss and gradient."""
    np.testing.assert_allclose(actual[0][0], expected[0][0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), actual[1], expected[1])

  for result in (before, at):
    assert (result[0][1][1]["consistency"] == 0).all()
    assert_same(result, alone)
  assert_same(after, both)
  assert both[0][0] > alone[0][0]
  # Near 1e-8 at the start, a difference of nearly equal numbers.
  np.testing.assert_allclose(after[0][1][1]["consistency"], both[0][1][1]["consistency"], rtol=0.05)


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
