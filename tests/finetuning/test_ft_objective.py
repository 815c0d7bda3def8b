"""The fine-tuning loss: its fixed point on closed forms, its weights, its terms, what it refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import interpolants, oracles
from mfm_jax.finetuning.draws import FTDrawConfig, FTDraws, draw
from mfm_jax.finetuning.objective import LOG_WEIGHT_MAX, FTObjective, log_mean_of_others, tilt_weight
from mfm_jax.interpolants import Linear, Trigonometric
from mfm_jax.rewards import likelihoods

PRIOR = oracles.paper_mixture()
REWARD = likelihoods.broad_quadratic()
TILT = REWARD.matrix, REWARD.observed, REWARD.sigma


def draws_at(key, t, per_state):
  """FTDraws of the paper's mixture at the times t (B,)."""
  key_x, key_n, key_e = jax.random.split(key, 3)
  n = len(t)
  return FTDraws(
    x1=oracles.sample(key_x, PRIOR, n),
    t=t,
    n=jax.random.normal(key_n, (n, 2)),
    e=jax.random.normal(key_e, (n, per_state, 2)),
    label=None,
    guidance=None,
  )


def fixed_point(interpolant, half=None):
  """v + (sigma^2/2) grad V in closed form, as a marginal velocity; `half` in place of the exact sigma^2/2."""

  def marginal(t, x, cond=None):
    gain = interpolants.half_sigma_squared(interpolant, t) if half is None else jnp.full_like(t, half)
    gradient = oracles.grad_value(PRIOR, interpolant, t, x, *TILT)
    return oracles.velocity(PRIOR, interpolant, t, x) + gain[:, None] * gradient

  return marginal


@pytest.mark.parametrize(
  ("interpolant", "objective"),
  [
    (Linear(), FTObjective()),
    (Linear(), FTObjective(shift="-1.5", sigma_squared=3.0)),
    (Trigonometric(), FTObjective()),
  ],
  ids=["auto", "numbers", "trigonometric"],
)
def test_the_closed_form_is_the_fixed_point(interpolant, objective):
  """At v_ft = v + sigma^2/2 grad V the mean of the target over draws is v_ft itself, at 32 states."""
  states, groups, per_state = 32, 1024, 2
  t = jnp.linspace(0.02, 0.97, states)
  base = oracles.as_velocity(PRIOR, interpolant, 8)
  marginal = fixed_point(interpolant, objective.sigma_squared / 2 or None)
  drawn = draws_at(jax.random.key(0), t, 1)

  @jax.jit
  def error(key):
    """v_ft - target (states, 2), from the gradient of the loss in an offset of v_ft."""
    own = drawn._replace(e=jax.random.normal(key, (states, per_state, 2)))

    def total(offset):
      return objective(lambda t, x, cond: marginal(t, x, cond) + offset, base, interpolant, own, REWARD)[
        0
      ].sum()

    return 0.5 * jax.grad(total)(jnp.zeros((states, 2)))

  errors = np.asarray(jax.lax.map(error, jax.random.split(jax.random.key(1), groups)), np.float64)
  se = errors.std(0, ddof=1) / np.sqrt(groups)
  assert (np.abs(errors.mean(0)) < 4 * se).all()
  # The check is sharp: within a few per cent of the steering for most states, at the least.
  steering = jax.jit(lambda t, x: marginal(t, x) - oracles.velocity(PRIOR, interpolant, t, x))(
    t, drawn.state(interpolant)
  )
  assert np.median(se / np.abs(steering)) < 0.1


def linear_case():
  """A map X_{0,1}(e; t, x_t) = m t x_t + e with reward g . x: R and its gradient by hand."""
  rng = np.random.default_rng(0)
  direction = jnp.asarray(rng.normal(size=2), jnp.float32)

  def base(s, u, x_s, t, x_t, cond):
    return (1.5 * t)[:, None] * x_t + 0.0 * x_s

  def reward(x, cond):
    return (x * direction[None]).sum(-1)

  return base, reward, direction


