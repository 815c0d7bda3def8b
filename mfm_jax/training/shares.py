"""Many pictures in parts, of which the processes work on every k-th one."""

import collections
import itertools
from collections.abc import Iterator

import jax
import numpy as np

from mfm_jax.metrics import samples
from mfm_jax.training import distributed

CHUNK = 256  # pictures that are generated, or read, at a time


def parts(num: int) -> list[tuple[int, slice]]:
  """The parts of `num` pictures: number and rows."""
  return [(i, slice(start, min(start + CHUNK, num))) for i, start in enumerate(range(0, num, CHUNK))]


def ours(num: int) -> list[tuple[int, slice]]:
  """The parts of `num` pictures that this process works on: number and rows."""
  return distributed.share(parts(num))


def places(num: int, process: int) -> np.ndarray:
  """The rows of all the shares of a process."""
  theirs = parts(num)[process :: jax.process_count()]
  return np.concatenate([np.arange(rows.start, rows.stop) for _, rows in theirs] or [np.arange(0)])


def of_batch(batch: samples.SampleFile, num: int) -> Iterator[np.ndarray]:
  """This process's shares of the first `num` pictures of a file."""
  return itertools.islice(batch.batches(CHUNK, num=num), jax.process_index(), None, jax.process_count())


def write(path: str, drawn: Iterator[np.ndarray], num: int, labels: np.ndarray | None) -> None:
  """Writes the samples of all processes as `samples.write_samples`, one part of each at a time.

  Args:
    path: .npz; the primary process writes it.
    drawn: this process's shares.
    num, labels: of all.
  """

  def everyones():
    for first in range(0, len(parts(num)), jax.process_count()):
      # A process that has none left in this round hands over none.
      of_each = distributed.from_each(next(drawn, np.zeros((0, 0, 0, 0), np.uint8)))
      yield from of_each[: len(parts(num)) - first]

  if distributed.is_primary():
    samples.write_samples(path, everyones(), num, labels)
  else:
    collections.deque(everyones(), maxlen=0)
  distributed.on_primary(lambda: None)  # when it is written
