"""The sections of a report on steering, from what experiments.steer left in the run folder."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mfm_jax.data.sources import to_pixels
from mfm_jax.metrics import classes
from mfm_jax.training import steer_report
from mfm_jax.viz import steering, style, tradeoffs
from mfm_jax.viz.report import Measured, Picture, Section

# Columns of the table, and figures of the panel against reward hacking: name in a row -> (heading, meaning).
FIGURES = {
  "reward": ("reward", "what is optimised, mean over the samples"),
  "class_l2": ("L2 to target", "distance of the judged class proportions to the target; less is better"),
  "judge_score": ("judge", "mean weight in the reward of the class that an independent judge gives a sample"),
  "sw2": ("sliced W2", "to exact samples of the tilted law p exp(r); less is better"),
  "mmd2": ("MMD²", "squared maximum mean discrepancy to the same, unbiased; less is better"),
  "log_z": ("log Z", "estimate of log E[exp r] by sequential Monte Carlo"),
  "diversity": ("diversity", "mean distance of two samples (of one judged class)"),
  "distance_to_base": ("distance to base", "energy distance to samples of the model without steering"),
  "nfe": ("passes", "forward and backward, of network and reward, for one sample"),
  "seconds": ("seconds", "of a seed, without compilation"),
}
PANEL = ("reward", "judge_score", "diversity", "distance_to_base")  # judges stand after the reward
BETTER = {"sw2": "sliced W2 to exact samples", "class_l2": "L2 to target proportions"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steered:
  """What is in the folder.

  Attributes:
    rows: one a method, see docs/cli.md.
    objective: the figure that the comparison is about.
    floor: figures of exact samples, where the tilt is known.
    config: of the comparison.
    arrays: .npz of each method that has one, by method.
    pictures: .png likewise.
  """

  rows: list[dict[str, Any]]
  objective: str
  floor: Mapping[str, float]
  config: dict[str, Any]
  arrays: dict[str, dict[str, np.ndarray]]
  pictures: dict[str, bytes]


def read(workdir: pathlib.Path) -> Steered | None:
  """The newest comparison in the folder, None without one.

  Methods that were steered one by one are put together, as far as all else of their configuration is that
  of the newest; of a method that was steered twice the newer result counts.
  """
  folder = workdir / steer_report.FOLDER
  paths = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
  found = [result for path in paths if (result := json.loads(path.read_text())).get("methods")]
  if not found:
    return None
  newest = found[-1]
  rows: dict[str, dict[str, Any]] = {}
  for result in found:
    if _setting(result) == _setting(newest):
      rows |= {row["method"]: row for row in result["methods"]}
  rows = {method: rows[method] for method in sorted(rows, key=lambda method: method != "base")}
  arrays, pictures = {}, {}
  for method in rows:
    path = folder / f"{method}.npz"
    if path.exists():
      with np.load(path, allow_pickle=False) as file:
        arrays[method] = dict(file)
    if path.with_suffix(".png").exists():
      pictures[method] = path.with_suffix(".png").read_bytes()
  return Steered(
    rows=list(rows.values()),
    objective=newest["objective"],
    floor=newest["floor"] or {},
    config=newest["config"],
    arrays=arrays,
    pictures=pictures,
  )


def _setting(result: Mapping[str, Any]) -> dict[str, Any]:
  """What rows must share to stand in one table."""
  shared = {name: value for name, value in result["config"].items() if name != "methods"}
  return {**shared, "step": result["step"], "ema": result["ema"]}


def sections(found: Steered) -> list[Section]:
  """All that the folder holds of it, in the order of a report."""
  out = [_comparison(found), _cost(found)]
  if len(found.rows) > 1:
    out.append(_hacking(found))
  parts = (_proportions(found), _values(found), _paths(found), _samples(found))
  return out + [part for part in parts if part is not None]


def _comparison(found: Steered) -> Section:
  figures = _figures(found)
  shown = {name: title for name, (title, _) in figures.items() if any(name in row for row in found.rows)}
  rows = []
  for row in found.rows:
    cells = {
      title: None if row.get(name) is None else Measured(row[name], row.get(f"{name}_se"))
      for name, title in shown.items()
    }
    rows.append({"method": steer_report.name(row), **cells, "passes": row["nfe"]})
  if found.floor:
    exact = {
      title: Measured(found.floor[name], found.floor.get(f"{name}_se"))
      for name, title in shown.items()
      if name in found.floor
    }
    rows.append({"method": "exact samples", **exact})
  terms = {title: figures[name][1] for name, title in shown.items()}
  return Section("Steering", _explanation(found), table=rows, terms=terms)


def _figures(found: Steered) -> dict[str, tuple[str, str]]:
  """`FIGURES` with the rewards that judge after the one that is optimised."""
  reward, *others = FIGURES.items()
  judges = {
    name: (
      name.removeprefix("judge_"),
      "score by this reward; it is optimised only where it is the reward",
    )
    for name in steer_report.judges(found.rows)
  }
  return dict([reward, *judges.items(), *others])


def _explanation(found: Steered) -> str:
  config = found.config
  sampler, steps, seeds, num = (config[name] for name in ("sampler", "steps", "seeds", "num"))
  spread = (
    f"Figures are means over {seeds} seeds of {num} samples, ± their standard error."
    if seeds > 1
    else f"Figures are of one seed of {num} samples."
  )
  return f"""{_reward(config)} The methods integrate the same {sampler.upper()} in {steps} steps; where their
