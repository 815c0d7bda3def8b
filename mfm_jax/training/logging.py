"""What a run writes beside its checkpoints: metrics.jsonl, TensorBoard, progress lines."""

import json
import pathlib
import sys
import time
from collections.abc import Mapping

import numpy as np
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from mfm_jax.training import distributed
from mfm_jax.training.terminal import coloured

FLUSH_SECONDS = 60  # between those of TensorBoard's file, which wait for the disk


class MetricWriter:
  """metrics.jsonl (one object a line: step, name, value, seconds), TensorBoard, and the terminal.

  Of several processes the primary alone writes. Lines of steps after `resume_step` are dropped when it opens:
  they belong to work that was lost with a killed process and is done again.
  """

  def __init__(self, workdir: pathlib.Path, *, resume_step: int, total: int):
    self._path = workdir / "metrics.jsonl"
    self._total, self._first = total, resume_step
    self._start = self._first_step_at = time.monotonic()
    self._active, self._earlier = distributed.is_primary(), 0.0
    if not self._active:
      return
    kept = truncate(self._path, resume_step)
    self._earlier = kept[-1]["seconds"] if kept else 0.0
    # The last evaluation comes after the last checkpoint: a process killed between it and the summary
    # leaves its lines, and the next one evaluates again.
    self._written = {(line["step"], line["name"]) for line in kept if line["step"] == resume_step}
    self._file = self._path.open("a")
    self._board = _Board(workdir / "tensorboard", resume_step + 1)

  @property
  def seconds(self) -> float:
    """Seconds of training so far, of earlier processes too."""
    return self._earlier + time.monotonic() - self._start

  def start_steps(self) -> None:
    """The steps begin now: compilation does not count into the progress line's rate."""
    self._first_step_at = time.monotonic()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes scalars of a step, but for those that the file has already."""
    if not self._active:
      return
    for name, value in values.items():
      if (step, name) in self._written:
        continue
      line = {"step": step, "name": name, "value": float(value), "seconds": round(self.seconds, 3)}
      self._file.write(json.dumps(line) + "\n")
      self._board.add(step, summary.scalar(name, float(value)))
    self._file.flush()

  def image(self, step: int, name: str, picture: np.ndarray) -> None:
    """Writes a uint8 picture (H, W, 3) to TensorBoard."""
    if self._active:
      self._board.add(step, summary.image(name, picture, dataformats="HWC"))

  def progress(self, step: int, values: Mapping[str, float]) -> None:
    """One line with the terms, steps per second and the time left; a bar as well on a terminal."""
    if not self._active:
      return
    rate = (step - self._first) / max(time.monotonic() - self._first_step_at, 1e-9)
    left = (self._total - step) / max(rate, 1e-9)
    terms = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    bar = ""
    if sys.stdout.isatty():
      done = 20 * step // self._total
      bar = "[" + coloured("#" * done, "green", sys.stdout) + "." * (20 - done) + "] "
    print(f"{bar}step {step}/{self._total}  {terms}  {rate:.1f} steps/s  {clock(left)} left", flush=True)

  def close(self) -> None:
    """Flushes both files."""
    if self._active:
      self._file.close()
      self._board.close()


class _Board:
  """TensorBoard's event file, in which a step hides earlier events from `first` on.

  tensorboardX's own writer has a thread, which a full disk ends, and a queue to it, in which the program then
  waits for ever.
  """

  def __init__(self, folder: pathlib.Path, first: int):
    folder.mkdir(parents=True, exist_ok=True)
    self._events = event_file_writer.EventsWriter(str(folder / "events"))
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(event_pb2.Event(step=first, session_log=start))
    self._flushed = time.monotonic()
    self.close = self._events.close

  def add(self, step: int, values: summary.Summary) -> None:
    self._write(event_pb2.Event(step=step, summary=values))
    if time.monotonic() - self._flushed > FLUSH_SECONDS:
      self._events.flush()
      self._flushed = time.monotonic()

  def _write(self, event: event_pb2.Event) -> None:
    event.wall_time = time.time()
    self._events.write_event(event)


def clock(seconds: float) -> str:
  """Minutes and seconds, 1:05, from an hour on with the hours before them, 1:00:05."""
  minutes, rest = divmod(int(seconds), 60)
  hours, left = divmod(minutes, 60)
  return f"{hours}:{left:02d}:{rest:02d}" if hours else f"{left}:{rest:02d}"


def truncate(path: pathlib.Path, last_step: int) -> list[dict]:
  """Drops the lines of a metrics file after `last_step`; returns those kept."""
  if not path.exists():
    return []
  kept = [line for line in read(path) if line["step"] <= last_step]
  temporary = path.with_suffix(".partial")
  temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
  temporary.replace(path)
  return kept


def read(path: pathlib.Path) -> list[dict]:
  """The objects of a metrics file; a last line that a killed process left incomplete is skipped."""
  lines = []
  for text in path.read_text().splitlines():
    try:
      lines.append(json.loads(text))
    except json.JSONDecodeError:
      continue
  return lines