@pytest.mark.parametrize("per_state", [1, 3])
def test_the_target_by_hand(per_state):
  """MATH 7.1 in NumPy for a linear map and reward, with a numerical shift and a constant sigma^2."""
  base, reward, direction = linear_case()
  drawn = draws_at(jax.random.key(2), jnp.array([0.2, 0.5, 0.9]), per_state)

  def marginal(t, x, cond):
    return jnp.sin(x) + t[:, None]

  objective = FTObjective(shift="0.7", sigma_squared=5.0)
  loss, terms = objective(marginal, base, Linear(), drawn, reward)

  t, e, g = (np.asarray(value, np.float64) for value in (drawn.t, drawn.e, direction))
  x_t = (1 - t)[:, None] * np.asarray(drawn.n, np.float64) + t[:, None] * np.asarray(drawn.x1, np.float64)
  x1 = e + (1.5 * t)[:, None, None] * x_t[:, None]
  weight = np.exp(x1 @ g - 0.7)
  gradient = (weight[..., None] * (1.5 * t)[:, None, None] * g).mean(1)
  v_base, v_ft = 0.0 * x_t, np.sin(x_t) + t[:, None]
  shift = (weight.mean(1) - 1.0)[:, None] * (v_ft - v_base)
  target = v_base - shift + 2.5 * gradient
  np.testing.assert_allclose(loss, ((v_ft - target) ** 2).sum(1), rtol=1e-4)
  np.testing.assert_allclose(terms["reward"], (x1 @ g).mean(1), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(terms["weight"], weight.mean(1), rtol=1e-4)
  np.testing.assert_allclose(terms["shift"], (shift**2).mean(1), rtol=1e-4)
  np.testing.assert_allclose(terms["steering"], ((2.5 * gradient) ** 2).mean(1), rtol=1e-4)


def test_the_target_is_frozen():
  """Only the prediction has a gradient: 2 (v_ft - target), though v_ft is in the target, too."""
  base, reward, _ = linear_case()
  drawn = draws_at(jax.random.key(3), jnp.array([0.3, 0.6]), 2)

  def loss(scale):
    return FTObjective()(lambda t, x, cond: scale * x, base, Linear(), drawn, reward)[0].sum()

  def residual(scale):
    """The same with the target at scale 1 and the prediction at `scale`."""
    x = drawn.state(Linear())
    weight, gradient, _ = tilt_weight(base, drawn.t, x, drawn.e, reward)
    v_base = base(drawn.t, drawn.t, x, 0.0 * drawn.t, 0.0 * x, None)
    half = interpolants.half_sigma_squared(Linear(), drawn.t)[:, None]
    target = v_base - (weight - 1.0)[:, None] * (x - v_base) + half * gradient
    return ((scale * x - target) ** 2).sum()

  ours, theirs = (jax.jit(jax.grad(f))(1.0) for f in (loss, residual))
  np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def brute_shift(rewards):
  """The mean of exp over the others, draw by draw."""
  batch, n = rewards.shape
  weights, out = np.exp(rewards), np.zeros(rewards.shape)
  for b in range(batch):
    for i in range(n):
      own = [weights[b, j] for j in range(n) if j != i]
      other = [weights[c, j] for c in range(batch) if c != b for j in range(n)]
      out[b, i] = np.mean([np.mean(part) for part in (own, other) if part])
  return np.log(out)


@pytest.mark.parametrize("shape", [(4, 3), (5, 1), (1, 4), (2, 2)])
def test_the_shift_is_the_mean_over_other_draws(shape):
  rewards = np.random.default_rng(0).normal(size=shape) * 3
  np.testing.assert_allclose(
    log_mean_of_others(jnp.asarray(rewards, jnp.float32)), brute_shift(rewards), rtol=1e-4, atol=1e-5
  )


def test_the_shift_of_a_draw_does_not_depend_on_it():
  """This is what keeps the fixed point: the factor and the draw that it multiplies are independent."""
  rewards = jax.random.normal(jax.random.key(4), (3, 4))
  slopes = jax.jit(jax.jacobian(log_mean_of_others))(rewards)
  own = np.einsum("bibi->bi", np.asarray(slopes))
  np.testing.assert_array_equal(own, 0.0)
  assert (np.asarray(slopes).sum((2, 3)) > 0.99).all()


def test_no_reward_is_too_large():
  """exp(r) alone would be infinite: rewards about 1e3 with a factor of e^50 between them."""
  base, _, _ = linear_case()
  drawn = draws_at(jax.random.key(5), jnp.array([0.3, 0.6, 0.9]), 2)

  def loss(offset, scale):
    return FTObjective()(
      lambda t, x, cond: 0.0 * x, base, Linear(), drawn, lambda x, cond: scale * x.sum(-1) + offset
    )[0]

  np.testing.assert_allclose(loss(1000.0, 1.0), loss(0.0, 1.0), rtol=1e-2)
  np.testing.assert_allclose(loss(-1000.0, 1.0), loss(0.0, 1.0), rtol=1e-2)
  assert np.isfinite(loss(0.0, 50.0)).all()


def test_weights_are_bounded():
  base, reward, _ = linear_case()
  drawn = draws_at(jax.random.key(6), jnp.array([0.5]), 1)
  x = drawn.state(Linear())
  weight, gradient, rewards = tilt_weight(base, drawn.t, x, drawn.e, reward, shift="-500")
  np.testing.assert_allclose(weight, np.exp(LOG_WEIGHT_MAX), rtol=1e-5)
  assert rewards.shape == (1, 1)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize("shift", ["auto", "0.3"])
def test_draws_whose_reward_is_not_finite_are_left_out(shift):
  """A reward and gradient that are NaN for the last draw of every state: as if there were one draw less."""
  base, reward, _ = linear_case()
  drawn = draws_at(jax.random.key(8), jnp.array([0.3, 0.6]), 3)
  marked = drawn._replace(e=drawn.e.at[:, 2].add(1e3))
  broken = lambda x, cond: reward(x, cond) + 0.0 * jnp.sqrt(100.0 - x[:, 0])  # noqa: E731
  objective = FTObjective(shift=shift)
  marginal = lambda t, x, cond: jnp.sin(x)  # noqa: E731
  loss, terms = objective(marginal, base, Linear(), marked, broken)
  np.testing.assert_allclose(terms["invalid"], 1 / 3, rtol=1e-6)
  if shift != "auto":  # whose factor counts the draws
    fewer = objective(marginal, base, Linear(), drawn._replace(e=drawn.e[:, :2]), reward)
    np.testing.assert_allclose(loss, fewer[0], rtol=1e-4)
    np.testing.assert_allclose(terms["reward"], fewer[1]["reward"], rtol=1e-4)
  assert np.isfinite(loss).all()
  none, terms = objective(marginal, base, Linear(), drawn, lambda x, cond: jnp.nan * x[:, 0])
  np.testing.assert_allclose(none, 0.0, atol=1e-9)
  np.testing.assert_array_equal(terms["invalid"], 1.0)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_draws_in_chunks_are_the_same_draws(chunk):
  e = jnp.linspace(-1.0, 2.0, 3 * 4 * 2).reshape(3, 4, 2)
  x, t = jnp.linspace(-0.5, 0.5, 6).reshape(3, 2), jnp.array([0.2, 0.5, 0.8])
  arguments = lambda s, u, x_s, t, x_t, cond: jnp.sin(x_t) - x_s / 2, t, x, e
  reward = lambda x, cond: jnp.where(x[:, 0] > 1.2, jnp.nan, jnp.cos(x).sum(1))  # noqa: E731
  found = tilt_weight(*arguments, reward, chunk=chunk)
  for part, expected in zip(found, tilt_weight(*arguments, reward), strict=True):
    np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-6)
  assert 0 < jnp.isnan(found[2]).sum() < 12


