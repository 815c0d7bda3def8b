"""A folder made by training: what identifies it, and whether it may be written to again."""

import dataclasses
import json
import pathlib
from typing import Any

from mfm_jax.data.datasets import Dataset
from mfm_jax.training.config import RESUMABLE, differences, from_dict, to_dict

FORMAT = 1
RUN, CLASSIFIER, FINETUNED = "run", "classifier", "fine-tuned run"  # kinds of folders
# Keys, when a folder is used again.
_MAY_CHANGE = {RUN: (*RESUMABLE, "decoder"), CLASSIFIER: ("log_every",), FINETUNED: RESUMABLE}
_PARTIAL = "config.json.partial"  # all that a process killed at the start leaves


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataInfo:
  """What a network must know of its data; kept with the run, so that sampling needs no data."""

  shape: tuple[int, ...]
  num_classes: int
  data_std: float
  image: bool
  latent_scale: float = 1.0
  latent_shift: float = 0.0
  autoencoder: str = ""


def data_info(dataset: Dataset) -> DataInfo:
  """The `DataInfo` of a data set."""
  names = [field.name for field in dataclasses.fields(DataInfo)]
  return DataInfo(**{name: getattr(dataset, name) for name in names})


def check_workdir(workdir: pathlib.Path, config: Any, info: DataInfo, kind: str) -> None:
  """Raises unless `workdir` is new, empty, or holds the same training; writes nothing.

  Raises:
    ValueError: a foreign folder, one of another kind, or one that differs in a key that resuming may
      not change.
  """
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f"workdir must be a folder; got the file {workdir}")
  if not workdir.exists() or not {path.name for path in workdir.iterdir()} - {_PARTIAL}:
    return
  stored = _read(workdir, kind)
  new = describe(config, info, kind)
  # Keys that are newer than the folder have their defaults there.
  stored["config"] = to_dict(from_dict(type(config), stored["config"]))
  for key in _MAY_CHANGE[kind]:
    stored["config"].pop(key, None)
    new["config"].pop(key, None)
  changed = differences(stored["config"], new["config"])
  changed += differences(_data(stored), new["data"], "data")
  if changed:
    raise ValueError(
      f"the run in {workdir} can be resumed only with its own configuration; got {'; '.join(changed)}"
    )


def write_config(workdir: pathlib.Path, config: Any, info: DataInfo, kind: str, *, run: Any = None) -> None:
  """Writes config.json, atomically; see `describe`."""
  workdir.mkdir(parents=True, exist_ok=True)
  temporary = workdir / _PARTIAL
  temporary.write_text(json.dumps(describe(config, info, kind, run=run), indent=2) + "\n")
  temporary.replace(workdir / "config.json")


def kind_of(workdir: pathlib.Path) -> str:
  """The kind of a folder; raises as `read`."""
  return _read(workdir, RUN, CLASSIFIER, FINETUNED)["kind"]


def finetuned_guidance(workdir: pathlib.Path) -> float | None:
  """The guidance scale of a fine-tuned run, None of other runs; raises as `read`."""
  stored = _read(workdir, RUN, CLASSIFIER, FINETUNED)
  return stored["config"]["draws"]["guidance"] if stored["kind"] == FINETUNED else None


def read(workdir: pathlib.Path, config_type: type, *kinds: str) -> tuple[Any, DataInfo]:
  """The configuration and the data description of a folder of one of these kinds.

  Of a fine-tuned run it is the configuration that it is used with, as of any run, not that of its training.

  Raises:
    ValueError: a missing folder, one without config.json, of another format or of another kind.
  """
  stored = _read(workdir, *kinds)
  info = {**_data(stored), "shape": tuple(stored["data"]["shape"])}
  return from_dict(config_type, stored.get("run", stored["config"])), DataInfo(**info)


def describe(config: Any, info: DataInfo, kind: str, *, run: Any = None) -> dict[str, Any]:
  """The content of config.json.

  Args:
    config: of the training.
    info: of its data.
    kind: of the folder.
    run: what a fine-tuned run is used with, so that its folder needs no other: its base's `RunConfig`
      with what fine-tuning changed.
  """
  data = {**dataclasses.asdict(info), "shape": list(info.shape)}
  out = {"format": FORMAT, "kind": kind, "config": to_dict(config), "data": data}
  return out if run is None else {**out, "run": to_dict(run)}


def _data(stored: dict[str, Any]) -> dict[str, Any]:
  """The data description; what older folders do not have there, from the configuration of the data."""
  own = stored.get("run", stored["config"]).get("data", {})
  older = {name: own[name] for name in ("latent_scale", "latent_shift") if name in own}
  return {"autoencoder": "", **older, **stored["data"]}


def _read(workdir: pathlib.Path, *kinds: str) -> dict[str, Any]:
  path = workdir / "config.json"
  if not path.exists():
    what = "a folder without config.json" if workdir.exists() else "no such folder"
    raise ValueError(f"workdir must be a run folder; got {workdir}: {what}")
  try:
    stored = json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"config.json of a run folder must be JSON; got {path}: {error}") from None
  if not isinstance(stored, dict) or stored.get("format") != FORMAT:
    raise ValueError(f"config.json must be of a run of format {FORMAT}; got {path}")
  found = stored.setdefault("kind", RUN)  # folders older than the other kinds do not say
  if found not in kinds:
    raise ValueError(f"workdir must be the folder of a {kinds[0]}; got that of a {found}: {workdir}")
  return stored
