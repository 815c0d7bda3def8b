"""The sections of a report on a run itself: samples, posteriors, fidelity, fine-tuning, training curves."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mfm_jax.training import logging
from mfm_jax.viz import panels, style, tradeoffs
from mfm_jax.viz.report import Picture, Section

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
# Tables of evaluation.json: name -> (title, text, terms).
EVALUATION = {
  "posterior": (
    "Posterior fidelity",
    "One-step posterior draws against a reference at each t; a floor is what exact draws, or others of the "
    "reference, reach.",
  ),
  "value_sharp": ("Value, sharp reward", "Root-mean-square errors of V and of its gradient from the map's draws."),
  "value_quadratic": ("Value, broad reward", "The same for a broad quadratic reward."),
  "value": ("Value", "Estimates of V by one-step draws against those by rollouts."),
  "conditioning": ("Use of every input", "Held-out loss before and after shuffling one input; 1 is no increase."),
}


def sections(workdir: pathlib.Path, *, is_map: bool) -> list[Section]:
  """What the folder holds: samples and posteriors, tables of evaluation.json, curves of metrics.jsonl."""
  lines = logging.read(workdir / "metrics.jsonl") if (workdir / "metrics.jsonl").exists() else []
  out = [_samples(workdir, is_map=is_map), _posterior(workdir), _finetuning(workdir, lines)]
  out += [*_evaluation(workdir), _curves(lines)]
  return [section for section in out if section is not None]


def _samples(workdir: pathlib.Path, *, is_map: bool) -> Section | None:
  """Pictures of the training, and those of experiments.sample."""
  pictures = []
  if newest := _newest(workdir, "samples"):
    step = int(newest.stem.rpartition("_")[2])
    how = "one network evaluation a sample" if is_map else "by the probability flow"
    caption = f"After {step:,} steps, {how}."
    pictures.append(Picture(newest.read_bytes(), f"Samples after {step:,} steps", caption))
  drawn = workdir / "samples" / "marginal.png"
  if drawn.exists():
    pictures.append(Picture(drawn.read_bytes(), "Samples drawn by experiments.sample", "By `experiments.sample`."))
  return Section("Samples", "", pictures) if pictures else None


def _posterior(workdir: pathlib.Path) -> Section | None:
  path, drawn = _newest(workdir, "posterior"), workdir / "samples" / "posterior.png"
  paths = [path for path in (path, drawn) if path is not None and path.exists()]
  if not paths:
    return None
  text = """What clean data may have been, given a noisy state x_t (t = 0 is noise, t = 1 data): independent draws of
one network evaluation each. Early on they differ, later they agree; the spread is their standard deviation."""
  alt = "Held-out examples, their noisy states at several times, and posterior draws"
  return Section("Posterior draws", text, [Picture(path.read_bytes(), alt) for path in paths])


def _finetuning(workdir: pathlib.Path, lines: Sequence[Mapping[str, Any]]) -> Section | None:
  series = _series(lines)
  found = {name: series[f"eval/{name}"] for name in FINETUNING if f"eval/{name}" in series}
  if not found:
    return None
  summary = read_json(workdir / "summary.json") or {}
  base = {name: summary[f"base/{name}"] for name in found if f"base/{name}" in summary}
  last = {name: values[-1] for name, (_, values) in found.items()}
  rows = [{"model": "base", **_headed(base)}] if base else []
  rows.append({"model": f"after {found['reward'][0][-1]:,} steps", **_headed(last)})
  figure = tradeoffs.by_step({FINETUNING[name]: xy for name, xy in found.items()}, _headed(base))
  text = """The reward that is optimised, beside what it should not cost: a reward that rises while a judge's score or
diversity falls, or far from the base, may be exploited. Dotted: the base."""
  alt = f"{', '.join(_headed(last))} over the steps of fine-tuning"
  picture = Picture(style.figure_svg(figure, "finetuning"), alt)
  return Section("Panel against reward hacking", text, [picture], table=rows)


def _headed(figures: Mapping[str, float]) -> dict[str, float]:
  return {FINETUNING[name]: figures[name] for name in FINETUNING if name in figures}


def _evaluation(workdir: pathlib.Path) -> list[Section]:
  found = read_json(workdir / "evaluation.json") or {}
  return [
    Section(title, text, table=found[name])
    for name, (title, text) in EVALUATION.items()
    if any(found.get(name) or ())
  ]


def _curves(lines: Sequence[Mapping[str, Any]]) -> Section | None:
  series = _series(lines)
  losses = {
    f"{term}, {title}": series[f"{place}/{term}"]
    for term in ("diagonal", "consistency")
    for place, title in (("train", "training"), ("held_out", "held out"))
    if f"{place}/{term}" in series
  }
  charts = {"squared error per coordinate": losses}
  for name, label in (("train/loss", "weighted loss"), ("train/grad_norm", "gradient norm")):
    if name in series and not (losses and name == "train/loss"):
      charts[label] = {label: series[name]}
  pictures = [
    Picture(
      style.figure_svg(panels.curves(curves, y_label=label), f"curves-{i}"),
      f"{label[:1].upper()}{label[1:]} over the training steps",
    )
    for i, (label, curves) in enumerate(charts.items())
    if curves
  ]
  return Section("Training", "Means over the logging intervals.", pictures) if pictures else None


def _series(lines: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list, list]]:
  """Name -> (steps, values) of metrics.jsonl."""
  out: dict[str, tuple[list, list]] = {}
  for line in lines:
    steps, values = out.setdefault(line["name"], ([], []))
    steps.append(line["step"])
    values.append(line["value"])
  return out


def _newest(workdir: pathlib.Path, name: str) -> pathlib.Path | None:
  """The picture <name>_<step>.png of the last step."""
  paths = [path for path in (workdir / "samples").glob(f"{name}_*.png") if re.search(r"_\d+$", path.stem)]
  return max(paths, key=lambda path: int(path.stem.rpartition("_")[2]), default=None)


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
  """The object of a JSON file, None where there is none."""
  return json.loads(path.read_text()) if path.exists() else None