def test_decode_and_cond_reach_the_reward():
  base, _, _ = linear_case()
  drawn = draws_at(jax.random.key(7), jnp.array([0.3, 0.6]), 3)._replace(label=jnp.array([1, 2]))

  def reward(x, cond):
    return 0.1 * x.sum(-1) * cond["label"]

  found = tilt_weight(
    base, drawn.t, drawn.state(Linear()), drawn.e, reward, drawn.cond, decode=lambda x: 2.0 * x
  )
  x1 = drawn.e + ((1.5 * drawn.t)[:, None] * drawn.state(Linear()))[:, None]
  np.testing.assert_allclose(found[2], 0.2 * x1.sum(-1) * drawn.label[:, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: FTObjective(shift="many"), "loss.shift must be auto or a finite number; got 'many'"),
    (lambda: FTObjective(shift="inf"), "loss.shift must be auto or a finite number; got 'inf'"),
    (lambda: FTObjective(sigma_squared=-1.0), "loss.sigma_squared must be at least 0; got -1.0"),
    (lambda: FTDrawConfig(per_state=0), "draws.per_state must be at least 1; got 0"),
    (lambda: FTDrawConfig(t_min=-0.1), "draws.t_min must lie in"),
    (lambda: FTDrawConfig(t_max=1.1), "draws.t_max must lie in"),
    (lambda: FTDrawConfig(t_min=0.5, t_max=0.5), "draws.t_min < draws.t_max must hold; got 0.5, 0.5"),
    (lambda: FTDrawConfig(label_dropout=2.0), "draws.label_dropout must lie in"),
    (
      lambda: FTDrawConfig(label_dropout=1.0, guidance=2.0),
      "draws.guidance must be 1 where no label is trained",
    ),
    (lambda: log_mean_of_others(jnp.zeros((1, 1))), "for loss.shift=auto must be at least 2; got 1"),
  ],
)
def test_mistakes(make, message):
  with pytest.raises(ValueError, match=message):
    make()