number of draws was left open it is what the cost of MFM-GF buys. {spread}"""


def _reward(config: Mapping[str, Any]) -> str:
  reward, more = config["reward"], len(config["more_rewards"])
  weight = "" if reward["weight"] == 1.0 else f"{reward['weight']:g} times "
  if reward["name"] == "classes":
    total = sum(reward["classes"])
    wanted = " and ".join(f"{w / total:.0%} of class {k}" for k, w in enumerate(reward["classes"]) if w)
    text = f"The reward is {weight}log Σ w p(c | x) by a classifier, towards {wanted}."
  elif reward["name"] == "likelihood":
    sigma = reward["sigma"]
    text = f"The reward is {weight}the Gaussian log-likelihood of a measurement y = A x, σ = {sigma:g}."
  elif reward["name"] == "quadratic":
    centre = ", ".join(f"{x:g}" for x in reward["centre"])
    text = f"The reward is {weight}-|x - c|² / 2σ² with c = ({centre}) and σ = {reward['sigma']:g}."
  elif reward["name"] == "python":
    text = f"The reward is {weight}the Python function `{reward['function']}`, without a gradient."
  else:
    prompt = reward["preference"]["prompt"]
    of = "" if reward["name"] == "aesthetic" else f" of the prompt “{prompt}”"
    text = f"The reward is {weight}the score by {reward['name']}{of}."
  return text + (f" {more} more rewards join it." if more else "")


def _cost(found: Steered) -> Section:
  titles = {"reward": "reward"}
  if found.objective != "reward":
    titles[found.objective] = f"{BETTER[found.objective]} (less is better)"
  qualities = {
    title: [
      (steer_report.name(row), row["nfe"], row[name], row.get(f"{name}_se"))
      for row in found.rows
      if row.get(name) is not None
    ]
    for name, title in titles.items()
  }
  exact = {titles[name]: ("exact samples", found.floor[name]) for name in titles if name in found.floor}
  figure = steering.cost_chart(qualities, x_label="passes for a sample", lines=exact)
  text = "Passes are forward and backward, of network and reward; bars are two standard errors."
  alt = f"{' and '.join(titles.values())} of each method against its cost"
  return Section("Reward against cost", text, [Picture(style.figure_svg(figure, "cost"), alt)])


def _hacking(found: Steered) -> Section:
  panel = (PANEL[0], *steer_report.judges(found.rows), *PANEL[1:])
  names = [name for name in panel if any(row.get(name) is not None for row in found.rows)]
  titles = _figures(found)
  figures = {
    titles[name][0]: [(row.get(name), row.get(f"{name}_se")) for row in found.rows] for name in names
  }
  methods = [steer_report.name(row) for row in found.rows]
  figure = tradeoffs.by_method(methods, figures)
  judge = "a judge's score or " if any(name.startswith("judge_") for name in names) else ""
  text = f"""The reward that is optimised, beside what it should not cost. A method whose reward rises while
{judge}diversity falls, or that ends far from the base model, may be exploiting the reward. The dotted rule is
{methods[0]}; bars are two standard errors."""
  alt = f"{', '.join(figures)} of each method"
  return Section("Panel against reward hacking", text, [Picture(style.figure_svg(figure, "hacking"), alt)])


def _proportions(found: Steered) -> Section | None:
  reward = found.config["reward"]
  judged = {method: arrays["judged"] for method, arrays in found.arrays.items() if "judged" in arrays}
  if found.objective != "class_l2" or not judged:
    return None
  target = np.asarray(reward["classes"]) / sum(reward["classes"])
  rows = {method: classes.class_frequencies(x, len(target)) for method, x in judged.items()}
  picture = Picture(
    style.figure_svg(steering.class_bars(rows, target), "classes"),
    "Judged class proportions of each method beside the target",
  )
  text = (
    "What the judge, a classifier that the reward does not know, takes the samples of the first seed for."
  )
  return Section("Class proportions", text, [picture])


def _values(found: Steered) -> Section | None:
  values = {
    method: (arrays["path_t"], arrays["path_value"])
    for method, arrays in found.arrays.items()
    if "path_value" in arrays and np.isfinite(arrays["path_value"]).all()
  }
  if not values:
    return None
  order = [row["method"] for row in found.rows]
  figure = steering.value_curves(values, y_label="V, nats", order=order)
  n = next(iter(values.values()))[1].shape[1]
  text = f"""Vₜ(xₜ) = log E[exp r(X₁) | xₜ] along the paths of {n} samples of each method, by one estimate
from posterior draws for all of them; bands are two standard errors."""
  picture = Picture(style.figure_svg(figure, "value"), "Mean value on the way from noise to data, by method")
  return Section("Value along the way", text, [picture])


def _paths(found: Steered) -> Section | None:
  paths, shared = {}, None
  for method, arrays in found.arrays.items():
    if "path_x" not in arrays or arrays["path_x"].ndim != 5 or arrays["path_x"].shape[-1] not in (1, 3):
      continue
    shared = arrays["path_t"] if shared is None else shared
    if np.array_equal(arrays["path_t"], shared):
      paths[method] = to_pixels(arrays["path_x"])
  if shared is None:
    return None
  picture = Picture(
    style.figure_png(steering.path_panel(paths, shared)), "States at several times for each method"
  )
  text = "Samples of each method from the same starting noise."
  return Section("Paths from noise to data", text, [picture])


def _samples(found: Steered) -> Section | None:
  if not found.pictures:
    return None
  names = {row["method"]: steer_report.name(row) for row in found.rows}
  pictures = [Picture(png, f"Samples of {names[m]}", names[m]) for m, png in found.pictures.items()]
  # A row of charts a method is a long way to scroll; grids of images stand side by side.
  large = len(pictures) > 2 and next(iter(found.arrays.values()))["x1"].ndim == 2
  return Section("Steered samples", "Of the first seed.", pictures, folded=large)
