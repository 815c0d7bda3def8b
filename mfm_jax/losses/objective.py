"""The training objective: one diagonal term plus one consistency term, any with any (MATH 4)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mfm_jax import checks, glass
from mfm_jax.interpolants import Interpolant, interpolate, interpolate_dot
from mfm_jax.losses import consistency, guidance, weighting
from mfm_jax.losses.draws import Draws
from mfm_jax.types import Array, MarginalVelocity, Velocity

DIAGONALS = ("data", "teacher")
CONSISTENCIES = (
  "semigroup",
  "eulerian",
  "eulerian_teacher",
  "mean_flow",
  "lagrangian",
  "lagrangian_teacher",
)
LogWeight = Callable[[Array, Array, Array], Array]  # (s, u, t) -> W, all (B,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """Which terms, how weighted. Call it: `objective(velocity, interpolant, draws, ...)`."""

  diagonal: str = "data"
  consistency: str = "semigroup"  # or "none": a plain flow
  weighting: str = "adaptive"
  diagonal_power: float = 0.5
  consistency_power: float = 1.0
  offset: float = 0.01
  warmup: int = 0  # the diagonal alone up to and including this step
  lagrangian_form: str = "tangent"
  freeze_target: bool = True  # False: see `losses.consistency`
  teacher_guidance: float = 1.0  # scale of the guidance that is built into the teacher's labelled velocity
  teacher_interval: tuple[float, ...] = (0.0, 1.0)  # times of the teacher in which the target is guided
  # Of the data, not a key of a configuration.
  null_label: int = dataclasses.field(default=0, metadata={"derived": True})

  def __post_init__(self):
    checks.one_of("diagonal", self.diagonal, DIAGONALS)
    checks.one_of("consistency", self.consistency, (*CONSISTENCIES, "none"))
    checks.one_of("weighting", self.weighting, weighting.WEIGHTINGS)
    checks.one_of("lagrangian_form", self.lagrangian_form, consistency.LAGRANGIAN_FORMS)
    for name in ("diagonal_power", "consistency_power", "warmup"):
      checks.at_least(name, getattr(self, name), 0)
    checks.at_least("teacher_guidance", self.teacher_guidance, 1.0)
    checks.shape("teacher_interval", self.teacher_interval, (2,))
    checks.in_interval("teacher_interval", self.teacher_interval)
    checks.ordered("teacher_interval[0]", self.teacher_interval[0], "[1]", self.teacher_interval[1])
    checks.at_least("offset", self.offset, 1e-12)  # 0 would make the weight of a zero error infinite

  @property
  def needs_teacher(self) -> bool:
    """Whether a teacher must be given."""
    return self.diagonal == "teacher" or self.consistency.endswith("_teacher")

  def __call__(
    self,
    velocity: Velocity,
    interpolant: Interpolant,
    draws: Draws,
    *,
    step: Array | int = 0,
    teacher: MarginalVelocity | None = None,
    weight: Callable[[Array, Array], Array] | None = None,
    log_weight: LogWeight | None = None,
  ) -> tuple[Array, dict[str, Array]]:
    """The loss of every example.

    Args:
      velocity: the network.
      interpolant: of the context and of the inner path.
      draws: one batch (see `draw`).
      step: training step, for the warm-up.
      teacher: marginal velocity of a frozen flow, for the teacher forms.
      weight: factor of the squared errors, (s, t) -> (B,) (MATH 9).
      log_weight: learned log-variance W(s, u, t).

    Returns:
      (loss (B,), {"diagonal": (B,), "consistency": (B,)}), the latter squared errors per coordinate
      before weighting.

    Raises:
      ValueError: a teacher form without a teacher.
    """
    if self.needs_teacher and teacher is None:
      raise ValueError(
        f"a teacher is needed by diagonal={self.diagonal}, consistency={self.consistency}; got None"
      )
    terms = _Terms(velocity, interpolant, draws, teacher, self)
    size = draws.x1[0].size

    def loss_of(pair, s, u, power):
      delta = weighting.squared_error(*pair)
      scaled = delta if weight is None else delta * weight(s, draws.t)
      loss = weighting.weighted(
        scaled,
        kind=self.weighting,
        size=size,
        power=power,
        offset=self.offset,
        log_variance=None if log_weight is None else log_weight(s, u, draws.t),
      )
      return loss, delta / size

    loss, error = loss_of(terms.diagonal(), draws.r, draws.r, self.diagonal_power)
    if self.consistency == "none":
      return loss, {"diagonal": error}

    def consistency_loss():
      return loss_of(terms.consistency(), draws.s, draws.u, self.consistency_power)

    def no_loss():
      return jnp.zeros_like(loss), jnp.zeros_like(error)

    if self.warmup:
      extra, extra_error = jax.lax.cond(step > self.warmup, consistency_loss, no_loss)
    else:
      extra, extra_error = consistency_loss()
    return loss + extra, {"diagonal": error, "consistency": extra_error}


@dataclasses.dataclass(frozen=True)
class _Terms:
  """The context of one batch bound to the network and the teacher."""

  velocity: Velocity
  interpolant: Interpolant
  draws: Draws
  teacher: MarginalVelocity | None
  config: Objective

  @property
  def x_t(self):
    return self.draws.context(self.interpolant)

  def mean(self, s, u, x):
    return self.velocity(s, u, x, self.draws.t, self.x_t, self.draws.cond)

  def own(self, s, x):
    return self.mean(s, s, x)

  def from_teacher(self, s, x):
    """GLASS(teacher). Not frozen here: the published Lagrangian form has its gradient through x."""
    d, (first, last) = self.draws, self.config.teacher_interval
    assert self.teacher is not None  # `__call__` has checked it
    guided = guidance.guided_teacher(
      self.teacher,
      self.config.null_label,
      trained_scale=self.config.teacher_guidance,
      interval=(first, last),
    )
    return glass.inner_velocity(guided, self.interpolant, s, x, d.t, self.x_t, d.cond)

  def from_data(self, s, noise, x):
    """dI_s/ds, plus model guidance where scales are trained (MATH 5.1)."""
    d = self.draws
    target = interpolate_dot(self.interpolant, s, noise, d.x1)
    if d.guidance is None:
      return target
    return target + guidance.model_guidance(
      self.velocity, s, x, d.t, self.x_t, d.cond, self.config.null_label
    )

  def diagonal(self):
    """Prediction and target of MATH 4.1 or 4.2."""
    d = self.draws
    x = interpolate(self.interpolant, d.r, d.e_r, d.x1)
    if self.config.diagonal == "teacher":
      return self.own(d.r, x), jax.lax.stop_gradient(self.from_teacher(d.r, x))  # MATH 4.2
    return self.own(d.r, x), self.from_data(d.r, d.e_r, x)

  def consistency(self):
    """Prediction and target of the chosen form of MATH 4.3-4.8."""
    d, form, freeze = self.draws, self.config.consistency, self.config.freeze_target
    x = interpolate(self.interpolant, d.s, d.e, d.x1)
    if form == "semigroup":
      return consistency.semigroup(self.mean, d.s, d.u, x, d.g, freeze=freeze)
    if form.startswith("lagrangian"):
      inner = self.own if form == "lagrangian" else self.from_teacher
      how = self.config.lagrangian_form
      return consistency.lagrangian(self.mean, d.s, d.u, x, inner, how, freeze=freeze)
    inner = {
      "eulerian": lambda: self.own(d.s, x),
      "eulerian_teacher": lambda: self.from_teacher(d.s, x),
      "mean_flow": lambda: self.from_data(d.s, d.e, x),
    }[form]()
    return consistency.eulerian(self.mean, d.s, d.u, x, inner, freeze=freeze)
