"""Batches: every example once an epoch, the same for any number of hosts, resumed exactly."""

import itertools
import json
import pickle

import numpy as np
import pytest

from mfm_jax.data.pipeline import BatchSource, batches, epoch_order
from mfm_jax.data.sources import ArraySource


def numbered(size: int) -> ArraySource:
  """Example i is the vector (i, -i) with label i: a batch shows which examples it holds."""
  index = np.arange(size)
  return ArraySource(x1=np.stack([index, -index], 1) / 1.0, label=index, num_classes=size)


def labels(iterator, count: int | None = None) -> np.ndarray:
  """The labels of the next `count` batches, or of all that are left."""
  return np.stack([batch["label"] for batch in itertools.islice(iterator, count)])


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (7, 3), (5, 16), (1, 2)])
def test_each_epoch_holds_every_example_once(size, batch):
  stream = labels(batches(numbered(size), batch_size=batch, seed=1), 4 * size).ravel()
  epochs = stream[: len(stream) // size * size].reshape(-1, size)
  assert len(epochs) >= 4
  np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (len(epochs), 1)))


def test_epochs_differ_in_order():
  stream = labels(batches(numbered(50), batch_size=50, seed=1), 3)
  assert len({tuple(epoch) for epoch in stream}) == 3


def test_x1_and_label_stay_together():
  batch = next(batches(numbered(20), batch_size=8, seed=0))
  assert batch["x1"].shape == (8, 2)
  assert batch["x1"].dtype == np.float32
  assert batch["label"].dtype == np.int32
  np.testing.assert_array_equal(batch["x1"], np.stack([batch["label"], -batch["label"]], 1))


@pytest.mark.parametrize(("epochs", "expected"), [(1, 3), (2, 6), (3, 10)])
def test_finite_epochs_drop_what_is_left_after_the_last_full_batch(epochs, expected):
  found = labels(batches(numbered(10), batch_size=3, seed=0, epochs=epochs))
  assert found.shape == (expected, 3)
  counts = np.bincount(found.ravel(), minlength=10)
  assert counts.max() <= epochs
  assert counts.sum() == 10 * epochs // 3 * 3


def test_without_shuffle_the_order_is_that_of_the_source():
  found = labels(batches(numbered(5), batch_size=2, seed=3, epochs=2, shuffle=False))
  np.testing.assert_array_equal(found.ravel(), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4])


