"""The demonstration on labelled images: what an independent judge makes of samples and posterior draws."""

import json
import pathlib

import jax
import numpy as np

from mfm_jax.data import datasets
from mfm_jax.metrics import classes
from mfm_jax.training import generate, report_training, showcase
from mfm_jax.training.run import Run, load_run
from mfm_jax.viz.files import write_atomically

SAMPLES = 1000
STEPS = (1, 4)
JUDGED_TIMES = (0.3, 0.5, 0.7, 0.9)


def judge_samples(workdir: str | pathlib.Path) -> dict[str, float]:
  """Accuracy of an independent classifier on real test images and on class-conditional samples.

  The figures are left in the folder as a table for its report, and samples as by `experiments.sample`.

  Args:
    workdir: a trained map of labelled images.

  Returns:
    {"judge_accuracy_test", "judge_accuracy_1_step", "judge_accuracy_4_step", and for noisy test images at
    each t of JUDGED_TIMES "posterior_accuracy_t...": the share of unlabelled one-step posterior draws that
    are judged to have the clean image's class}.
  """
  run = load_run(workdir)
  dataset = datasets.load(run.config.data)
  test = dataset.test.take(np.arange(len(dataset.test)))
  judge = classes.judge_of(dataset.train)
  out = {"judge_accuracy_test": judge.accuracy(test["x1"], test["label"])}
  for steps in STEPS:
    samples, label = _samples(run, steps, SAMPLES)
    out[f"judge_accuracy_{steps}_step"] = judge.accuracy(samples, label)
  showcase.write(run.workdir / "samples" / "marginal.npz", {"x1": samples, "label": label}, run)
  for t in JUDGED_TIMES:
    given = generate.test_contexts(run, jax.random.key(2), t, 100)
    drawn = generate.posterior_samples(run, jax.random.key(3), given["t"], given["x_t"], num=10)
    label = np.repeat(given["label"], 10)
    accuracy = judge.accuracy(drawn.reshape(-1, *run.info.shape), label)
    out[f"posterior_accuracy_t{t:g}"] = accuracy
  out = {name: float(value) for name, value in out.items()}
  content = json.dumps(_rows(out), indent=2) + "\n"
  write_atomically(run.workdir / report_training.JUDGED, content.encode())
  return out


def _rows(figures: dict[str, float]) -> list[dict[str, str | float]]:
  rows: list[dict[str, str | float]] = [
    {"judged": "real test images", "accuracy": figures["judge_accuracy_test"]}
  ]
  for steps in STEPS:
    name = f"samples in {steps} step" + "s" * (steps > 1)
    rows.append({"judged": name, "accuracy": figures[f"judge_accuracy_{steps}_step"]})
  for t in JUDGED_TIMES:
    name = f"unlabelled draws at t = {t:g}, clean image's class"
    rows.append({"judged": name, "accuracy": figures[f"posterior_accuracy_t{t:g}"]})
  return rows


def _samples(run: Run, steps: int, num: int) -> tuple[np.ndarray, np.ndarray]:
  label = np.arange(num) % run.info.num_classes
  key = jax.random.key(steps)
  return generate.marginal_samples(run, key, num=num, steps=steps, label=label), label
