"""What experiments.steer leaves: a table, the samples of each method as .npz, a picture beside them."""

import json
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mfm_jax.training import comparison, decoding, trajectories
from mfm_jax.training.comparison import Assessor
from mfm_jax.training.config import to_dict
from mfm_jax.training.steer_config import SteerConfig
from mfm_jax.training.steered import Outcome
from mfm_jax.training.subject import Subject
from mfm_jax.types import Reward
from mfm_jax.viz import grids, panels
from mfm_jax.viz.files import write_atomically, write_npz
from mfm_jax.viz.style import figure_png
from mfm_jax.viz.tables import text_table

FOLDER, SUMMARY = "steer", "steer.json"  # in the run folder
SHOWN = (
  "reward",
  "class_l2",
  "class_l2_se",
  "judge_score",
  "sw2",
  "sw2_se",
  "mmd2",
  "log_z",
  "diversity",
  "distance_to_base",
  "nfe",
  "cost_ratio",
  "cost_ratio_published",
  "seconds",
)


def files(workdir: str, out: str, methods: Sequence[str]) -> dict[str, pathlib.Path]:
  """The .npz of each method: steer/<method>.npz in the run folder, or `out`, with _<method> for several.

  Raises:
    ValueError: an `out` that does not end in .npz.
  """
  if not out:
    return {method: pathlib.Path(workdir) / FOLDER / f"{method}.npz" for method in methods}
  path = pathlib.Path(out)
  if path.suffix != ".npz":
    raise ValueError(f"--out must end in .npz; got {out}")
  if len(methods) == 1:
    return {methods[0]: path}
  return {method: path.with_name(f"{path.stem}_{method}.npz") for method in methods}


def steer(
  subject: Subject, reward: Reward, config: SteerConfig, paths: dict[str, pathlib.Path]
) -> dict[str, Any]:
  """Compares the methods and prints the table; each one's samples and row are written when it is done.

  Returns:
    The figures, also in steer.json beside the samples, or in <out>.json beside a single file.

  Raises:
    OSError: the folder of the files cannot be made (before anything is computed).
    ValueError: a reward or a sample that is not finite; what was done before it stays.
  """
  first = next(iter(paths.values()))
  first.parent.mkdir(parents=True, exist_ok=True)
  summary = first.with_suffix(".json") if len(paths) == 1 else first.with_name(SUMMARY)
  assess = comparison.assessor(subject, config, reward)
  result: dict[str, Any] = {
    "objective": assess.objective,
    "methods": [],
    "floor": comparison.floor(assess, config),
    "out": [],
    "step": subject.run.step if subject.run else None,
    "ema": subject.run.ema if subject.run else None,
    "config": to_dict(config),
  }
  recorded = trajectories.Recorder(subject, reward, config)
  keep = trajectories.fits(subject, config)
  for row, outcome in comparison.compare(subject, reward, config, assess, keep=keep):
    path = paths[row["method"]]
    write(path, outcome, subject, assess, config, recorded(row["method"], outcome))
    result["methods"].append(row)
    result["out"].append(str(path))
    write_atomically(summary, (json.dumps(result, indent=2) + "\n").encode())
  print(text(config, result["methods"]), flush=True)
  return result


def text(config: SteerConfig, rows: Sequence[dict[str, Any]]) -> str:
  """The table for a terminal."""
  title = f"{config.sampler}, {config.steps} steps, {config.seeds} x {config.num} samples"
  return text_table(title, table(rows))


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """The columns that tell methods apart, for people: "mfm_gf, N = 32" and the figures that were measured."""
  first, *others = SHOWN
  scores = [name for judge in judges(rows) for name in (judge, f"{judge}_se")]
  shown = (first, f"{first}_se", *scores, *others) if scores else SHOWN
  columns = [column for column in shown if any(row.get(column) is not None for row in rows)]
  return [{"method": name(row), **{column: row.get(column) for column in columns}} for row in rows]


def judges(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """The columns of other rewards that judge, such as "judge_hpsv2"."""
  names = dict.fromkeys(name for row in rows for name in row)
  return [
    name for name in names if name.startswith("judge_") and name != "judge_score" and f"{name}_se" in names
  ]


def name(row: dict[str, Any]) -> str:
  """The method with its settings, such as "mfm_gf, N = 32"."""
  parts = [row["method"]]
  if row["particles"]:
    parts.append(f"M = {row['particles']}")
  if row["draws"]:
    parts.append(f"N = {row['draws']}")
  if row["method"] == "dps":
    parts.append(f"K = {row['steps']}")
  if row.get("strength"):
    parts.append(f"λ = {row['strength']:g}")
  if row["scale"] != 1.0:
    parts.append(f"scale {row['scale']:g}")
  return ", ".join(parts)


def write(
  path: pathlib.Path,
  outcome: Outcome,
  subject: Subject,
  assess: Assessor,
  config: SteerConfig,
  recorded: Mapping[str, np.ndarray] = types.MappingProxyType({}),
) -> None:
  """The .npz of one method, `recorded` in it, and a picture beside it where its data can be drawn."""
  arrays = {"x1": outcome.x1, "reward": outcome.reward, **recorded}
  cond = subject.cond(len(outcome.x1)) or {}
  if "label" in cond:
    arrays["label"] = np.asarray(cond["label"])
  arrays |= {f"judge_{name}": scores for name, scores in outcome.judged.items()}
  if assess.judge is not None:
    arrays["judged"] = assess.judge.predict(outcome.x1)
  write_npz(path, arrays)
  picture = _picture(outcome.x1, subject, assess, config)
  if picture is not None:
    write_atomically(path.with_suffix(".png"), picture)


def _picture(x1: np.ndarray, subject: Subject, assess: Assessor, config: SteerConfig) -> bytes | None:
  """A grid of images, or a scatter beside the exact tilt; None for other data."""
  if len(subject.shape) == 3 and subject.decode is not None:
    return grids.png_bytes(grids.image_grid(decoding.pictures(subject.decode, x1[:80]), columns=10))
  if subject.shape == (2,) and assess.tilt is not None:
    exact = assess.exact(len(x1), config.seed)
    return figure_png(panels.scatter_panel(x1, exact, "Steered samples", names=("steered", "exact tilt")))
  return None
