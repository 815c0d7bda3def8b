"""The demonstration on labelled images: samples that a judge classifies, posteriors, one HTML report."""

import importlib.metadata
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mfm_jax.data import datasets
from mfm_jax.data.sources import to_pixels
from mfm_jax.metrics import classes
from mfm_jax.training import generate, logging, pictures
from mfm_jax.training.run import Run, load_run
from mfm_jax.viz import grids, panels, report, style

SAMPLES = 1000
STEPS = (1, 4)
JUDGED_TIMES = (0.3, 0.5, 0.7, 0.9)


def judge_samples(workdir: str | pathlib.Path) -> dict[str, float]:
  """Accuracy of an independent classifier on real test images and on class-conditional samples.

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
  for t in JUDGED_TIMES:
    given = generate.test_contexts(run, jax.random.key(2), t, 100)
    contexts = {name: given[name] for name in ("t", "x_t")}
    drawn = generate.posterior_samples(run, jax.random.key(3), **contexts, num=10)
    label = np.repeat(given["label"], 10)
    accuracy = judge.accuracy(drawn.reshape(-1, *run.info.shape), label)
    out[f"posterior_accuracy_t{t:g}"] = accuracy
  return {name: float(value) for name, value in out.items()}


def write_report(
  workdir: pathlib.Path,
  figures: dict[str, float],
  trained: dict[str, Any],
  steered: Sequence[report.Section],
  seconds: float,
) -> pathlib.Path:
  """Writes report.html into the run folder and returns its path.

  Args:
    workdir: the run folder.
    figures: of `judge_samples`.
    trained: the summary of the training.
    steered: the sections on steering.
    seconds: wall-clock time up to here.
  """
  run = load_run(workdir)
  test = datasets.load(run.config.data).test
  painter = pictures.Painter(
    velocity=run.parts.model.velocity,
    interpolant=run.interpolant,
    test=test,
    num_classes=run.info.num_classes,
    image=run.info.image,
    guided=bool(run.config.draws.guidance_scales),
    is_map=run.config.is_map,
  )
  path = workdir / "report.html"
  report.write_report(
    path,
    "Meta Flow Map on scanned digits",
    [
      report.Section(
        "Judged samples",
        "A support-vector classifier, fitted on the training split and never shown to the network, judges "
        f"{SAMPLES} class-conditional samples: the share that it gives the class that was asked for.",
        table=_accuracy_table(figures),
      ),
      *[_samples_section(run, steps) for steps in STEPS],
      report.Section(
        "Posterior draws of noisy test digits",
        "Each row: a test digit, its noisy version x_t (t = 0 is noise, t = 1 data), independent "
        "one-evaluation draws of what the digit may have been, their mean and their spread. No label "
        "is given: early on the draws differ in class, later they agree.",
        image=grids.png_bytes(painter.posterior(run.params)),
        alt="Posterior draws at several times for four test digits",
      ),
      *steered,
      report.Section(
        "Training",
        f"{trained['steps']} steps, {trained['seconds']:.0f} s of which "
        f"{trained['seconds_compile']:.0f} s compilation. Squared error per pixel before weighting.",
        image=_curves(workdir),
        alt="Training curves",
      ),
    ],
    provenance=provenance(run) | {"seconds in all": seconds},
  )
  return path


def provenance(run: Run) -> dict[str, Any]:
  """What a reader needs to repeat a run: versions, hardware, seed, parameters."""
  return {
    "mfm_jax": importlib.metadata.version("mfm_jax"),
    "jax": jax.__version__,
    "python": platform.python_version(),
    "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
    "seed": run.config.seed,
    "step": run.step,
    "ema": run.ema,
    "parameters (sha256)": run.sha256,
  }


def _samples(run: Run, steps: int, num: int) -> tuple[np.ndarray, np.ndarray]:
  label = np.arange(num) % run.info.num_classes
  key = jax.random.key(steps)
  return generate.marginal_samples(run, key, num=num, steps=steps, label=label), label


def _samples_section(run: Run, steps: int) -> report.Section:
  columns = run.info.num_classes
  samples, _ = _samples(run, steps, 8 * columns)
  evaluations = "one network evaluation" if steps == 1 else f"{steps} evaluations (refinement)"
  return report.Section(
    f"Samples in {steps} step" + "s" * (steps > 1),
    f"One class a column, {evaluations} a sample.",
    image=grids.png_bytes(grids.image_grid(to_pixels(samples), columns=columns, scale=6)),
    alt=f"Grid of {len(samples)} samples, one class a column",
  )


def _accuracy_table(figures: dict[str, float]) -> list[dict[str, Any]]:
  rows = [{"judged": "real test digits", "accuracy": figures["judge_accuracy_test"]}]
  for steps in STEPS:
    name = f"samples in {steps} step" + "s" * (steps > 1)
    rows.append({"judged": name, "accuracy": figures[f"judge_accuracy_{steps}_step"]})
  for t in JUDGED_TIMES:
    name = f"unlabelled posterior draws at t = {t:g}, the clean digit's class"
    rows.append({"judged": name, "accuracy": figures[f"posterior_accuracy_t{t:g}"]})
  return rows


def _curves(workdir: pathlib.Path) -> bytes:
  series: dict[str, tuple[list, list]] = {}
  for line in logging.read(workdir / "metrics.jsonl"):
    if line["name"].split("/")[1] in ("diagonal", "consistency"):
      steps, values = series.setdefault(line["name"], ([], []))
      steps.append(line["step"])
      values.append(line["value"])
  return style.figure_png(panels.curves(series, y_label="squared error per pixel"))
