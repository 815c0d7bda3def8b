"""The FID benchmark of a trained run: samples in a few steps, and posterior draws of noised pictures."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mfm_jax import checks
from mfm_jax.metrics import published
from mfm_jax.training import distributed, evaluation, image_metrics
from mfm_jax.training.evaluation import ImageConfig
from mfm_jax.training.run import Run
from mfm_jax.training.subject import Subject
from mfm_jax.types import Decode
from mfm_jax.viz import fid as chart
from mfm_jax.viz import style
from mfm_jax.viz.tables import text_table

REFERENCE = "reference.npz"  # in the folder: statistics of the run's data, so that they are computed once
SAMPLES, POSTERIOR = "samples", "posterior"  # parts of the benchmark
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FidConfig:
  """What is measured.

  Attributes:
    images: extractor, reference and number of samples; its files that are written are the benchmark's own.
    metrics: of the samples, of `image_metrics.METRICS`.
    steps: of the samples: jumps of a map (K-step refinement), a row each.
    times: t of the noised pictures whose posterior draws are measured, a row each; () for none.
    posterior_steps: jumps of a posterior draw.
    guidance: scale of all of them, one that the run was trained with; 0 for its default.
    seed: of labels, samples and noise.
  """

  images: ImageConfig = dataclasses.field(default_factory=ImageConfig)
  metrics: tuple[str, ...] = ("fid", "sfid", "is")
  steps: tuple[int, ...] = (1, 2, 4)
  times: tuple[float, ...] = image_metrics.POSTERIOR_TIMES
  posterior_steps: int = 1
  guidance: float = 0.0
  seed: int = 0

  def __post_init__(self):
    for metric in self.metrics:
      checks.one_of("fid.metrics", metric, set(image_metrics.METRICS) - {"posterior_fid"})
    if "fid" not in self.metrics:
      raise ValueError(f"fid.metrics must hold fid; got {', '.join(self.metrics) or 'none'}")
    for name, values in (("steps", self.steps), ("posterior_steps", (self.posterior_steps,))):
      for value in values:
        checks.at_least(f"fid.{name}", value, 1)
    for t in self.times:
      checks.in_interval("fid.times", t)
    checks.at_least("number of rows of fid.steps and fid.times", len(self.steps) + len(self.times), 1)
    if self.images.write_samples or self.images.write_reference:
      raise ValueError(
        "fid.images.write_samples and write_reference must be '': the benchmark keeps its own; got "
        f"{self.images.write_samples!r} and {self.images.write_reference!r}"
      )

  @property
  def scale(self) -> float | None:
    """The guidance scale, None for the run's default."""
    return self.guidance or None


def check(config: FidConfig, what: Subject) -> tuple[Run, Decode]:
  """What can be known before anything is computed; the run, and how its samples become pictures.

  Raises:
    ValueError: closed forms; latents without their autoencoder; a guidance scale that the run does not have.
  """
  if what.run is None or what.decode is None:
    got = "closed forms" if what.run is None else f"data of shape {what.shape}"
    raise ValueError(
      f"kind=fid needs a run of pictures, or of latents with --config.steer.decoder=<autoencoder>; got {got}"
    )
  labelled = np.zeros(1, np.int32) if what.run.info.num_classes else None
  what.run.cond(labelled, config.scale, 1)
  return what.run, what.decode


def measure(
  config: FidConfig,
  what: Subject,
  folder: pathlib.Path,
  *,
  has: Callable[[Row], bool],
  add: Callable[[Row], None],
  extracted_by: Callable[[dict[str, str]], None],
) -> None:
  """Measures the rows that are not there yet, one after the other; every process must call it.

  Args:
    config: what is measured.
    what: the run.
    folder: of the benchmark, for the statistics of the reference.
    has: whether there is a row with these entries.
    add: takes a row.
    extracted_by: takes the fingerprint of the features before the first row; raises for another one.

  Raises:
    ValueError: what `check` and the suite refuse.
  """
  todo = [key for key in keys(config) if not has(key)]
  if not todo:
    return
  run, decode = check(config, what)
  decode = jax.jit(decode)
  metrics = (*config.metrics, *(("posterior_fid",) if config.times else ()))
  suite = evaluation.suite_of(run, metrics, config.images, config.seed)
  extracted_by(suite.fingerprint.described())
  known = evaluation.reference_of(run, suite, _kept_reference(config, suite, folder), decode)
  how: dict[str, Any] = {"guidance": config.scale}
  of_samples = dataclasses.replace(suite, metrics=config.metrics)
  for key in todo:
    if key["part"] == SAMPLES:
      found = image_metrics.of_run(run, of_samples, known, decode, steps=key["steps"], **how)
      theirs = published.at(key["steps"])
      own = {"published": theirs and theirs.fid, "published_source": theirs and theirs.source}
    else:
      clean = image_metrics.split_of(run, config.images.split)
      how_drawn = {"times": (key["t"],), "steps": key["steps"], **how}
      (found,) = image_metrics.posterior_rows(run, suite, known, clean, decode, **how_drawn)
      found = {"num": found["num"], "num_reference": known.pool.count, "fid": found["posterior_fid"]}
      own = {}
    add({**key, "guidance": config.scale or run.scales[0], **found, **own})


def keys(config: FidConfig) -> list[Row]:
  """What tells the rows apart, in their order."""
  samples = [{"part": SAMPLES, "steps": steps} for steps in config.steps]
  return samples + [{"part": POSTERIOR, "t": t, "steps": config.posterior_steps} for t in config.times]


def _kept_reference(config: FidConfig, suite: image_metrics.Suite, folder: pathlib.Path) -> ImageConfig:
  """With the run's data as the reference, the file of their statistics where that is enough."""
  path = folder / REFERENCE
  if config.images.reference != evaluation.DATA or image_metrics.needs_pictures(suite):
    return config.images
  if distributed.agreed(path.exists()):
    return dataclasses.replace(config.images, reference=str(path))
  return dataclasses.replace(config.images, write_reference=str(path))


def report(rows: list[Row]) -> str:
  """The tables of both parts, and of what is published."""
  parts = {part: [row for row in rows if row["part"] == part] for part in (SAMPLES, POSTERIOR)}
  tables = [
    text_table(title, [{name: value for name, value in row.items() if name != "part"} for row in parts[part]])
    for part, title in ((SAMPLES, "samples"), (POSTERIOR, "posterior draws of noised pictures"))
    if parts[part]
  ]
  theirs = text_table("published, ImageNet 256", [dataclasses.asdict(known) for known in published.FIGURES])
  return "\n".join([*tables, theirs])


def figure(rows: list[Row]) -> bytes:
  """PNG: FID against steps, beside what is published, and of posterior draws against t."""
  ours = [(row["steps"], row["fid"]) for row in rows if row["part"] == SAMPLES]
  drawn = [(row["t"], row["fid"]) for row in rows if row["part"] == POSTERIOR]
  theirs: dict[str, list[tuple[float, float]]] = {}
  for known in published.FIGURES:
    theirs.setdefault(known.model, []).append((known.steps, known.fid))
  return style.figure_png(chart.curves(ours, drawn, theirs))
