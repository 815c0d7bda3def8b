"""The report of a run folder: one HTML file of whatever is in it.

It reads files alone (config.json, metrics.jsonl, summary.json, evaluation.json, judged.json, samples/,
steer/, provenance.json), loads no network and leaves out what is not there, so that a run may still train.
"""

import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from mfm_jax.data.datasets import DataConfig
from mfm_jax.training import folder, provenance, report_steering, report_training
from mfm_jax.training.config import RunConfig, to_dict
from mfm_jax.training.finetune_config import FinetuneConfig
from mfm_jax.training.report_training import read_json
from mfm_jax.viz.report import Section, write_report

FILE = "report.html"


def write(workdir: str | os.PathLike) -> dict[str, Any]:
  """Writes report.html into the folder.

  Returns:
    {"path", "bytes", "sections": titles, "seconds"}.

  Raises:
    ValueError: a folder that does not exist or holds neither a run nor steered samples, or whose files cannot
      be read.
  """
  start, workdir = time.monotonic(), pathlib.Path(workdir)
  config = read_json(workdir / "config.json")
  steered = report_steering.read(workdir)
  if config is None and steered is None:
    what = "a folder without either" if workdir.exists() else "no such folder"
    raise ValueError(f"workdir must hold a run or steered samples; got {workdir}: {what}")
  sections = [] if steered is None else report_steering.sections(steered)
  if config is not None:
    latents = _is_of_latents(config)
    shown = {"image": config["data"]["image"] or latents}
    shown["latents"] = latents and not config.get("run", config["config"]).get("decoder")
    pictures = report_training.pictures(workdir, is_map=_is_map(config), **shown)
    sections = [*pictures, *sections, *report_training.figures(workdir), *_configuration(config)]
  path = workdir / FILE
  size = write_report(
    path,
    _title(config),
    sections,
    subtitle=f"`{workdir}`",
    highlights=_highlights(workdir),
    provenance=_provenance(workdir, config, steered),
  )
  titles = [section.title for section in sections]
  return {"path": str(path), "bytes": size, "sections": titles, "seconds": round(time.monotonic() - start, 2)}


def finish(workdir: str | os.PathLike, name: str, command: str, *, of: str = "") -> None:
  """What a command that filled a folder does last: records its provenance and writes the report.

  A report is no reason for a finished run to fail: what cannot be read, drawn or written is a line of output.

  Args:
    workdir, name, command, of: as `provenance.record`.
  """
  try:
    provenance.record(workdir, name, command, of=of)
    print(f"report: {write(workdir)['path']}", flush=True)
  except (OSError, ValueError) as error:
    print(f"no report: {' '.join(str(error).split())}", flush=True)


def _is_map(config: Mapping[str, Any]) -> bool:
  return config.get("run", config["config"]).get("loss", {}).get("consistency") != "none"


def _is_of_latents(config: Mapping[str, Any]) -> bool:
  data = config["data"]
  return not data["image"] and len(data["shape"]) == 3


def _title(config: Mapping[str, Any] | None) -> str:
  if config is None:
    return "Steered closed-form posteriors"
  data = config.get("run", config["config"])["data"]["name"]
  if config.get("kind") == folder.FINETUNED:
    return f"Meta Flow Map on {data}, fine-tuned to a reward"
  return f"{'Meta Flow Map' if _is_map(config) else 'Flow'} on {data}"


def _highlights(workdir: pathlib.Path) -> dict[str, Any]:
  summary = read_json(workdir / "summary.json")
  if summary is None:
    return {}
  minutes, seconds = divmod(round(summary["seconds"]), 60)
  out: dict[str, str | float] = {
    "training steps": f"{summary['steps']:,}",
    "training time": f"{minutes} min {seconds} s" if minutes else f"{seconds} s",
  }
  for name, title in (
    ("held_out/diagonal", "held-out error of the velocity"),
    ("eval/reward", "mean reward, fine-tuned"),
    ("base/reward", "mean reward, base"),
  ):
    if name in summary:
      out[title] = float(f"{summary[name]:.3g}")
  return out


def _configuration(config: Mapping[str, Any]) -> list[Section]:
  """What differs from the defaults, and folded, all keys."""
  own = _flat(config["config"])
  if config.get("kind") == folder.FINETUNED:
    default = to_dict(FinetuneConfig(base=own["base"]))
  else:
    default = to_dict(RunConfig(data=DataConfig(name=own["data.name"])))
  default = _flat(default)
  changed = [
    {"key": key, "value": _show(value), "default": _show(default.get(key))}
    for key, value in own.items()
    if value != default.get(key)
  ]
  every = [{"key": key, "value": _show(value)} for key, value in own.items()]
  text = "Keys that differ from their defaults."
  first = [Section("Configuration", text, table=changed)] if changed else []
  return [*first, Section("All keys of the configuration", table=every, folded=True)]


def _flat(group: Mapping[str, Any], path: str = "") -> dict[str, Any]:
  out: dict[str, Any] = {}
  for name, value in group.items():
    out |= _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
  return out


def _show(value: Any) -> str:
  if isinstance(value, list):
    return ", ".join(map(_show, value)) or "–"
  return "–" if value in ("", None) else f"{value:g}" if isinstance(value, float) else str(value)


def _provenance(workdir: pathlib.Path, config: Mapping[str, Any] | None, steered: Any) -> dict[str, Any]:
  out: dict[str, Any] = {
    name: {key: value for key, value in record.items() if value and key != "of"}
    for name, record in provenance.read(workdir).items()
  }
  if config is not None:
    out["training seed"] = str(config["config"]["seed"])
  if steered is not None:
    first, count = steered.config["seed"], steered.config["seeds"]
    out["sampling seeds"] = ", ".join(str(first + i) for i in range(count))
  summary = read_json(workdir / "summary.json") or {}
  if "params_sha256" in summary:
    out["parameters (SHA-256)"] = summary["params_sha256"]
  return out
