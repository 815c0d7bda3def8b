"""Everything that `experiments.evaluate` prints: fidelity tables, and the FID suite of a run or of a file."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mfm_jax import checks
from mfm_jax.metrics import reference
from mfm_jax.training import distributed, fidelity, image_metrics
from mfm_jax.training.classifier import decode_for
from mfm_jax.training.features import extractor
from mfm_jax.training.image_metrics import Reference, Suite
from mfm_jax.training.run import Run
from mfm_jax.types import Decode

METRICS = (*fidelity.METRICS, *image_metrics.METRICS)
DATA = "data"  # the reference that is the run's own data
_CROPPED = ("tfds/imagenet2012", "images", "latents")  # data of ADM's centre crop


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig:
  """The flags of the FID suite.

  Attributes:
    inception: weight file, see `convert.inception`.
    reference: .npz of statistics or pictures, or "data" for a split of the run's data.
    split: of "data" and of the pictures that posterior_fid noises.
    convention, rounding: see `metrics.reference.Fingerprint`.
    crop: the same; "" for that of the run's data.
    num, few, splits, subset: see `image_metrics.Suite`.
    write_samples, write_reference: .npz to write the sample batch and the reference's statistics to.
  """

  inception: str = ""
  reference: str = DATA
  split: str = "train"
  convention: str = "adm"
  rounding: str = "nearest"
  crop: str = ""
  num: int = 50_000
  few: bool = False
  splits: int = 10
  subset: int = 1000
  write_samples: str = ""
  write_reference: str = ""


def evaluate(
  run: Run | None,
  metrics: Sequence[str],
  images: ImageConfig,
  *,
  sample_file: str = "",
  guidance: float | None = None,
  steps: int = 0,
  times: Sequence[float] = (),
  seed: int = 0,
  decode: Decode | None = None,
  contexts: int = 0,
  draws: int = 0,
) -> dict[str, Any]:
  """Tables by name, each a list of rows, and of the FID suite "extractor", which says how it was measured.

  Args:
    run: a trained run, None with `sample_file`.
    metrics: of METRICS.
    images: of the FID suite.
    sample_file: .npz of pictures that are measured in place of a run's samples.
    guidance: a trained scale, of the FID suite's samples.
    steps: jumps of a map (0: 1), steps of a plain flow's sampler (0: its default).
    times: values of t; () for the defaults of each metric.
    seed: of everything random.
    decode: model space -> pictures in [0, 1]; None for that of the run's images.
    contexts, draws: see `fidelity.evaluate`.

  Raises:
    ValueError: an unknown metric; a metric that needs a run without one; what the metrics refuse.
  """
  checks.at_least("number of metrics", len(metrics), 1)
  for metric in metrics:
    checks.one_of("metrics", metric, METRICS)
  of_maps = [metric for metric in metrics if metric in fidelity.METRICS]
  of_images = tuple(metric for metric in metrics if metric in image_metrics.METRICS)
  if sample_file and (of_maps or run is not None):
    given = "a run" if run is not None else f"metrics {', '.join(of_maps)}, which need a run"
    raise ValueError(f"--samples must come without a run and its metrics; got {given}")
  decode = None if decode is None else jax.jit(decode)
  if run is None and not sample_file:
    raise ValueError("a run, or a file of samples, must be given; got neither")
  out: dict[str, Any] = {}
  if run is not None and of_maps:
    distributed.require_one(f"metrics {', '.join(of_maps)}")
    out |= fidelity.evaluate(
      run,
      of_maps,
      seed=seed,
      contexts=contexts,
      draws=draws,
      steps=steps or 1,
      times=times,
      decode=decode,
    )
  if not of_images:
    return out
  if run is not None:
    decode = decode or decode_for(run.info)
    if decode is None:
      raise ValueError(
        f"metrics {', '.join(of_images)} need pictures; got data of shape {run.info.shape}: latents are "
        "measured through the decoder of their autoencoder (--vae)"
      )
    run.cond(np.zeros(1, np.int32) if run.info.num_classes else None, guidance, 1)  # before a long reference
  suite = suite_of(run, of_images, images, seed)
  known = reference_of(run, suite, images, decode)
  out["extractor"] = {**suite.fingerprint.described(), "reference": images.reference}
  if run is None:
    return out | {"images": [image_metrics.of_samples(suite, sample_file, known)]}
  how: dict[str, Any] = {"steps": steps, "guidance": guidance}
  assert decode is not None  # as above
  if set(of_images) - {"posterior_fid"}:
    out["images"] = [image_metrics.of_run(run, suite, known, decode, keep=images.write_samples, **how)]
  if "posterior_fid" in of_images:
    clean = image_metrics.split_of(run, images.split)
    times = times or image_metrics.POSTERIOR_TIMES
    out["posterior_fid"] = image_metrics.posterior_rows(run, suite, known, clean, decode, times=times, **how)
  return out


def suite_of(run: Run | None, metrics: tuple[str, ...], images: ImageConfig, seed: int) -> Suite:
  """The suite that `images` describes, of a run or of a file of samples; raises as `Suite`."""
  cropped = run is not None and run.config.data.name in _CROPPED
  crop = images.crop or ("center" if cropped else "none")
  extract, fingerprint = extractor(images.inception, images.convention, rounding=images.rounding, crop=crop)
  return Suite(
    metrics=metrics,
    extract=extract,
    fingerprint=fingerprint,
    num=images.num,
    few=images.few,
    splits=images.splits,
    subset=images.subset,
    seed=seed,
  )


def reference_of(run: Run | None, suite: Suite, images: ImageConfig, decode: Decode | None) -> Reference:
  """What `images` says that samples are compared with; writes its statistics where that is asked for.

  Raises:
    ValueError: "data" without a run, statistics of unknown pictures that are to be written, what
      `image_metrics.of_file` and `of_source` refuse.
  """
  if images.reference != DATA:
    known = image_metrics.of_file(suite, images.reference)
  elif run is None or decode is None:
    raise ValueError("--reference must name an .npz file with --samples, which has no data; got data")
  else:
    known = image_metrics.of_source(suite, image_metrics.split_of(run, images.split), decode)
  if images.write_reference:
    if not known.pool.count:
      raise ValueError(
        f"--write_reference must be of pictures, or a fingerprint would be made up; got {images.reference}, "
        "statistics that do not say what they are of"
      )
    statistics = known.pool, known.spatial, suite.fingerprint
    path = pathlib.Path(images.write_reference)
    distributed.on_primary(lambda: reference.write_statistics(path, *statistics))
  return known
