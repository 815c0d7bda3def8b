"""Values and gradients of every term against finite differences with the targets of MATH 4 held constant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mfm_jax import glass
from mfm_jax.interpolants import Trigonometric, interpolate
from mfm_jax.losses import Draws, Objective
from mfm_jax.types import expand_like

pytestmark = pytest.mark.usefixtures("x64")
INTERPOLANT = Trigonometric()
SIZE, NULL = 6, 3
STEP = 1e-5  # of a central difference; its error is 1e-10 relative


def parameters():
  rng = np.random.default_rng(0)
  shapes = {"x": (2, 8), "x_t": (2, 8), "times": (4, 8), "label": (NULL + 1, 8), "w": (1, 8), "out": (8, 2)}
  return ravel_pytree({name: jnp.asarray(0.7 * rng.normal(size=shape)) for name, shape in shapes.items()})


def network(flat, unravel):
  """A smooth velocity with all inputs and parameters mixed."""
  p = unravel(flat)

  def velocity(s, u, x, t, x_t, cond):
    hidden = x @ p["x"] + x_t @ p["x_t"] + jnp.stack([s, u, s * u, t], -1) @ p["times"]
    if cond:
      hidden += p["label"][cond["label"]] + jnp.log(cond["guidance"])[:, None] @ p["w"]
    return jnp.tanh(hidden) @ p["out"]

  return velocity


def teacher(t, x, cond=None):
  label = 0.0 if cond is None else 0.3 * cond["label"]
  return jnp.sin(1.5 * x + expand_like(t + label, x))


def draws(guided):
  rng = np.random.default_rng(1)
  s, u = np.sort(rng.uniform(0.1, 0.9, (2, SIZE)), axis=0)
  arrays = {name: rng.normal(size=(SIZE, 2)) for name in ("x1", "n", "e_r", "e")}
  arrays |= {name: rng.uniform(size=SIZE) for name in ("t", "r", "g")}
  arrays = {name: jnp.asarray(value) for name, value in {**arrays, "s": s, "u": u}.items()}
  label = jnp.array([0, 1, NULL, 2, 1, 0]) if guided else None
  guidance = jnp.array([2.5, 1.0, 1.0, 4.0, 1.5, 2.5]) if guided else None
  return Draws(**arrays, label=label, guidance=guidance)


class Reference:
  """Each term as (prediction of any parameters, constant target), by hand and by finite differences."""

  def __init__(self, d, flat, unravel):
    self.d, self.flat, self.unravel = d, flat, unravel
    self.x_t = interpolate(INTERPOLANT, d.t, d.n, d.x1)

  def v(self, flat, s, u, x, cond="own"):
    cond = self.d.cond if cond == "own" else cond
    return network(flat, self.unravel)(s, u, x, self.d.t, self.x_t, cond)

  def glass(self, s, x):
    """The teacher at this scale: by two plain calls for every label and scale."""
    d = self.d

    def inner(label):
      cond = None if label is None else {"label": label}
      return glass.inner_velocity(teacher, INTERPOLANT, s, x, d.t, self.x_t, cond)

    if d.label is None:
      return inner(None)
    null = inner(jnp.full((SIZE,), NULL))
    return null + d.guidance[:, None] * (inner(d.label) - null)

  def data(self, s, noise):
    """dI_s/ds, guided."""
    d = self.d

    def at(s):
      return interpolate(INTERPOLANT, s, noise, d.x1)

    out = (at(s + STEP) - at(s - STEP)) / (2 * STEP)
    if d.label is None:
      return out
    null = {"label": jnp.full((SIZE,), NULL), "guidance": jnp.ones(SIZE)}
    x = at(s)
    gain = (1 - 1 / d.guidance)[:, None]
    return out + gain * (self.v(self.flat, s, s, x) - self.v(self.flat, s, s, x, null))

  def diagonal(self, name):
    d = self.d
    x = interpolate(INTERPOLANT, d.r, d.e_r, d.x1)
    target = self.data(d.r, d.e_r) if name == "data" else self.glass(d.r, x)
    return lambda flat: self.v(flat, d.r, d.r, x), target

  def consistency(self, name, form):
    s, u, g = self.d.s, self.d.u, self.d.g
    x = interpolate(INTERPOLANT, s, self.d.e, self.d.x1)

    def column(time):
      return time[:, None]

    def plain(flat):
      return self.v(flat, s, u, x)

    def now(*args):
      return self.v(self.flat, *args)

    if name == "semigroup":
      w = s + g * (u - s)
      first = now(s, w, x)
      second = now(w, u, x + column(w - s) * first)
      return plain, column(g) * first + column(1 - g) * second
    if name.startswith("lagrangian"):

      def end(flat, u):
        return x + column(u - s) * self.v(flat, s, u, x)

      def slope(flat):
        return (end(flat, u + STEP) - end(flat, u - STEP)) / (2 * STEP)

      def at_end(flat, x):
        return self.glass(u, x) if "teacher" in name else self.v(flat, u, u, x)

      if form == "published":
        return lambda flat: at_end(flat, end(flat, u)), slope(self.flat)
      target = at_end(self.flat, end(self.flat, u))
      if form == "cheap":
        return plain, target - column(u - s) * (now(s, u + STEP, x) - now(s, u - STEP, x)) / (2 * STEP)
      return slope, target
    c = {
      "eulerian": lambda: now(s, s, x),
      "eulerian_teacher": lambda: self.glass(s, x),
      "mean_flow": lambda: self.data(s, self.d.e),
    }[name]()
    ahead, behind = now(s + STEP, u, x + STEP * c), now(s - STEP, u, x - STEP * c)
    return plain, c + column(u - s) * (ahead - behind) / (2 * STEP)


FORMS = ["semigroup", "eulerian", "eulerian_teacher", "mean_flow"]
FORMS += [f"{name}-{form}" for name in ("lagrangian", "lagrangian_teacher") for form in ("tangent", "cheap")]
FORMS += ["lagrangian-published", "lagrangian_teacher-published"]


def terms(diagonal, name, guided, flat, unravel):
  """Mean loss and squared errors of our objective with the weight l2, and the reference's terms."""
  d, reference = draws(guided), Reference(draws(guided), flat, unravel)
  consistency, _, form = name.partition("-")
  objective = Objective(
    diagonal=diagonal,
    consistency=consistency,
    weighting="l2",
    lagrangian_form=form or "tangent",
    null_label=NULL,
  )

  def ours(flat):
    loss, errors = objective(network(flat, unravel), INTERPOLANT, d, teacher=teacher)
    return loss.mean(), errors

  by_hand = {"diagonal": reference.diagonal(diagonal)}
  if consistency != "none":
    by_hand["consistency"] = reference.consistency(consistency, form)
  return ours, by_hand


