"""Cached latents: the posterior's mean and log-variance of every image and of its mirror image, on disk.

A folder <path>/<split> of array_record files and index.json. Image i has the records 2 i and, of its mirror
image, 2 i + 1 (or i alone without mirror images): a label, int32, then mean and log-variance (h, w, 2 C),
little-endian.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from mfm_jax import checks
from mfm_jax.data.sources import checked_labels

INDEX, FORMAT = "index.json", 1
DTYPES = ("float32", "float16")
# Each record apart, for random access; noise hardly shrinks.
_WRITER = "group_size:1,uncompressed"
_LABEL = np.dtype("<i4")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
  """What a folder of latents holds, kept in its index.json.

  Attributes:
    split: "train" or "test".
    examples: images, mirror images not counted.
    num_classes: labels are 0 .. num_classes - 1; 0 for unlabelled data.
    shape: of a latent, (h, w, C).
    dtype: of the moments.
    flips: whether mirror images are there.
    shard_size: images in a file, of which the last may have fewer.
    size: side of the images' centre crop (`prepared.centre_crop`).
    source: name and identity of the data set that they are of.
    autoencoder: hash of its parameters.
    scale, shift: its own, for training on (latent - shift) * scale.
  """

  split: str
  examples: int
  num_classes: int
  shape: tuple[int, ...]
  dtype: str = "float32"
  flips: bool = True
  shard_size: int
  size: int
  source: str
  autoencoder: str
  scale: float
  shift: float

  def __post_init__(self):
    checks.one_of("dtype of latents", self.dtype, DTYPES)
    for name in ("examples", "shard_size"):
      checks.at_least(f"{name} of latents", getattr(self, name), 1)

  @property
  def shards(self) -> int:
    """Number of files."""
    return math.ceil(self.examples / self.shard_size)

  @property
  def views(self) -> int:
    """Records of an image."""
    return 2 if self.flips else 1

  def images(self, shard: int) -> range:
    """The images of a file."""
    return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.examples))

  def file(self, shard: int) -> str:
    """The name of a file."""
    return f"{shard:05d}-of-{self.shards:05d}.array_record"


def write_index(folder: pathlib.Path, index: Index) -> None:
  """Writes index.json, or compares it with the one that is there.

  Raises:
    ValueError: one of other latents, with the keys that differ.
  """
  if (folder / INDEX).exists():
    old = read_index(folder)
    changed = [
      f"{field.name}={getattr(index, field.name)!r}, {getattr(old, field.name)!r} there"
      for field in dataclasses.fields(Index)
      if getattr(index, field.name) != getattr(old, field.name)
    ]
    if changed:
      raise ValueError(f"{folder} can be completed only with its own settings; got {'; '.join(changed)}")
    return
  folder.mkdir(parents=True, exist_ok=True)
  unfinished = folder / f".{INDEX}.unfinished"
  unfinished.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(index)}, indent=2) + "\n")
  os.replace(unfinished, folder / INDEX)


def read_index(folder: str | pathlib.Path) -> Index:
  """The index of <path>/<split>.

  Raises:
    ValueError: no index.json, or one that is not such.
  """
  file = pathlib.Path(folder) / INDEX
  if not file.is_file():
    raise ValueError(
      f"data.path must be a folder of latents, made by experiments.prepare_latents; got no {file}"
    )
  try:
    stored: dict[str, Any] = json.loads(file.read_text())
    if stored.pop("format") != FORMAT:
      raise ValueError("another format")
    return Index(**{**stored, "shape": tuple(stored["shape"])})
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise ValueError(f"{file} must be an index of latents of format {FORMAT}; got {error!r}") from None


def write_shard(
  folder: pathlib.Path, index: Index, shard: int, batches: Iterable[tuple[np.ndarray, np.ndarray]]
) -> None:
  """Writes one file, atomically.

  Args:
    folder, index, shard: which.
    batches: of labels (n,) and moments (n, views, h, w, 2 C), the images of the shard in their order.

  Raises:
    ValueError: another number of images, moments of another shape or not finite in index.dtype.
  """
  from array_record.python.array_record_module import ArrayRecordWriter

  *sides, channels = index.shape
  file = folder / index.file(shard)
  unfinished = file.with_name(f".{file.name}.unfinished")
  unfinished.unlink(missing_ok=True)
  writer, count = ArrayRecordWriter(str(unfinished), _WRITER), 0
  try:
    for labels, moments in batches:
      checks.shape("moments", moments, (len(labels), index.views, *sides, 2 * channels))
      with np.errstate(over="ignore"):  # of float16: the next check
        stored = np.asarray(moments).astype(np.dtype(index.dtype).newbyteorder("<"))
      if not np.isfinite(stored).all():
        raise ValueError(f"moments must be finite in {index.dtype}; got others in shard {shard}")
      for label, views in zip(labels, stored):
        for view in views:
          writer.write(np.asarray(label, _LABEL).tobytes() + view.tobytes())
      count += len(labels)
    if count != len(index.images(shard)):
      raise ValueError(f"shard {shard} must have {len(index.images(shard))} images; got {count}")
  except BaseException:
    writer.close()
    unfinished.unlink()
    raise
  writer.close()
  os.replace(unfinished, file)


def has_shard(folder: pathlib.Path, index: Index, shard: int) -> bool:
  """Whether a file is there, complete.

  Raises:
    ValueError: it has another number of records, or is damaged.
  """
  from array_record.python.array_record_module import ArrayRecordReader

  file, expected = folder / index.file(shard), len(index.images(shard)) * index.views
  if not file.exists():
    return False
  try:
    reader = ArrayRecordReader(str(file))
    found = reader.num_records()
    reader.close()
  except (RuntimeError, ValueError) as error:
    found = str(error)
  if found != expected:
    raise ValueError(f"{file} must have {expected} records; got {found}: remove it, and run the same again")
  return True


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LatentSource:
  """Draws of the posteriors, scaled for training: a `RandomSource`.

  Attributes:
    folder: <path>/<split>.
    index: of it.
    labelled: False leaves the labels out.
  """

  folder: pathlib.Path
  index: Index
  labelled: bool = True

  def __len__(self) -> int:
    return self.index.examples

  @property
  def shape(self) -> tuple[int, ...]:
    return self.index.shape

  @property
  def num_classes(self) -> int:
    return self.index.num_classes if self.labelled else 0

  def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """One fixed draw for each image, not mirrored: what is shown and compared is of the data's law."""
    generators = [_generator([int(i), 0], 2) for i in indices]
    return self._draw(indices, np.zeros(len(generators), int), generators)

  def draw(self, indices: np.ndarray, positions: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Fresh draws, each of the image or its mirror image: a function of index, position and seed alone."""
    generators = [_generator([seed, int(position)], 1) for position in positions]
    views = np.array([int(generator.integers(self.index.views)) for generator in generators])
    return self._draw(indices, views, generators)

  def moments(self, indices: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and log-variance (n, h, w, C), as the autoencoder gives them, and labels (n,).

    Raises:
      ValueError: a record that cannot be read.
    """
    places = [int(i) * self.index.views + int(v) for i, v in zip(indices, views, strict=True)]
    try:
      records = self._records.__getitems__(places)
    except (RuntimeError, OSError, IndexError) as error:
      raise ValueError(f"the latents in {self.folder} must be readable; got {error}") from error
    *sides, channels = self.index.shape
    dtype = np.dtype(self.index.dtype).newbyteorder("<")
    data = np.frombuffer(b"".join(record[_LABEL.itemsize :] for record in records), dtype)
    data = data.astype(np.float32).reshape(len(places), *sides, 2 * channels)
    label = np.frombuffer(b"".join(record[: _LABEL.itemsize] for record in records), _LABEL)
    return data[..., :channels], data[..., channels:], label

  def _draw(self, indices, views, generators) -> dict[str, np.ndarray]:
    mean, log_variance, label = self.moments(indices, views)
    x1 = np.exp(0.5 * log_variance)
    for row, generator in zip(x1, generators):
      row *= generator.standard_normal(row.shape, np.float32)
    x1 += mean - np.float32(self.index.shift)
    x1 *= np.float32(self.index.scale)
    if not self.num_classes:
      return {"x1": x1, "label": np.zeros(len(x1), np.int32)}
    return {"x1": x1, "label": checked_labels(label, self.num_classes)}

  @functools.cached_property
  def _records(self):
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    files = [str(self.folder / self.index.file(shard)) for shard in range(self.index.shards)]
    return ArrayRecordDataSource(files)


def _generator(key: list[int], stream: int) -> np.random.Generator:
  # Streams apart from one another and from `pipeline.epoch_order`, which is stream 0.
  return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64), counter=[0, 0, 0, stream]))


def latent_source(path: str | pathlib.Path, split: str, *, labelled: bool = True) -> LatentSource:
  """One split, "train" or "test", of a folder made by experiments.prepare_latents.

  Raises:
    ValueError: no or another index.json, files that are missing or damaged.
  """
  checks.one_of("split", split, ("train", "test"))
  folder = pathlib.Path(path) / split
  index = read_index(folder)
  missing = [index.file(shard) for shard in range(index.shards) if not has_shard(folder, index, shard)]
  if missing:
    raise ValueError(
      f"{folder} must have all of its {index.shards} files; got no {missing[0]}: run prepare_latents again"
    )
  return LatentSource(folder=folder, index=index, labelled=labelled)
