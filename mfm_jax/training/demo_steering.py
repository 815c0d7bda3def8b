"""The steering part of the demonstration: a classifier, then every method towards its classes."""

import dataclasses
import pathlib
from typing import Any

from mfm_jax.training import steer_report
from mfm_jax.training import subject as subjects
from mfm_jax.training.classifier import ClassifierConfig, train_classifier
from mfm_jax.training.run import load_run
from mfm_jax.training.steer_config import SteerConfig


def run_steering(
  config: SteerConfig, classifier: ClassifierConfig, workdir: str | pathlib.Path
) -> dict[str, Any]:
  """Trains the classifier in <workdir>/classifier, steers the run without a label by every method.

  What `experiments.steer` leaves is then in <workdir>/steer.

  Args:
    config: the comparison; its reward's classifier is the one that is trained here.
    classifier: of the run's data.
    workdir: the folder of a trained map of labelled images.

  Returns:
    {"classifier_accuracy_test", "steering": rows}.
  """
  run, folder = load_run(workdir), pathlib.Path(workdir) / "classifier"
  summary = train_classifier(dataclasses.replace(classifier, data=run.config.data), folder)
  config = dataclasses.replace(config, reward=dataclasses.replace(config.reward, classifier=str(folder)))
  subject, reward = subjects.from_run(run), config.build_reward()
  subjects.check(subject, reward, config)
  found = steer_report.steer(subject, reward, config, steer_report.files(str(workdir), "", config.methods))
  return {"classifier_accuracy_test": summary["accuracy"], "steering": found["methods"]}
