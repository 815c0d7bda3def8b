"""The reports against rollouts and training data, on synthetic draws with known answers."""

import numpy as np
import pytest

from mfm_jax import interpolants
from mfm_jax.metrics import classes, rollouts


def normal(seed, shape):
  return np.random.Generator(np.random.Philox(seed)).normal(size=shape).astype(np.float32)


def test_energy_of_the_same_law_is_its_floor():
  shape = (8, 128, 3)
  same = rollouts.energy_row(normal(0, shape), normal(1, shape), normal(2, shape))
  assert abs(same["energy"]) < 0.05  # unbiased: zero up to noise
  assert abs(same["energy_floor"]) < 0.05
  shifted = rollouts.energy_row(normal(0, shape) + 1.0, normal(1, shape), normal(2, shape))
  assert shifted["energy"] > 0.5
  assert same["energy_mean"] > 0.5  # draws without spread are seen


def test_coverage_and_use_of_the_context():
  """Draws of two modes; draws of one alone; draws that know nothing of their context."""
  contexts = np.linspace(-4.0, 4.0, 8, dtype=np.float32)[:, None, None]

  def two_modes(seed):
    signs = np.where(np.arange(40) % 2, 1.0, -1.0).astype(np.float32)
    return contexts + signs[None, :, None] + 0.1 * normal(seed, (8, 40, 2))

  rolled, again = two_modes(1), two_modes(2)
  same = rollouts.spread_row(two_modes(3), rolled, again)
  assert same["coverage"] > 0.9
  assert same["coverage_floor"] > 0.9
  one_mode = rollouts.spread_row(two_modes(3)[:, ::2], rolled, again)
  assert 0.4 < one_mode["coverage"] < 0.51
  # Both coordinates vary alike between contexts; within, by the modes (1) and the noise (0.01).
  between = np.var(contexts, ddof=1)
  assert same["context"] == pytest.approx(between / (between + 1.01), rel=0.05)
  assert same["context_rollouts"] == pytest.approx(same["context"], rel=0.02)
  blind = rollouts.spread_row(two_modes(3) - contexts, rolled, again)
  assert blind["context"] < 0.05
  # Means of two draws vary by half of the variance within; that is not the contexts'.
  two = rollouts.spread_row(*(normal(seed, (500, 2, 3)) for seed in range(3)))
  assert two["context"] < 0.1


def test_coverage_is_its_definition():
  x, y = normal(0, (12, 3)), normal(1, (15, 3)) + 0.5
  distance = np.linalg.norm(y[:, None] - y[None], axis=2)
  radius = np.sort(distance, axis=1)[:, rollouts.NEIGHBOURS]
  inside = [min(np.linalg.norm(a - b) for b in x) <= r for a, r in zip(y, radius, strict=True)]
  assert rollouts.coverage(x, y) == np.mean(inside)
  with pytest.raises(ValueError, match="the number of samples must be at least 2; got 1"):
    rollouts.coverage(x, y[:1])


def test_value_of_the_same_draws_agrees():
  rolled = normal(1, (16, 64, 3)) + np.linspace(-1.0, 1.0, 16, dtype=np.float32)[:, None, None]

  def reward(x):
    return x.sum(axis=1)

  row = rollouts.value_row(rolled, rolled, reward)
  assert row["value_error"] == 0.0
  assert row["pearson"] == pytest.approx(1.0)
  # A constant shift of the reward is a constant shift of V.
  shifted = rollouts.value_row(rolled + 0.1, rolled, reward)
  assert shifted["value_error"] == pytest.approx(0.3, rel=1e-4)


def test_classes_of_draws_from_the_training_posterior():
  """Two far classes: contexts whose posterior is certain, and draws of the right or the wrong class."""
  label = np.arange(40) % 2
  x1 = 0.1 * normal(0, (40, 4)) + np.where(label, 3.0, -3.0)[:, None].astype(np.float32)
  train = {"x1": x1, "label": label}
  judge = classes.fit_judge(x1, label)
  t = np.full(4, 0.9)
  x_t = 0.9 * x1[:4]

  def tv(drawn):
    linear = interpolants.Linear()
    return rollouts.data_row(drawn, drawn, x_t, t, judge, train, 2, linear)

  right = np.repeat(x1[:4][:, None], 8, axis=1)
  assert tv(right)["class_tv"] == pytest.approx(0.0, abs=1e-6)
  assert tv(-right)["class_tv"] == pytest.approx(1.0, abs=1e-6)
  assert tv(right)["class_tv_prior"] == pytest.approx(0.5, abs=1e-6)
  exact = tv(right)
  assert exact["energy_data"] < 0.05 * tv(-right)["energy_data"]
  assert abs(exact["energy_data_floor"]) < 0.02 * tv(-right)["energy_data"]
