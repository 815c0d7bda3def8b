"""Rewards that judge what another reward steered: in rows, files, table and report; how rewards join."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.training import report_steering, steer_report
from mfm_jax.training import subject as subjects
from mfm_jax.training.reward_config import RewardConfig
from mfm_jax.training.steer_config import SteerConfig

QUADRATIC = RewardConfig(name="quadratic", centre=(0.0, 1.0), sigma=2.0)
BLACK_BOX = RewardConfig(name="python", function="steer_case:black_box")
CONFIG = SteerConfig(
  teacher="oracle",
  methods=("base", "best_of_n"),
  steps=3,
  num=6,
  judges=(QUADRATIC, BLACK_BOX, QUADRATIC),
  best_of_n=dataclasses.replace(SteerConfig().best_of_n, draws=2),
)
NAMES = ["judge_quadratic", "judge_python", "judge_quadratic_2"]
X = jnp.array([[0.5, -1.0], [2.0, 2.0]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder of `steer`."""
  folder = tmp_path_factory.mktemp("judges")
  subject, reward = subjects.from_oracle(CONFIG), CONFIG.build_reward()
  steer_report.steer(subject, reward, CONFIG, steer_report.files(str(folder), "", CONFIG.methods))
  return folder


def test_judges_score_the_samples_of_every_method(folder):
  rows = json.loads((folder / "steer" / "steer.json").read_text())["methods"]
  assert steer_report.judges(rows) == NAMES
  for row in rows:
    with np.load(folder / "steer" / f"{row['method']}.npz") as file:
      scores = np.asarray(QUADRATIC.build()(file["x1"]))
      np.testing.assert_allclose(file["judge_quadratic"], scores, rtol=1e-5)
      np.testing.assert_allclose(file["judge_python"], -(file["x1"] ** 2).sum(1), rtol=1e-5)
      reward = file["reward"]
    assert row["judge_quadratic"] == row["judge_quadratic_2"] == pytest.approx(np.mean(scores), rel=1e-5)
    # With one seed the errors are over the samples, of the reward too.
    for name, values in (("judge_quadratic", scores), ("reward", reward)):
      assert row[f"{name}_se"] == pytest.approx(values.std(ddof=1) / np.sqrt(6), rel=1e-4)
    assert row["diversity_se"] is None
  assert set(NAMES) < set(steer_report.table(rows)[0])


def test_judges_stand_in_the_panel_against_reward_hacking(folder):
  sections = {s.title: s for s in report_steering.sections(report_steering.read(folder))}
  assert {"quadratic", "python", "quadratic_2"} < set(sections["Steering"].table[0])
  panel = sections["Panel against reward hacking"]
  assert panel.pictures[0].alt.startswith("reward, quadratic, python, quadratic_2, diversity")
  assert "a judge's score" in panel.text


def test_rewards_join():
  first = RewardConfig(name="quadratic", centre=(1.0, 1.0), sigma=1.0, weight=2.0)
  a, b = 2.0 * first.build()(X), QUADRATIC.build()(X)
  for changes, expected in (
    ({"weight": 3.0}, a + 3.0 * b),
    ({"join": "minimum", "weight": 3.0}, jnp.minimum(a, 3.0 * b)),
    (
      {"join": "constraint", "bound": -0.5, "strength": 4.0, "width": 0.1},
      a - 0.4 * jnp.logaddexp(0.0, (-0.5 - b) / 0.1),
    ),
  ):
    more = dataclasses.replace(QUADRATIC, **changes)
    config = SteerConfig(reward=first, more_rewards=(more,))
    np.testing.assert_allclose(config.build_reward()(X, None), expected, rtol=1e-5)
    # A factor of all of them, as the multiplier of a fine-tuning.
    scaled = SteerConfig(reward=first.scaled(10.0), more_rewards=(more.scaled(10.0),))
    np.testing.assert_allclose(scaled.build_reward()(X, None), 10.0 * expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: RewardConfig(join="max"), "reward.join must be one of sum, minimum, constraint; got 'max'"),
    (lambda: RewardConfig(join="constraint", strength=0.0), "strength must be a positive number; got 0.0"),
    (lambda: RewardConfig(join="constraint", weight=2.0), r"weight must be 1 with reward.join=constraint"),
    (lambda: RewardConfig(bound=1.0), r"left alone without reward.join=constraint; got .*'bound': 1.0"),
    (lambda: SteerConfig(reward=RewardConfig(join="minimum")), "must be sum for the first reward; got min"),
    (
      lambda: SteerConfig(judges=(RewardConfig(weight=2.0),)),
      "must have weight 1 and join=sum; got 2.0",
    ),
    (lambda: SteerConfig(label=-2), "label must be at least -1; got -2"),
    (lambda: SteerConfig(guidance=-1.0), "guidance must be at least 0; got -1.0"),
    (lambda: SteerConfig(teacher="oracle", label=1), "must be absent with teacher=oracle.*; got 1, 0.0"),
  ],
)
def test_mistakes(make, message):
  with pytest.raises(ValueError, match=message):
    make()
