"""Batches: epochs in a random order, the rows of a host, prefetching, and a resumable position.

grain's own shuffle and batch work element by element, 1024 Python calls a batch: about 50 batches a
second where a network step takes 3 ms. So batch i is here *one* element of a random-access source,
made by one vectorised gather; grain does on top what it is good at: threads, prefetching, state.
As batch i is a function of (seed, i) alone, also where examples are random, the state of an iterator
is the number of batches that it has returned.
"""

import dataclasses
import functools
import sys

import grain
import numpy as np

from mfm_jax import checks
from mfm_jax.data.sources import RandomSource, Source


@functools.lru_cache(maxsize=4)  # the epochs now in use; also those of a second pipeline (held-out)
def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
  """A random permutation of 0 .. size - 1, uint32 and read-only, a function of its arguments alone.

  Sorted random 64-bit keys of the counter-based Philox generator under the key (seed, epoch): the
  raw bits of a bit generator are the same in every NumPy, which the distributions drawn from them
  are not. The low bits of each key carry its index, so that one sort gives the order and no two
  keys are equal. (grain's shuffle adds seed and epoch: there seed 1 repeats seed 0 an epoch later.)
  """
  bits = np.uint64((size - 1).bit_length())
  low = (np.uint64(1) << bits) - np.uint64(1)
  keys = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(size)
  keys = (keys & ~low) | np.arange(size, dtype=np.uint64)
  keys.sort()
  order = (keys & low).astype(np.uint32)
  order.setflags(write=False)
  return order


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BatchSource:
  """Random access to the batches of one host: element i holds rows of global batch i.

  The epochs, one after the other, are one long list of examples; global batch i is its i-th stretch
  of `batch_size`, so a batch may span the end of an epoch; a host has some of its rows.
  It meets grain's RandomAccessDataSource, is thread-safe and can be pickled.

  Attributes:
    source: where examples come from.
    batch_size: global.
    seed: of the order, and of the draws of a `RandomSource`; None keeps the order of the source, and takes
      its fixed draws.
    epochs: number of them, or None without end. What is left after the last full batch is dropped.
    rows: (b,) ascending, which ones of a global batch.
  """

  source: Source
  batch_size: int
  seed: int | None
  epochs: int | None
  rows: np.ndarray

  def __len__(self) -> int:
    if self.epochs is None:
      return sys.maxsize
    return self.epochs * len(self.source) // self.batch_size

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    indices = self.indices(index)
    if self.seed is None or not isinstance(self.source, RandomSource):
      return self.source.take(indices)
    # By the place in the long list: another draw in each epoch, the same for any number of hosts.
    return self.source.draw(indices, self._places(index), self.seed)

  def _places(self, index: int) -> np.ndarray:
    """Of this host's rows of global batch `index`, in the list of all epochs, int64 (b,)."""
    return index * self.batch_size + self.rows.astype(np.int64)

  def indices(self, index: int) -> np.ndarray:
    """Indices into the source of this host's rows of global batch `index`, int64 (b,)."""
    epochs, offsets = np.divmod(self._places(index), len(self.source))
    if self.seed is None:
      return offsets
    parts = []
    for epoch in np.unique(epochs).tolist():
      order = epoch_order(self.seed, epoch, len(self.source))
      parts.append(order[offsets[epochs == epoch]].astype(np.int64))
    return np.concatenate(parts)


def batches(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  epochs: int | None = None,
  shuffle: bool = True,
  host_index: int = 0,
  host_count: int = 1,
  rows: np.ndarray | None = None,
  prefetch: int = 2,
  threads: int = 1,
) -> grain.DatasetIterator:
  """An iterator over {"x1": (b, *shape), "label": (b,)}, b rows of each batch.

  Every example comes exactly once an epoch, each epoch in an order of its own. Batches may span the
  end of an epoch. Without `epochs` they go on for ever; with it, the examples left after the last
  full batch are dropped. The hosts' batches of a step, put together in the order of the hosts, are
  the same for any `host_count`.

  Its `get_state()` is {"next_index": batches returned}, ready for JSON and the same on every host;
  `set_state()` goes there at once, without replaying, also with another `host_count`. The other
  arguments are not part of the state: the caller resumes with the same ones.

  Args:
    source: where examples come from.
    batch_size: over all hosts, a multiple of `host_count`.
    seed: of the order, in [0, 2^64).
    epochs: number of them, None without end.
    shuffle: False keeps the order of the source.
    host_index, host_count: this process among those that share a batch; host h has rows [h b, (h + 1) b).
    rows: (b,) ascending, in place of these two: the rows of the batch that this process has.
    prefetch: batches made ahead; 0 makes each when it is asked for.
    threads: that make batches at once (decoding images); no more than `prefetch` are of use.

  Raises:
    ValueError: a number out of its range, batch_size not a multiple of host_count, an empty source,
      or so few examples that `epochs` epochs give no full batch.
  """
  checks.at_least("batch_size", batch_size, 1)
  checks.at_least("host_count", host_count, 1)
  checks.in_interval("host_index", host_index, 0, host_count - 1)
  checks.in_interval("seed", seed, 0, 2**64 - 1)
  checks.at_least("prefetch", prefetch, 0)
  checks.at_least("threads", threads, 1)
  if epochs is not None:
    checks.at_least("epochs", epochs, 1)
  if batch_size % host_count:
    raise ValueError(
      f"batch_size must be a multiple of host_count; got batch_size={batch_size}, host_count={host_count}"
    )
  if rows is None:
    b = batch_size // host_count
    rows = np.arange(host_index * b, (host_index + 1) * b)
  checks.in_interval("rows", rows, 0, batch_size - 1)
  if not 1 <= len(source) < 2**32:
    raise ValueError(f"the source must hold 1 to 2^32 - 1 examples; got {len(source)}")
  if epochs is not None and epochs * len(source) < batch_size:
    raise ValueError(
      f"{epochs} epochs of {len(source)} examples must fill at least one batch; got batch_size={batch_size}"
    )
  host_batches = BatchSource(
    source=source,
    batch_size=batch_size,
    seed=seed if shuffle else None,
    epochs=epochs,
    rows=rows,
  )
  options = grain.ReadOptions(num_threads=min(threads, prefetch), prefetch_buffer_size=prefetch)
  return iter(grain.MapDataset.source(host_batches).to_iter_dataset(options))
