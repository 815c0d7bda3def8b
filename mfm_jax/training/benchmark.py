"""Runs a benchmark in a folder: trains what is missing, measures, and goes on where it stopped."""

import dataclasses
import json
import pathlib
import re
from typing import Any

import numpy as np

from mfm_jax.data import datasets
from mfm_jax.training import (
  against_best_of_n,
  comparison,
  distributed,
  fid_suite,
  folder,
  inverse,
  subject,
  variance,
)
from mfm_jax.training.benchmark_cases import cases, settings
from mfm_jax.training.benchmark_config import BenchmarkConfig
from mfm_jax.training.classifier import train_classifier
from mfm_jax.training.config import RunConfig, differences, to_dict
from mfm_jax.training.loop import train
from mfm_jax.training.reward_config import RewardConfig, scaled
from mfm_jax.training.run import Run, load_run, parts
from mfm_jax.training.steer_report import table
from mfm_jax.training.steered import NotFiniteError
from mfm_jax.training.subject import Subject
from mfm_jax.viz import style
from mfm_jax.viz.benchmark import error_curves
from mfm_jax.viz.files import write_atomically
from mfm_jax.viz.tables import text_table

RESULT, FIGURE = "benchmark.json", "benchmark.png"  # in the folder
PART = "benchmark_part_{}_of_{}.json"  # rows of one machine
RUN, CLASSIFIER = "run", "classifier"  # folders in it, of what is trained here
Row = dict[str, Any]


def benchmark(
  config: BenchmarkConfig,
  workdir: str | pathlib.Path,
  *,
  run: str = "",
  oracle: bool = False,
  ema: str = "",
  part: str = "",
) -> dict[str, Any]:
  """Measures what `config` says; rows that the folder has already are not measured again.

  Args:
    config: the benchmark.
    workdir: its folder: benchmark.json, benchmark.png, and what is trained.
    run: folder of a trained run, in place of one that is trained from config.run.
    oracle: closed-form posteriors of config.steer.mixture in place of a run.
    ema: average of the run's parameters, "" for the longest.
    part: "i/n" measures every n-th row alone, from the i-th, into a file of its own. A call without it
      gathers the rows of all parts.

  Returns:
    The content of benchmark.json: kind, rows, floor, config, and the hashes of run and classifiers.

  Raises:
    ValueError: no run to measure, or two; a folder with rows of another configuration or run; what the parts
      refuse.
  """
  workdir, oracle = pathlib.Path(workdir), oracle or config.steer.teacher == "oracle"
  if run and oracle:
    raise ValueError(f"--run and --oracle exclude each other; got --run={run} with --oracle")
  if not (run or oracle or config.run):
    raise ValueError("a benchmark without config.run needs --run or --oracle; got neither")
  if oracle and (config.kind in ("inverse", "fid") or ema):
    raise ValueError(
      f"--oracle must be absent for kind=inverse, for kind=fid and with --ema; got {config.kind}, --ema={ema}"
    )
  if config.kind != "fid":
    distributed.require_one(f"a benchmark of kind={config.kind}")
  training = None if run or oracle else config.run
  share = _share(part)
  if part and (config.kind != "steering" or training is not None or config.classifier is not None):
    raise ValueError(
      f"--part needs kind=steering, and --run or --oracle and a classifier that are there; got {part} with "
      f"kind={config.kind}"
    )
  if oracle:
    config = dataclasses.replace(config, steer=dataclasses.replace(config.steer, teacher="oracle"))
  if config.classifier is not None:
    config = _with_classifier(config, str(workdir / CLASSIFIER))
  ledger = _Ledger(workdir, config, share)
  if training is not None:
    run = str(workdir / RUN)
    _check(config, _subject(config, _untrained(training, workdir / RUN)), trained=False)
    train(training, run)
  what = subject.from_oracle(config.steer) if oracle else _subject(config, load_run(run, ema=ema))
  _check(config, what, trained=False)
  if config.classifier is not None:
    train_classifier(config.classifier, workdir / CLASSIFIER)
  _check(config, what, trained=True)
  parameters = "oracle" if what.run is None else what.run.sha256
  ledger.identify(parameters=parameters, classifiers=config.steer.classifiers)
  return {"steering": _steering, "variance": _variance, "inverse": _inverse, "fid": _fid}[config.kind](
    config, what, ledger
  )


def _share(part: str) -> tuple[int, int] | None:
  """(i, n) of "i/n"; None for all."""
  if not part:
    return None
  found = re.fullmatch(r"(\d+)/(\d+)", part)
  i, n = map(int, found.groups()) if found else (0, 0)
  if not i < n:
    raise ValueError(f"--part must be i/n with i from 0 to n - 1; got {part}")
  return i, n


