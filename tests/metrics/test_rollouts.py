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