@pytest.mark.parametrize("host_count", [2, 3, 6])
def test_hosts_together_have_the_batch_of_one_host(host_count):
  def run(index, count):
    return batches(numbered(20), batch_size=6, seed=4, host_index=index, host_count=count)

  whole = labels(run(0, 1), 15)
  parts = [labels(run(h, host_count), 15) for h in range(host_count)]
  assert parts[0].shape == (15, 6 // host_count)
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_rows_of_a_host_need_not_follow_each_other():
  whole = labels(batches(numbered(20), batch_size=6, seed=4), 15)
  rows = np.array([0, 1, 4])
  np.testing.assert_array_equal(
    labels(batches(numbered(20), batch_size=6, seed=4, rows=rows), 15), whole[:, rows]
  )


def test_seeds_differ_and_one_seed_repeats():
  first, again, other = (labels(batches(numbered(100), batch_size=10, seed=s), 30) for s in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  # No epoch of the other seed is an epoch of this one: neither at its place nor shifted.
  epochs = {tuple(e) for e in first.reshape(3, 100)}
  assert not epochs & {tuple(e) for e in other.reshape(3, 100)}


@pytest.mark.parametrize(("prefetch", "threads"), [(0, 1), (2, 1), (6, 3)])
def test_prefetching_changes_nothing(prefetch, threads):
  plain = labels(batches(numbered(33), batch_size=4, seed=2, prefetch=0), 20)
  ahead = batches(numbered(33), batch_size=4, seed=2, prefetch=prefetch, threads=threads)
  np.testing.assert_array_equal(labels(ahead, 20), plain)


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("steps", [0, 1, 7, 25])
def test_resumed_equals_uninterrupted(steps, prefetch):
  def run():
    return batches(numbered(22), batch_size=5, seed=9, prefetch=prefetch)

  whole = labels(run(), 40)
  interrupted = run()
  for _ in range(steps):
    next(interrupted)
  state = json.loads(json.dumps(interrupted.get_state()))
  resumed = run()
  next(resumed)  # an iterator that has already moved goes back, too
  resumed.set_state(state)
  np.testing.assert_array_equal(labels(resumed, 40 - steps), whole[steps:])


def test_state_holds_for_another_number_of_hosts():
  whole = labels(batches(numbered(22), batch_size=4, seed=9), 10)
  interrupted = batches(numbered(22), batch_size=4, seed=9, host_index=1, host_count=4)
  labels(interrupted, 6)
  halves = [batches(numbered(22), batch_size=4, seed=9, host_index=h, host_count=2) for h in (0, 1)]
  for half in halves:
    half.set_state(interrupted.get_state())
  parts = np.concatenate([labels(half, 4) for half in halves], axis=1)
  np.testing.assert_array_equal(parts, whole[6:])


class Counting:
  """A source that counts how often it is asked."""

  shape = (1,)
  num_classes = 0

  def __init__(self, size: int):
    self.size, self.calls = size, 0

  def __len__(self) -> int:
    return self.size

  def take(self, indices):
    self.calls += 1
    return {"x1": indices[:, None].astype(np.float32), "label": np.zeros(len(indices), np.int32)}


def test_resuming_does_not_replay():
  source = Counting(1000)
  iterator = batches(source, batch_size=10, seed=0, prefetch=2)
  iterator.set_state({"next_index": 10**9})
  next(iterator)
  assert source.calls <= 3  # the batch and two ahead


def test_epoch_order_is_uniform():
  """All 24 orders of 4 examples occur equally often: chi-square of 23 degrees below mean + 4 sd."""
  draws = 4800
  orders, counts = np.unique([epoch_order(7, e, 4) for e in range(draws)], axis=0, return_counts=True)
  assert len(orders) == 24
  expected = draws / 24
  assert np.sum((counts - expected) ** 2 / expected) < 23 + 4 * np.sqrt(2 * 23)


def test_epoch_order_is_a_fixed_function():
  """Recorded with NumPy 2.4.6: a run resumed under another version meets the same order."""
  np.testing.assert_array_equal(epoch_order(0, 0, 8), [0, 2, 1, 5, 4, 3, 6, 7])
  np.testing.assert_array_equal(epoch_order(0, 1, 8), [5, 3, 7, 2, 4, 1, 0, 6])
  np.testing.assert_array_equal(epoch_order(1, 0, 8), [3, 5, 2, 7, 0, 6, 1, 4])
  assert not epoch_order(0, 0, 8).flags.writeable


def test_batch_source_can_be_sent_to_a_worker():
  source = BatchSource(source=numbered(9), batch_size=4, seed=1, epochs=None, rows=np.arange(4))
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy[11]["label"], source[11]["label"])


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
    ({"batch_size": 3, "host_count": 2}, "multiple of host_count; got batch_size=3, host_count=2"),
    ({"host_index": 2, "host_count": 2}, r"host_index must lie in \[0, 1\]; got 2"),
    ({"host_index": -1}, r"host_index must lie in \[0, 0\]; got -1"),
    ({"host_count": 0}, "host_count must be at least 1; got 0"),
    ({"batch_size": 12, "epochs": 1}, "1 epochs of 10 examples .* got batch_size=12"),
    ({"rows": np.array([2, 4])}, r"rows must lie in \[0, 3\]; got 4"),
    ({"epochs": 0}, "epochs must be at least 1; got 0"),
    ({"seed": -1}, r"seed must lie in \[0, 18446744073709551615\]; got -1"),
    ({"prefetch": -1}, "prefetch must be at least 0; got -1"),
    ({"threads": 0}, "threads must be at least 1; got 0"),
  ],
)
def test_errors_state_rule_name_and_value(arguments, message):
  with pytest.raises(ValueError, match=message):
    batches(numbered(10), **{"batch_size": 4, "seed": 0} | arguments)


def test_an_empty_source_is_an_error():
  with pytest.raises(ValueError, match=r"must hold 1 to 2\^32 - 1 examples; got 0"):
    batches(ArraySource(x1=np.zeros((0, 2))), batch_size=1, seed=0)


def test_a_batch_larger_than_the_source_spans_epochs():
  found = labels(batches(numbered(3), batch_size=7, seed=0, epochs=3))
  assert found.shape == (1, 7)
  np.testing.assert_array_equal(np.sort(found[0, :3]), [0, 1, 2])