def _subject(config: BenchmarkConfig, run: Run) -> Subject:
  own = config.steer
  return subject.from_run(
    run,
    label=own.label,
    guidance=own.guidance or None,
    glass_steps=own.glass_steps,
    oracle_drift=own.oracle_drift,
    decoder=own.decoder,
  )


def _untrained(config: RunConfig, workdir: pathlib.Path) -> Run:
  """The run that a configuration will be, to be checked before it is trained."""
  mixture = config.mixture.build() if config.data.name == "mixture" else None
  info = folder.data_info(datasets.load(config.data, mixture))
  known: dict[str, Any] = {"workdir": workdir, "config": config, "info": info, "parts": parts(config, info)}
  return Run(**known, step=0, ema="", params={}, sha256="")


def _check(config: BenchmarkConfig, what: Subject, *, trained: bool) -> None:
  """What can be known before anything is measured; without `trained` also before anything is trained."""
  if config.kind == "inverse":
    inverse.images(what, config.inverse)
  elif config.kind == "variance":
    what.velocity(what.params, differentiable=True)
    for part in config.variance.rewards:
      if trained or config.classifier is None or part.name != "classes":
        part.build()
  elif config.kind == "fid":
    fid_suite.check(config.fid, what)
  elif config.kind == "steering":
    # A classifier that is still to be trained is differentiable, and gives one number a sample.
    known = trained or config.classifier is None
    reward = config.steer.build_reward() if known else lambda x, cond: x.reshape(len(x), -1).sum(1)
    for case in {case.method: case for case in cases(config)}.values():
      subject.check(what, reward, settings(config.steer, case))


class _Ledger:
  """benchmark.json: the rows so far, each found by what tells it apart."""

  def __init__(self, workdir: pathlib.Path, config: BenchmarkConfig, share: tuple[int, int] | None = None):
    workdir.mkdir(parents=True, exist_ok=True)
    self.share = share
    self.path = workdir / (PART.format(*share) if share else RESULT)
    self.content: dict[str, Any] = {"kind": config.kind, "config": to_dict(config), "rows": []}
    for path in [self.path] if share else [self.path, *sorted(workdir.glob(PART.format("*", "*")))]:
      if path.exists():
        self._take(path)

  def _take(self, path: pathlib.Path) -> None:
    """The rows of a file, as far as they are not there."""
    old = json.loads(path.read_text())
    self._same(differences(old["config"], self.content["config"]))
    for name in ("parameters", "classifiers", "extractor"):
      if name in old:
        self._identify(name, old[name])
    new = [row for row in old["rows"] if row not in self.rows]
    self.content = {**old, **self.content, "rows": [*self.rows, *new]}
    if new:
      print(f"going on with {path}: {len(new)} rows", flush=True)

  def identify(self, **identities: Any) -> None:
    """Says whose rows they are: of which parameters, of the run and of the classifiers in the reward."""
    for name, identity in identities.items():
      self._identify(name, identity)

  def _identify(self, name: str, identity: Any) -> None:
    old = self.content.setdefault(name, identity)
    self._same(differences({name: old}, {name: identity}, "of the run"))

  def _same(self, changed: list[str]) -> None:
    if changed:
      raise ValueError(f"{self.path} is of another benchmark; got {'; '.join(changed)}")

  @property
  def rows(self) -> list[Row]:
    return self.content["rows"]

  def has(self, key: Row) -> bool:
    return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

  def add(self, *rows: Row) -> None:
    self.rows.extend(rows)
    self.set()

  def set(self, **values) -> dict[str, Any]:
    self.content |= values
    content = (json.dumps(self.content, indent=2) + "\n").encode()
    distributed.on_primary(lambda: write_atomically(self.path, content))
    return self.content


