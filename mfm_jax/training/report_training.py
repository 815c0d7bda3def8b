"""The sections of a report on a run itself: samples, posteriors, fidelity, fine-tuning, training curves."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mfm_jax.training import logging
from mfm_jax.viz import panels, style
from mfm_jax.viz.report import Picture, Section

Curve = tuple[list[int], list[float]]  # steps, values

JUDGED = "judged.json"  # in the run folder: rows of an independent judge on samples
# Figures of fine-tuning in their order, the optimised one first: name in metrics.jsonl -> heading.
FINETUNING = {
  "reward": "reward",
  "judge_score": "judge",
  "class_l2": "L2 to target proportions",
  "sw2": "sliced W2 to exact samples",
  "diversity": "diversity",
  "distance_to_base": "distance to base",
  "kl": "KL to base, nats",
}
# Curves of training: name in metrics.jsonl -> title.
CURVES = {
  "loss": "loss",
  "diagonal": "diagonal error",
  "consistency": "consistency error",
  "reward": "reward of the draws",
  "grad_norm": "gradient norm",
}
# Columns of evaluation.json: name -> heading.
COLUMNS = {
  "sw2": "sliced W2",
  "value_error": "error of V",
  "value_floor": "floor of V",
  "value_relative": "relative error of V",
  "value_spread": "spread of V",
  "pearson": "correlation of V",
  "grad_relative": "relative error of ∇V",
  "grad_floor": "floor of ∇V",
  "energy": "energy distance",
  "energy_floor": "its floor",
  "energy_mean": "of the mean alone",
  "energy_data": "to data",
  "energy_data_floor": "floor to data",
  "class_tv": "classes: total variation",
  "class_tv_rollouts": "of rollouts",
  "class_tv_floor": "floor of classes",
  "class_tv_prior": "of the prior",
  "num_reference": "of the reference",
  "fid": "FID",
  "sfid": "sFID",
  "inception_score": "Inception Score",
  "inception_score_std": "its deviation",
  "kid": "KID",
  "kid_std": "its deviation, of subsets",
  "class_fid": "FID within classes",
  "posterior_fid": "FID of draws",
}
# Tables of evaluation.json: name -> (title, text).
EVALUATION = {
  "posterior": (
    "Posterior fidelity",
    "One-step posterior draws against a reference at each t; a floor is what exact draws, or others of the "
    "reference, reach.",
  ),
  "value_sharp": (
    "Value, sharp reward",
    "Root-mean-square errors of V and of its gradient from the map's draws.",
  ),
  "value_quadratic": ("Value, broad reward", "The same for a broad quadratic reward."),
  "value": ("Value", "Estimates of V by one-step draws against those by rollouts."),
  "images": (
    "Samples against the data",
    "Distances of features of samples to those of the reference; the JSON names the features.",
  ),
  "posterior_fid": (
    "Posterior draws against the data",
    "One draw for each noised picture, against the clean ones: an exact posterior has at every t the figure "
    "of fresh pictures.",
  ),
  "conditioning": (
    "Use of every input",
    "Held-out loss before and after shuffling one input: it rises for an input that is used.",
  ),
}


def pictures(workdir: pathlib.Path, *, is_map: bool, image: bool, latents: bool = False) -> list[Section]:
  """Samples and posterior draws, as far as the folder holds them.

  Args:
    workdir: run folder.
    is_map: False for a plain flow.
    image: whether an example is shown as a picture, not as a point.
    latents: whether the pictures of the training are of latents that were not decoded.
  """
  out = [_samples(workdir, is_map=is_map, latents=latents), _posterior(workdir, image=image)]
  return [section for section in out if section is not None]


def figures(workdir: pathlib.Path) -> list[Section]:
  """Fine-tuning, tables of evaluation.json and curves of metrics.jsonl, as far as the folder holds them."""
  lines = logging.read(workdir / "metrics.jsonl") if (workdir / "metrics.jsonl").exists() else []
  series = _series(lines)
  out = [_finetuning(workdir, series), *_evaluation(workdir), _curves(series)]
  return [section for section in out if section is not None]


def _samples(workdir: pathlib.Path, *, is_map: bool, latents: bool) -> Section | None:
  """Pictures of the training, and those of experiments.sample."""
  found = []
  if newest := _newest(workdir, "samples"):
    step = int(newest.stem.rpartition("_")[2])
    how = "one network evaluation a sample" if is_map else "by the probability flow"
    what = " Latents, not decoded: their first three channels." if latents else ""
    caption = f"After {step:,} steps, {how}.{what}"
    found.append(Picture(newest.read_bytes(), f"Samples after {step:,} steps", caption))
  drawn = workdir / "samples" / "marginal.png"
  if drawn.exists():
    found.append(Picture(drawn.read_bytes(), "Samples", "Drawn by `experiments.sample`."))
  return Section("Samples", "", found) if found else None


def _posterior(workdir: pathlib.Path, *, image: bool) -> Section | None:
  path, drawn = _newest(workdir, "posterior"), workdir / "samples" / "posterior.png"
  paths = [path for path in (path, drawn) if path is not None and path.exists()]
  if not paths:
    return None
  shown = "their spread is the standard deviation of a pixel" if image else "exact draws are beneath, in grey"
  text = f"""What clean data may have been, given a noisy state xₜ (t = 0 is noise, t = 1 data): independent