# ---- draws ----


def test_draws_follow_their_laws():
  config = FTDrawConfig(
    per_state=3, t_min=0.2, t_max=0.6, label_dropout=0.25, guidance=2.5, num_classes=10, guided=True
  )
  n = 4000
  batch = {"x1": jnp.arange(2.0 * n).reshape(n, 2), "label": jnp.arange(n) % 10}
  found = draw(jax.random.key(0), batch, config)
  assert found.e.shape == (n, 3, 2)
  assert 0.2 <= found.t.min() < 0.21
  assert 0.59 < found.t.max() <= 0.6
  dropped = np.asarray(found.label) == 10
  assert abs(dropped.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / n)
  np.testing.assert_array_equal(found.label[~dropped], batch["label"][~dropped])
  np.testing.assert_array_equal(found.guidance, np.where(dropped, 1.0, 2.5))
  for noise in (found.n, found.e[:, 0], found.e[:, 1]):
    assert abs(float(noise.mean())) < 4 / np.sqrt(2 * n)
  assert abs(float((found.e[:, 0] * found.e[:, 1]).mean())) < 4 / np.sqrt(2 * n)
  expected = (1 - found.t)[:, None] * found.n + found.t[:, None] * batch["x1"]
  np.testing.assert_allclose(found.state(Linear()), expected, rtol=1e-6)
  assert set(found.cond) == {"label", "guidance"}


def test_without_labels_there_is_no_conditioning():
  found = draw(jax.random.key(0), {"x1": jnp.zeros((4, 2)), "label": jnp.zeros(4, int)}, FTDrawConfig())
  assert found.cond is None


# ---- the published code ----


@pytest.mark.parametrize("name", ["01_constant", "02_schedule_lambda", "03_constant_big"])
def test_published_terms(golden, name):
  """What the recorded arrays determine without a transformer, which R and its gradient need.

  The loss is the squared norm of Delta + (R - 1) Delta - (sigma^2/2) grad R, whose norms are recorded.
  """
  case = golden(f"F_finetune_{name}")
  t, constant = jnp.asarray(case["draw__t"]), json.loads(str(case["config_json"]))["loss"].get("sigma_t_sq")
  half = interpolants.half_sigma_squared(Linear(), t) if constant is None else jnp.full_like(t, constant / 2)
  np.testing.assert_allclose(2.0 * half.mean(), case["log__avg_sigma_sq"], rtol=1e-5)
  pred, base = case["bt_pred"].astype(np.float64), case["bt_base"].astype(np.float64)
  total = np.sum(base**2) / case["log__ratio_base"]
  shift, steering = (np.sqrt(case[f"log__ratio_{name}"] * total) for name in ("shift", "grad"))
  if constant is not None:
    np.testing.assert_allclose(steering, constant / 2 * case["log__grad_x_norm"], rtol=1e-4)
  norms = np.linalg.norm(pred - base), shift, steering
  root = np.sqrt(case["loss"] * pred.size)
  assert 2 * max(norms) - sum(norms) <= root <= sum(norms)