def _steering(config: BenchmarkConfig, what: Subject, ledger: _Ledger) -> dict[str, Any]:
  reward = config.steer.build_reward()
  assess = comparison.assessor(what, config.steer, reward)
  by_reward = assess.objective == "reward"
  if config.strengths and not by_reward:
    raise ValueError(
      f"strengths must be absent where methods are compared by {assess.objective}: of the reward without a "
      f"factor; got {config.strengths}"
    )
  reference: dict[str, dict[int, np.ndarray]] = {}
  first, every = ledger.share or (0, 1)
  for case in cases(config)[first::every]:
    if ledger.has(case.key):
      continue
    steer = settings(config.steer, case)
    if steer.sampler not in reference:
      reference[steer.sampler] = comparison.base_samples(what, reward, steer)
    strong = scaled(reward, case.strength) if case.strength else reward
    base, before = reference[steer.sampler], case.draws[:-1]
    try:
      found = comparison.run_method(what, strong, steer, assess, base, case.method, milestones=before)
    except NotFiniteError as error:
      print(f"{case.method}: {error}", flush=True)
      ledger.add({**case.key, "error": str(error)})
      continue
    rows = [{**case.asked, **row, "error": None} for row, _ in found]
    ledger.add(*[against_best_of_n.with_costs(row, config) for row in rows])
  result = ledger.set(
    objective=assess.objective,
    floor=comparison.floor(assess, config.steer),
    best_of_n=against_best_of_n.verdicts(ledger.rows, config.claim) if by_reward else None,
  )
  for sampler in dict.fromkeys(row["sampler"] for row in ledger.rows):
    rows = [row for row in ledger.rows if row["sampler"] == sampler and not row["error"]]
    if rows:
      print(text_table(sampler or "search", table(rows)), flush=True)
  if result["best_of_n"]:
    print(against_best_of_n.text(result["best_of_n"]), flush=True)
  if not ledger.share:
    write_atomically(ledger.path.with_name(FIGURE), style.figure_png(_figure(config, result)))
  return result


def _figure(config: BenchmarkConfig, result: dict[str, Any]):
  error = result["objective"]
  if error == "reward":
    return against_best_of_n.figure(result["rows"], order=config.steer.methods)
  panels: dict[str, dict[str, list]] = {}
  for sampler in config.samplers:
    methods = panels.setdefault(sampler.upper(), {})
    for row in result["rows"]:
      if row["sampler"] in (sampler, "") and not row["error"]:
        point = row["draws"], row["nfe"], row[error], row.get(f"{error}_se")
        methods.setdefault(row["method"], []).append(point)
  floor = result["floor"] and result["floor"][error]
  labels = {"sw2": "sliced W2 to the exact tilt", "class_l2": "L2 to the class proportions"}
  return error_curves(panels, y_label=labels[error], floor=floor, order=config.steer.methods)


def _variance(config: BenchmarkConfig, what: Subject, ledger: _Ledger) -> dict[str, Any]:
  for part in config.variance.rewards:
    if ledger.has({"reward": to_dict(part)}):
      continue
    reward = part.build()
    rows = variance.gradient_errors(what, reward, config.variance)
    ledger.add(*[{"reward": to_dict(part), **row} for row in rows])
    columns = ("estimator", "scheme", "error", "error_se", "ratio", "ratio_se", "nfe")
    print(text_table(part.name, [{name: row[name] for name in columns} for row in rows]), flush=True)
  return ledger.set()


def _inverse(config: BenchmarkConfig, what: Subject, ledger: _Ledger) -> dict[str, Any]:
  def path(operator: str) -> pathlib.Path:
    return ledger.path.with_name(f"{re.sub('[^A-Za-z0-9.]', '_', operator)}.npz")

  done = [name for name in config.inverse.operators if ledger.has({"operator": name})]
  known = {name: inverse.Solved.load(path(name)) for name in done}
  for name, row, solved in inverse.inverse_problems(what, config.inverse, known):
    if ledger.has({"operator": name}):
      continue
    if name != inverse.ALL:
      solved[0].save(path(name))
      write_atomically(path(name).with_suffix(".png"), style.figure_png(solved[0].picture()))
    ledger.add({"operator": name, **row})
    print(text_table(name, [row]), flush=True)
  return ledger.content


def _fid(config: BenchmarkConfig, what: Subject, ledger: _Ledger) -> dict[str, Any]:
  def extracted_by(fingerprint: dict[str, str]) -> None:
    ledger.identify(extractor=fingerprint)

  folder = ledger.path.parent
  fid_suite.measure(config.fid, what, folder, has=ledger.has, add=ledger.add, extracted_by=extracted_by)
  if distributed.is_primary():
    print(fid_suite.report(ledger.rows), flush=True)
    write_atomically(ledger.path.with_name(FIGURE), fid_suite.figure(ledger.rows))
  return ledger.content


def _with_classifier(config: BenchmarkConfig, folder: str) -> BenchmarkConfig:
  def filled(reward: RewardConfig) -> RewardConfig:
    ours = reward.name == "classes" and not reward.classifier
    return dataclasses.replace(reward, classifier=folder) if ours else reward

  steer = dataclasses.replace(config.steer, reward=filled(config.steer.reward))
  rewards = tuple(map(filled, config.variance.rewards))
  return dataclasses.replace(
    config, steer=steer, variance=dataclasses.replace(config.variance, rewards=rewards)
  )