draws, of one network evaluation each. Early on they differ, later they agree; {shown}."""
  alt = "Held-out examples, their noisy states at several times, and posterior draws"
  return Section("Posterior draws", text, [Picture(path.read_bytes(), alt) for path in paths])


def _finetuning(workdir: pathlib.Path, series: Mapping[str, Curve]) -> Section | None:
  headings = _headings(series)
  found = {name: series[f"eval/{name}"] for name in headings}
  if not found:
    return None

  def headed(figures: Mapping[str, float]) -> dict[str, float]:
    return {heading: figures[name] for name, heading in headings.items() if name in figures}

  summary = read_json(workdir / "summary.json") or {}
  base = {name: summary[f"base/{name}"] for name in found if f"base/{name}" in summary}
  last = {name: values[-1] for name, (_, values) in found.items()}
  rows = [{"model": "base", **headed(base)}] if base else []
  rows.append({"model": f"after {found['reward'][0][-1]:,} steps", **headed(last)})
  charts = {headings[name]: {"fine-tuned": curve} for name, curve in found.items()}
  figure = panels.multiples(charts, rules=headed(base))
  text = """The reward that is optimised, beside what it should not cost: a reward that rises while diversity
or a judge's score falls, or far from the base, may be exploited. The dotted rule is the base."""
  alt = f"{', '.join(headed(last))} over the steps of fine-tuning"
  picture = Picture(style.figure_svg(figure, "finetuning"), alt)
  return Section("Panel against reward hacking", text, [picture], table=rows)


def _headings(series: Mapping[str, Curve]) -> dict[str, str]:
  """Name -> heading of the figures of fine-tuning: the reward, other rewards that judge, the rest."""
  there = [name.removeprefix("eval/") for name in series if name.startswith("eval/")]
  judges = {name: name.removeprefix("judge_") for name in there if name.startswith("judge_")}
  ordered = {"reward": "", **judges, **FINETUNING}
  return {name: heading for name, heading in ordered.items() if name in there}


def _evaluation(workdir: pathlib.Path) -> list[Section]:
  found = read_json(workdir / "evaluation.json") or {}
  rows = read_json(workdir / JUDGED)
  text = """A classifier that the network has not seen judges class-conditional samples, and posterior draws
given noisy test images: the share that it gives the right class."""
  judged = [Section("Judged samples", text, table=rows)] if rows else []
  return judged + [
    Section(title, text, table=[{COLUMNS.get(key, key): row[key] for key in row} for row in found[name]])
    for name, (title, text) in EVALUATION.items()
    if any(found.get(name) or ())
  ]


def _curves(series: Mapping[str, Curve]) -> Section | None:
  charts = {}
  for name, title in CURVES.items():
    places = {"training": f"train/{name}", "held out": f"held_out/{name}"}
    found = {place: series[full] for place, full in places.items() if full in series}
    if found:
      charts[title] = found
  if not charts:
    return None
  figure = panels.multiples(charts)
  picture = Picture(style.figure_svg(figure, "curves"), f"{', '.join(charts)} over the training steps")
  text = """Against the step, as means over the logging intervals. Errors are squared, per coordinate, before
weighting."""
  return Section("Training", text, [picture])


def _series(lines: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
  """Name -> (steps, values) of metrics.jsonl, of what was finite at any step."""
  out: dict[str, Curve] = {}
  for line in lines:
    steps, values = out.setdefault(line["name"], ([], []))
    steps.append(line["step"])
    values.append(line["value"])
  return {name: curve for name, curve in out.items() if np.isfinite(curve[1]).any()}


def _newest(workdir: pathlib.Path, name: str) -> pathlib.Path | None:
  """The picture <name>_<step>.png of the last step."""
  paths = [path for path in (workdir / "samples").glob(f"{name}_*.png") if re.search(r"_\d+$", path.stem)]
  return max(paths, key=lambda path: int(path.stem.rpartition("_")[2]), default=None)


def read_json(path: pathlib.Path) -> Any:
  """The content of a JSON file, None where there is none."""
  return json.loads(path.read_text()) if path.exists() else None