@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
@pytest.mark.parametrize(
  ("diagonal", "name"), [("data", "none"), ("teacher", "none"), *(("data", name) for name in FORMS)]
)
def test_value_and_gradient_are_those_of_a_constant_target(diagonal, name, guided):
  flat, unravel = parameters()
  ours, by_hand = terms(diagonal, name, guided, flat, unravel)
  (_, errors), gradient = jax.value_and_grad(ours, has_aux=True)(flat)
  for term, (prediction, target) in by_hand.items():
    expected = ((prediction(flat) - target) ** 2).mean(-1)
    assert expected.min() > 1e-6  # nothing is compared with zero
    np.testing.assert_allclose(errors[term], expected, rtol=1e-6)

  def frozen(flat):
    return sum(((p(flat) - target) ** 2).sum(-1).mean() for p, target in by_hand.values())

  for seed in range(3):
    direction = jnp.asarray(np.random.default_rng(seed).normal(size=flat.shape))
    step = 1e-4  # wider: where the prediction is itself a difference, its rounding is divided by this
    expected = (frozen(flat + step * direction) - frozen(flat - step * direction)) / (2 * step)
    np.testing.assert_allclose(gradient @ direction, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["lagrangian", "lagrangian_teacher"])
def test_the_three_lagrangian_forms_share_a_residual_and_no_gradient(name):
  flat, unravel = parameters()
  errors, gradients = [], []
  for form in ("tangent", "cheap", "published"):
    ours, _ = terms("data", f"{name}-{form}", False, flat, unravel)
    (_, error), gradient = jax.value_and_grad(ours, has_aux=True)(flat)
    errors.append(error["consistency"])
    gradients.append(gradient)
  np.testing.assert_allclose(errors[1], errors[0], rtol=1e-10)
  np.testing.assert_allclose(errors[2], errors[0], rtol=1e-10)
  for i, j in ((0, 1), (0, 2), (1, 2)):
    difference = jnp.linalg.norm(gradients[i] - gradients[j])
    assert difference > 0.05 * jnp.linalg.norm(gradients[i])


def test_nothing_flows_into_a_teacher():
  flat, unravel = parameters()
  d = draws(True)
  for diagonal, consistency in (("teacher", "eulerian_teacher"), ("teacher", "lagrangian_teacher")):
    objective = Objective(diagonal=diagonal, consistency=consistency, null_label=NULL)

    def loss(shift, objective=objective):
      def moved(t, x, cond):
        return teacher(t, x, cond) + shift

      return objective(network(flat, unravel), INTERPOLANT, d, teacher=moved)[0].mean()

    assert jax.grad(loss)(0.1) == 0.0
