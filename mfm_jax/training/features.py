"""Inception features of many pictures: compiled once, split over the devices, gathered as a stream."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from mfm_jax import checks
from mfm_jax.convert.inception import read_inception
from mfm_jax.metrics.reference import Fingerprint
from mfm_jax.metrics.statistics import Statistics
from mfm_jax.models import inception
from mfm_jax.training import distributed, sharding
from mfm_jax.training.state import params_sha256

BATCH = 64  # pictures in one call of the network, for each device
ROWS = 1024  # features in one update of the statistics
HELD = ("pool", "logits")  # features that `collect` can keep as they are
Extract = Callable[[np.ndarray], inception.Features]


def extractor(
  path: str | pathlib.Path, convention: str, *, rounding: str = "nearest", crop: str = "none"
) -> tuple[Extract, Fingerprint]:
  """The Inception network of a weight file as `extract(pixels) -> Features`, and its fingerprint.

  `pixels` are uint8 (n, H, W, 3).

  Args:
    path: see `read_inception`.
    convention, rounding, crop: see `Fingerprint`.

  Raises:
    ValueError: what `read_inception` and `Fingerprint` refuse.
  """
  checks.one_of("convention", convention, inception.CONVENTIONS)
  params = read_inception(path)
  identity = params_sha256(params)
  fingerprint = Fingerprint(convention=convention, weights_sha256=identity, rounding=rounding, crop=crop)
  mesh = sharding.local_mesh()
  params = jax.device_put(params, sharding.replicated(mesh))
  compiled = jax.jit(functools.partial(inception.features, convention=convention))

  def extract(pixels: np.ndarray) -> inception.Features:
    n = len(pixels)
    # Filled up to a power of 2 for each device, so that few programs do all numbers.
    size = mesh.size * 2 ** max(0, math.ceil(math.log2(n / mesh.size)))
    full = np.concatenate([pixels, np.zeros((size - n, *pixels.shape[1:]), np.uint8)])
    return jax.tree.map(lambda x: x[:n], compiled(params, jax.device_put(full, sharding.over_batch(mesh))))

  return extract, fingerprint


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Collected:
  """Features of a set of pictures.

  Attributes:
    pool: statistics of the pooled features.
    spatial: of the spatial ones, where they were asked for.
    held: of HELD, arrays (n, d) of the first features, as many as were asked for.
  """

  pool: Statistics
  spatial: Statistics | None
  held: dict[str, np.ndarray]


def collect(
  extract: Extract,
  pictures: Iterable[np.ndarray],
  *,
  spatial: bool = False,
  hold: dict[str, int] | None = None,
) -> Collected:
  """Extracts and keeps statistics; memory does not grow with the number of pictures but for what is held.

  Args:
    extract: pixels -> features.
    pictures: uint8 (n, H, W, 3), n of any size.
    spatial: whether statistics of the spatial features are wanted.
    hold: how many features of each name of HELD to keep as they are.

  Raises:
    ValueError: no pictures, an unknown name.
  """
  hold = hold or {}
  for name in hold:
    checks.one_of("features to hold", name, HELD)
  pool, around = _Stream(), _Stream()
  held: dict[str, list[np.ndarray]] = {name: [] for name in hold}
  counts = dict.fromkeys(hold, 0)
  for found in _ahead(extract(batch) for batch in _of_size(pictures, BATCH * jax.local_device_count())):
    pool.add(found.pool)
    if spatial:
      around.add(found.spatial)
    for name, most in hold.items():
      part = np.asarray(getattr(found, name)[: most - counts[name]])
      held[name].append(part)
      counts[name] += len(part)
  total = pool.total()
  if total is None:
    raise ValueError("features need at least 1 picture; got none")
  joined = {name: np.concatenate(parts) for name, parts in held.items()}
  return Collected(pool=total, spatial=around.total(), held=joined)


def of_all_processes(
  found: Collected | None, rows: Callable[[int], np.ndarray], hold: Sequence[str] = ()
) -> Collected:
  """What all processes collected, as if one had had all the pictures; the same in every process.

  Args:
    found: of this one; None where it had no pictures.
    rows: process -> the places, among all pictures, of those that it had, in its order.
    hold: names of what is held. Of each, a process holds its first pictures, and all together the first
      ones of all.

  Raises:
    ValueError: no pictures in any process.
  """
  if jax.process_count() == 1 and found is not None:
    return found
  pool = _merged(None if found is None else found.pool)
  if pool is None:
    raise ValueError("features need at least 1 picture; got none")
  held = {}
  for name in hold:
    parts = distributed.from_each(np.zeros((0, 0), np.float32) if found is None else found.held[name])
    places = np.concatenate([rows(process)[: len(part)] for process, part in enumerate(parts)])
    joined = np.concatenate([part for part in parts if len(part)] or parts[:1])
    held[name] = joined[np.argsort(places)]
  spatial = _merged(None if found is None else found.spatial)
  return Collected(pool=pool, spatial=spatial, held=held)


def _merged(own: Statistics | None) -> Statistics | None:
  """The statistics of all processes, merged in their order."""
  own = own or Statistics.empty(0)
  counts, means, scatters = (
    distributed.from_each(value) for value in (np.array([own.count]), own.mean, own.scatter)
  )
  total = None
  for count, mean, scatter in zip(counts, means, scatters, strict=True):
    part = Statistics(count=int(count[0]), mean=mean, scatter=scatter)
    if part.count:
      total = part if total is None else total.merge(part)
  return total


class _Stream:
  """Statistics that take features ROWS at a time: an update with few costs nearly as much as with many."""

  def __init__(self):
    self._statistics: Statistics | None = None
    self._waiting: list[np.ndarray] = []

  def add(self, features) -> None:
    self._waiting.append(np.asarray(features))
    if sum(map(len, self._waiting)) >= ROWS:
      self.total()

  def total(self) -> Statistics | None:
    """Of all so far, None of nothing."""
    if self._waiting:
      rows = np.concatenate(self._waiting)
      self._statistics = (self._statistics or Statistics.empty(rows.shape[1])).add(rows)
      self._waiting = []
    return self._statistics


def _of_size(pictures: Iterable[np.ndarray], size: int):
  """The same pictures, `size` at a time."""
  for batch in pictures:
    for start in range(0, len(batch), size):
      yield batch[start : start + size]


def _ahead(items: Iterable):
  """The same items, each when the next one is under way on the device."""
  items = iter(items)
  before = next(items, None)
  while before is not None:
    after = next(items, None)
    yield before
    before = after
