"""The classifier for rewards: it learns, is found again as it was, and refuses what it cannot be."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import classifier_digits
from mfm_jax.data import datasets
from mfm_jax.data.datasets import DataConfig
from mfm_jax.training.classifier import ClassifierConfig, load_classifier, train_classifier
from mfm_jax.training.config import from_dict
from mfm_jax.training.optimizer import OptimizerConfig
from mfm_jax.training.run import load_run

MIXTURE = DataConfig(name="mixture", train_size=2048, test_size=512)
SMALL = ClassifierConfig(
  data=MIXTURE,
  steps=60,
  batch_size=64,
  width=8,
  optimizer=OptimizerConfig(name="adamw", learning_rate=1e-2, warmup=0),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("classifier") / "run"
  return folder, train_classifier(SMALL, folder)


def test_it_learns_the_components_of_the_mixture(trained):
  folder, summary = trained
  assert summary["accuracy"] > 0.97  # the components are 4 standard deviations apart
  classifier = load_classifier(folder)
  found = classifier.log_probs(jnp.array([[-3.0, -3.0], [0.0, 0.0], [3.0, 3.0]]))
  assert found.shape == (3, 3)
  np.testing.assert_allclose(jnp.exp(found).sum(1), 1.0, rtol=1e-5)
  assert (found.argmax(1) == jnp.arange(3)).all()


def test_what_is_loaded_is_what_was_tested(trained):
  folder, summary = trained
  classifier = load_classifier(folder)
  assert classifier.sha256 == summary["params_sha256"]
  test = datasets.load(
    MIXTURE, from_dict(ClassifierConfig, {"data": {"name": "mixture"}}).mixture.build()
  ).test
  part = test.take(np.arange(len(test)))
  table = np.asarray(classifier.log_probs(jnp.asarray(part["x1"])))
  assert (table.argmax(1) == part["label"]).mean() == pytest.approx(summary["accuracy"])
  assert -table[np.arange(512), part["label"]].mean() == pytest.approx(summary["log_loss"], rel=1e-4)
  assert json.loads((folder / "summary.json").read_text()) == summary


def test_the_same_command_again_changes_nothing_and_another_configuration_is_refused(trained, capsys):
  folder, summary = trained
  assert train_classifier(SMALL, folder) == summary
  assert "is finished" in capsys.readouterr().out
  for changes in ({"width": 16}, {"steps": 61}):
    ((name, value),) = changes.items()
    message = rf"own configuration; got config\.{name}: \d+ -> {value}$"
    with pytest.raises(ValueError, match=message):
      train_classifier(dataclasses.replace(SMALL, **changes), folder)


def test_the_same_seed_gives_the_same_classifier(trained, tmp_path):
  assert train_classifier(SMALL, tmp_path)["params_sha256"] == trained[1]["params_sha256"]


def test_images_are_classified_in_data_space(tmp_path):
  """The shipped configuration, shortened: pixels in [0, 1], where the reward will live."""
  config = classifier_digits.get_config("smoke").to_dict()
  summary = train_classifier(from_dict(ClassifierConfig, {**config, "steps": 60, "batch_size": 64}), tmp_path)
  assert summary["accuracy"] > 0.4  # of ten classes, after a second of training
  classifier = load_classifier(tmp_path)
  gradient = jax.grad(lambda x: classifier.log_probs(x)[:, 3].sum())(jnp.full((2, 8, 8, 1), 0.5))
  assert (jnp.abs(gradient) > 0).mean() > 0.9


def test_examples_of_another_shape_are_a_mistake(trained):
  with pytest.raises(
    ValueError, match=r"x of the classifier .* must have shape \(any, 2\); got \(4, 8, 8, 1\)"
  ):
    load_classifier(trained[0]).log_probs(jnp.zeros((4, 8, 8, 1)))


def test_folders_of_other_kinds_are_told_apart(trained, finished, tmp_path):
  with pytest.raises(ValueError, match="must be the folder of a run; got that of a classifier"):
    load_run(trained[0])
  with pytest.raises(ValueError, match="must be the folder of a classifier; got that of a run"):
    load_classifier(finished)
  with pytest.raises(ValueError, match="must be the folder of a classifier; got that of a run"):
    train_classifier(SMALL, finished)
  with pytest.raises(ValueError, match="no such folder"):
    load_classifier(tmp_path / "nowhere")


def test_an_interrupted_training_is_no_classifier_and_can_be_done_again(trained, tmp_path):
  (tmp_path / "config.json").write_bytes((trained[0] / "config.json").read_bytes())
  with pytest.raises(ValueError, match="workdir must hold a finished classifier; got none in"):
    load_classifier(tmp_path)
  assert train_classifier(SMALL, tmp_path)["params_sha256"] == trained[1]["params_sha256"]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"data": DataConfig(name="mixture", labelled=False)}, "a classifier needs labelled data"),
    (
      {"optimizer": OptimizerConfig(learning_rate=1e30, warmup=0, clip=0.0)},
      "must be finite; got nan at step",
    ),
  ],
)
def test_trainings_that_cannot_be(changes, message, tmp_path):
  config = ClassifierConfig(**{"data": MIXTURE, "steps": 5, "batch_size": 64, "log_every": 1, **changes})
  with pytest.raises(ValueError, match=message):
    train_classifier(config, tmp_path / "run")
  assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("changes", [{"steps": 0}, {"width": 0}, {"noise": -1.0}, {"label_smoothing": 2.0}])
def test_bad_values(changes):
  with pytest.raises(ValueError, match=next(iter(changes))):
    ClassifierConfig(data=MIXTURE, **changes)
