"""Steering labelled images: class proportions by the judge, what is written, the charts of the report."""

import dataclasses
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.data import datasets
from mfm_jax.data.datasets import DataConfig
from mfm_jax.data.sources import to_pixels
from mfm_jax.interpolants import Linear
from mfm_jax.metrics import classes
from mfm_jax.rewards.classes import class_mixture
from mfm_jax.training import comparison, report_steering, steer_report, trajectories
from mfm_jax.training import subject as subjects
from mfm_jax.training.comparison import Assessor
from mfm_jax.training.config import to_dict
from mfm_jax.training.steer_config import MethodConfig, RewardConfig, SteerConfig
from mfm_jax.training.steered import Outcome
from mfm_jax.types import Reward

DIGITS = datasets.load(DataConfig(name="digits"))
WEIGHTS = np.array([0, 0, 0, 0.7, 0, 0, 0, 0.3, 0, 0])
CONFIG = SteerConfig(
  reward=RewardConfig(name="classes", classifier="given", classes=tuple(WEIGHTS)),
  methods=("base", "best_of_n", "dps", "mfm_gf", "mfm_g"),
  steps=6,
  num=12,
  seeds=2,
  mfm_gf=MethodConfig(draws=4),
  dps=MethodConfig(scales=(0.5, 1.0), renormalise="clip"),
  mfm_g=MethodConfig(renormalise="clip"),
)


@pytest.fixture(scope="module")
def assess():
  return Assessor(judge=classes.judge_of(DIGITS.train), weights=WEIGHTS, decode=to_pixels)


def log_probs(x):
  """Three or seven by the ink in the lower left: a made-up classifier, smooth in every pixel."""
  ink = 8.0 * x[:, 4:, :4].mean((1, 2, 3)) + 0.1 * x.sum((1, 2, 3))
  logits = jnp.zeros((x.shape[0], 10)).at[:, 3].set(ink).at[:, 7].set(-ink)
  return jax.nn.log_softmax(logits)


def velocity(s, u, x_s, t, x_t, cond):
  """Draws around x_t, with a null label as a network of labelled data has it."""
  assert cond["label"].shape == (x_s.shape[0],)
  return x_t - x_s + 0.3 * jnp.tanh(x_s)


@pytest.fixture(scope="module")
def subject():
  return subjects.Subject(
    shape=(8, 8, 1),
    interpolant=Linear(),
    decode=to_pixels,
    cond=lambda n: {"label": jnp.full((n,), 10)},
    params=(),
    marginal=lambda params: lambda t, x, cond=None: -x,
    draws=lambda params: velocity,
    differentiable=lambda params: velocity,
    run=None,
    mixture=None,
  )


class Found(NamedTuple):
  reward: Reward
  rows: list[dict[str, Any]]
  outcomes: dict[str, Outcome]


@pytest.fixture(scope="module")
def found(subject, assess):
  reward = class_mixture(log_probs, WEIGHTS)
  subjects.check(subject, reward, CONFIG)
  pairs = list(comparison.compare(subject, reward, CONFIG, assess, keep=True))
  return Found(reward, [row for row, _ in pairs], {row["method"]: outcome for row, outcome in pairs})


def test_class_l2_is_the_distance_of_the_judged_proportions(assess):
  """Real digits, ten of each of three classes: the judge knows them."""
  test = DIGITS.test.take(np.arange(len(DIGITS.test)))
  chosen = np.concatenate([np.flatnonzero(test["label"] == k)[:10] for k in (3, 7, 8)])
  expected = np.linalg.norm(np.array([1 / 3 - 0.7, 1 / 3 - 0.3, 1 / 3]))
  figures = assess(test["x1"][chosen], test["x1"][:30], 0)
  assert assess.objective == "class_l2"
  assert figures["class_l2"] == pytest.approx(expected, abs=0.05)
  sevens = np.flatnonzero(test["label"] == 7)[:10]
  collapsed = np.repeat(test["x1"][sevens[:1]], 10, axis=0)
  assert assess(collapsed, test["x1"][:30], 0)["diversity"] == pytest.approx(0.0, abs=1e-3)
  assert figures["diversity"] > 1.0


def test_rows_have_the_figures_of_images(found):
  for row in found.rows:
    assert 0 <= row["class_l2"] <= np.sqrt(2)
    assert row["class_l2_se"] >= 0
    assert "sw2" not in row
  by_name = {row["method"]: row for row in found.rows}
  assert by_name["mfm_gf"]["reward"] > by_name["base"]["reward"]
  assert by_name["best_of_n"]["reward"] > by_name["base"]["reward"]


def test_samples_are_written_with_label_and_judgement(found, subject, assess, tmp_path):
  outcome = found.outcomes["mfm_gf"]
  steer_report.write(tmp_path / "x.npz", outcome, subject, assess, CONFIG)
  with np.load(tmp_path / "x.npz") as file:
    assert set(file.files) == {"x1", "reward", "label", "judged"}
    np.testing.assert_array_equal(file["x1"], outcome.x1)
    np.testing.assert_array_equal(file["label"], 10)
    np.testing.assert_array_equal(file["judged"], assess.judge.predict(outcome.x1))
  assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_sections_of_the_report(found, subject, assess, tmp_path):
  recorded = trajectories.Recorder(subject, found.reward, CONFIG)
  folder = tmp_path / steer_report.FOLDER
  for method, outcome in found.outcomes.items():
    arrays = recorded(method, outcome)
    steer_report.write(folder / f"{method}.npz", outcome, subject, assess, CONFIG, arrays)
  assert recorded("best_of_n", found.outcomes["best_of_n"]) == {}
  assert arrays["path_value"].shape == (*arrays["path_t"].shape, 12)
  result = {"objective": "class_l2", "methods": found.rows, "floor": None, "step": 1, "ema": "0.9"}
  (folder / "steer.json").write_text(json.dumps({**result, "config": to_dict(CONFIG)}))
  sections = report_steering.sections(report_steering.read(tmp_path))
  assert [section.title for section in sections] == [
    "Steering",
    "Reward against cost",
    "Panel against reward hacking",
    "Class proportions",
    "Value along the way",
    "Paths from noise to data",
    "Steered samples",
  ]
  assert "70% of class 3 and 30% of class 7" in sections[0].text
  assert [row["method"] for row in sections[0].table][3] == "mfm_gf, N = 4"
  assert all(section.pictures for section in sections[1:])
  assert len(sections[-1].pictures) == len(CONFIG.methods)


def test_too_few_samples_of_a_class_leave_diversity_out(subject, assess):
  """Two samples of two classes have no pair of one class: null, not NaN, which is no JSON."""
  config = dataclasses.replace(CONFIG, num=2, seeds=1, methods=("base",))
  judge = dataclasses.replace(assess.judge, classifier=_Apart())
  rows = [
    row
    for row, _ in comparison.compare(
      subject, class_mixture(log_probs, WEIGHTS), config, dataclasses.replace(assess, judge=judge)
    )
  ]
  assert rows[0]["diversity"] is None
  assert rows[0]["diversity_se"] is None


class _Apart:
  """Gives every sample a class of its own."""

  def predict(self, x):
    return np.arange(len(x)) % 10


def test_a_reward_with_a_weight_or_a_second_one_has_no_known_proportions():
  for changes in (
    {"reward": dataclasses.replace(CONFIG.reward, weight=2.0)},
    {"more_rewards": (CONFIG.reward,)},
  ):
    config = dataclasses.replace(CONFIG, **changes)
    assert comparison.target_weights(config) is None
  np.testing.assert_allclose(comparison.target_weights(CONFIG), WEIGHTS)
