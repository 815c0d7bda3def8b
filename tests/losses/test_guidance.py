"""Model guidance and guided teachers against plain calls, and the fixed point that they make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import oracles
from mfm_jax.interpolants import Linear
from mfm_jax.losses import DrawConfig, Objective, draw
from mfm_jax.losses.guidance import guided_teacher, model_guidance
from mfm_jax.types import expand_like

NULL = 3
LABEL = jnp.array([0, 1, 2, NULL])
SCALES = jnp.array([2.5, 1.0, 4.0, 1.0])


def toy_velocity(s, u, x, t, x_t, cond):
  label, scale = cond["label"].astype(x.dtype), cond["guidance"]
  return jnp.sin(x * expand_like(1 + label, x) + expand_like(s + 2 * t, x)) * expand_like(scale, x) + x_t * x


def toy_teacher(t, x, cond=None):
  assert cond is None or set(cond) == {"label"}  # no scale reaches a teacher
  label = 0.0 if cond is None else cond["label"].astype(x.dtype)
  return jnp.cos(x + expand_like(t + label, x))


def states(seed=0):
  rng = np.random.default_rng(seed)
  times = jnp.asarray(rng.uniform(size=(2, 4)), jnp.float32)
  return times, jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)


def test_model_guidance_needs_labels():
  (s, t), (x, x_t) = states()
  with pytest.raises(ValueError, match="cond must hold label and guidance; got None"):
    model_guidance(toy_velocity, s, x, t, x_t, None, NULL)


def test_model_guidance_is_the_difference_of_two_plain_calls():
  (s, t), (x, x_t) = states()
  cond = {"label": LABEL, "guidance": SCALES}
  actual = model_guidance(toy_velocity, s, x, t, x_t, cond, NULL)
  labelled = toy_velocity(s, s, x, t, x_t, cond)
  null = toy_velocity(s, s, x, t, x_t, {"label": jnp.full(4, NULL), "guidance": jnp.ones(4)})
  np.testing.assert_allclose(actual, (1 - 1 / SCALES)[:, None] * (labelled - null), rtol=1e-5, atol=1e-6)
  at_one = np.asarray(SCALES) == 1
  assert (np.asarray(actual)[at_one] == 0).all()
  assert (np.abs(np.asarray(actual)[~at_one]) > 1e-3).all()


def test_guidance_that_is_built_into_a_teacher_is_taken_out_first():
  """A teacher that gives v_null + 2 (v_cond - v_null) for a label, recombined, is one that gives v_cond."""
  (t, _), (x, _) = states()
  cond = {"label": LABEL, "guidance": SCALES}

  def built_in(t, x, cond):
    null = toy_teacher(t, x, {"label": jnp.full_like(cond["label"], NULL)})
    return null + 2.0 * (toy_teacher(t, x, cond) - null)

  plain = guided_teacher(toy_teacher, NULL)
  recombined = guided_teacher(built_in, NULL, trained_scale=2.0)
  np.testing.assert_allclose(recombined(t, x, cond), plain(t, x, cond), rtol=1e-4, atol=1e-5)
  # Without a scale it is the conditional velocity, not the guided one that the teacher was trained to give.
  label = {"label": LABEL}
  np.testing.assert_allclose(recombined(t, x, label), toy_teacher(t, x, label), rtol=1e-4, atol=1e-5)


def test_a_teacher_is_guided_in_its_interval_alone():
  (t, _), (x, _) = states()
  cond = {"label": LABEL, "guidance": jnp.full(4, 3.0)}
  found = guided_teacher(toy_teacher, NULL, interval=(0.2, 0.6))(t, x, cond)
  inside = np.asarray((t >= 0.2) & (t <= 0.6))
  assert 0 < inside.sum() < 4
  everywhere = guided_teacher(toy_teacher, NULL)
  np.testing.assert_allclose(found[inside], everywhere(t, x, cond)[inside], rtol=1e-6)
  one = {"label": LABEL, "guidance": jnp.ones(4)}
  np.testing.assert_allclose(found[~inside], everywhere(t, x, one)[~inside], rtol=1e-6)


def test_the_gain_of_the_paper_at_its_scale():
  # (5.1): g = 0.6 at w_cfg = 2.5
  x = jnp.ones((1, 1))

  def velocity(s, u, x, t, x_t, cond):
    return jnp.where(cond["label"] == NULL, 0.0, 1.0)[:, None]

  cond = {"label": jnp.array([0]), "guidance": jnp.array([2.5])}
  np.testing.assert_allclose(model_guidance(velocity, x[0], x, x[0], x, cond, NULL), [[0.6]], rtol=1e-6)


def test_model_guidance_is_frozen():
  (s, t), (x, x_t) = states()
  cond = {"label": LABEL, "guidance": SCALES}

  def total(factor):
    def velocity(*args):
      return factor * toy_velocity(*args)

    return model_guidance(velocity, s, x, t, x_t, cond, NULL).sum()

  assert jax.grad(total)(1.0) == 0


def test_a_guided_teacher_is_the_mix_of_two_plain_calls():
  (t, _), (x, _) = states()
  guided = guided_teacher(toy_teacher, NULL)
  labelled = toy_teacher(t, x, {"label": LABEL})
  null = toy_teacher(t, x, {"label": jnp.full(4, NULL)})
  at_one = guided(t, x, {"label": LABEL, "guidance": jnp.ones(4)})
  np.testing.assert_allclose(at_one, labelled, rtol=1e-5, atol=1e-6)
  at_scale = guided(t, x, {"label": LABEL, "guidance": jnp.full(4, 2.5)})
  np.testing.assert_allclose(at_scale, 2.5 * labelled - 1.5 * null, rtol=1e-5, atol=1e-6)
  mixed = guided(t, x, {"label": LABEL, "guidance": SCALES})
  expected = null + SCALES[:, None] * (labelled - null)
  np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-6)


def test_a_teacher_without_labels_or_scale_is_asked_as_it_is():
  (t, _), (x, _) = states()
  guided = guided_teacher(toy_teacher, NULL)
  np.testing.assert_array_equal(guided(t, x), toy_teacher(t, x))
  np.testing.assert_array_equal(guided(t, x, {"label": LABEL}), toy_teacher(t, x, {"label": LABEL}))
  asked = []
  guided_teacher(lambda t, x, cond: asked.append(cond) or x, NULL)(t, x, {"guidance": SCALES})
  assert [set(cond) for cond in asked] == [{"guidance"}]


def labelled_batch(n):
  rng = np.random.default_rng(2)
  return {
    "x1": jnp.asarray(rng.normal(size=(n, 2)), jnp.float32),
    "label": jnp.asarray(rng.integers(2, size=n)),
  }


@pytest.mark.parametrize("consistency", ["mean_flow", "eulerian_teacher"])
def test_scales_of_one_leave_every_target_alone(consistency):
  """The same loss whether the scale is absent or 1."""
  objective = Objective(diagonal="data", consistency=consistency, null_label=2)
  plain = draw(jax.random.key(0), labelled_batch(16), 1, DrawConfig(num_classes=2))

  def velocity(s, u, x, t, x_t, cond):
    return jnp.sin(x + x_t + expand_like(s - u + cond["label"], x))

  run = jax.jit(lambda draws: objective(velocity, Linear(), draws, teacher=toy_teacher)[0])
  scales = (None, jnp.ones(16), jnp.full(16, 2.5))
  losses = [run(plain._replace(guidance=guidance)) for guidance in scales]
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
  assert (jnp.abs(losses[2] - losses[0])[plain.label < 2] > 1e-4).mean() > 0.9


@pytest.mark.slow
def test_the_fixed_point_is_classifier_free_guidance():
  """v_null + w (v_label - v_null) is stationary in expectation under (5.1); the label's own is not.

  Two Gaussian classes, whose inner velocities are exact. A fixed point is where the expected gradient in the
  coefficient of any field is zero.
  """
  n, interpolant = 40_000, Linear()
  means = np.array([[-1.0, 0.0], [1.0, 0.5]])
  covs = np.array([0.5 * np.eye(2), [[0.4, 0.1], [0.1, 0.7]]])
  classes = [oracles.gaussian_mixture([1.0], means[k : k + 1], covs[k : k + 1]) for k in range(2)]
  both = oracles.gaussian_mixture([0.5, 0.5], means, covs)
  exact = [oracles.as_velocity(law, interpolant, steps=1) for law in (*classes, both)]
  config = DrawConfig(num_classes=2, label_dropout=0.3, guidance_scales=(1.5, 2.5), guidance_base_rate=0.3)

  rng = np.random.default_rng(3)
  label = rng.integers(2, size=n)
  roots = np.linalg.cholesky(covs)
  x1 = means[label] + np.einsum("nij,nj->ni", roots[label], rng.normal(size=(n, 2)))
  batch = {"x1": jnp.asarray(x1, jnp.float32), "label": jnp.asarray(label)}
  draws = draw(jax.random.key(4), batch, 1, config)
  objective = Objective(diagonal="data", consistency="none", weighting="l2", null_label=2)

  @jax.jit
  def gradients(power):
    """Per example and field, of the velocity v_null + w^power (v_label - v_null)."""

    def loss(coefficients):
      def velocity(s, u, x, t, x_t, cond):
        values = jnp.stack([v(s, u, x, t, x_t, None) for v in exact])
        own = jnp.take_along_axis(values, cond["label"][None, :, None], axis=0)[0]
        guided = values[2] + (cond["guidance"] ** power)[:, None] * (own - values[2])
        fields = jnp.stack([jnp.ones_like(x), x, x_t, jnp.sin(2 * x)], -1)
        return guided + fields @ coefficients

      return objective(velocity, interpolant, draws)[0]

    return jax.jacfwd(loss)(jnp.zeros(4))

  samples_at = {power: np.asarray(gradients(power), np.float64) for power in (0.0, 1.0)}

  def largest_z(power, rows):
    """Largest mean over its standard error."""
    samples = samples_at[power][np.asarray(rows)]
    return np.abs(samples.mean(0) / (samples.std(0) / np.sqrt(len(samples)))).max()

  for rows in (draws.label == 2, *((draws.label == k) & (draws.guidance == 1) for k in (0, 1))):
    assert largest_z(1.0, rows) < 4.5  # the largest of about 30 in all
    assert largest_z(0.0, rows) < 4.5  # at a scale of 1 the two velocities are the same
  for rows in ((draws.label == k) & (draws.guidance == w) for k in (0, 1) for w in (1.5, 2.5)):
    assert largest_z(1.0, rows) < 4.5
    assert largest_z(0.0, rows) > 6
