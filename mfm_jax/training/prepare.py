"""Pictures to cached latents: every image and its mirror image through the encoder, once."""

import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.data import image_folder, latents, prepared
from mfm_jax.data.latents import Index
from mfm_jax.data.sources import Source
from mfm_jax.models import autoencoder
from mfm_jax.training import sharding
from mfm_jax.training.decoding import Vae, read_vae
from mfm_jax.types import Array, PyTree

IMAGENET = "imagenet2012"  # of TensorFlow Datasets


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
  """What is encoded, by what, and how it is stored.

  Attributes:
    source: folder of pictures in train/<class>/ and val/<class>/, or the data_dir of a prepared imagenet2012.
    vae: folder or .safetensors file of the autoencoder.
    out: folder of the latents, <out>/<split>.
    split: "train" or "test".
    size: side of the centre crop.
    dtype: of the moments. float16 has half the size; it rounds a mean by up to 1e-3 of it, which is more than
      the posterior's standard deviation where the autoencoder is sure.
    batch: images in one call of the encoder, a multiple of the number of devices.
    shard: images in a file.
    damaged: unreadable pictures that may be; the next one stands for each.
    threads: that read and decode pictures.
  """

  source: str
  vae: str
  out: str
  split: str = "train"
  size: int = image_folder.SIZE
  dtype: str = "float32"
  batch: int = 64
  shard: int = 4096
  damaged: int = 0
  threads: int = 8

  def __post_init__(self):
    for name in ("source", "vae", "out"):
      if not getattr(self, name):
        raise ValueError(f"--{name} must be given; got none")
    checks.one_of("--split", self.split, image_folder.SPLITS)
    checks.one_of("--dtype", self.dtype, latents.DTYPES)
    for name in ("size", "batch", "shard", "threads"):
      checks.at_least(f"--{name}", getattr(self, name), 1)
    checks.at_least("--damaged", self.damaged, 0)
    sharding.check_batch_size(self.batch, sharding.local_mesh())


def prepare(config: PrepareConfig) -> dict[str, Any]:
  """Writes the latents of one split, or those files of them that are not there yet.

  A file is a function of its images, the autoencoder and the batch size: one that a killed process had begun
  is written again as it would have been.

  Returns:
    out, examples, classes, shape, shards, written (of them, now), autoencoder (its hash), seconds.

  Raises:
    ValueError: what the sources and `read_vae` refuse, a size that the autoencoder does not take, a folder of
      other latents or with a damaged file.
  """
  start = time.monotonic()
  source, name = open_source(config)
  vae = read_vae(config.vae)
  reduction = vae.config.reduction
  if config.size % reduction:
    raise ValueError(f"--size must be a multiple of {reduction} for this autoencoder; got {config.size}")
  index = Index(
    split=config.split,
    examples=len(source),
    num_classes=source.num_classes,
    shape=(config.size // reduction, config.size // reduction, vae.config.latent_channels),
    dtype=config.dtype,
    shard_size=config.shard,
    size=config.size,
    source=name,
    autoencoder=vae.sha256,
    scale=vae.config.scale,
    shift=vae.config.shift,
  )
  folder = pathlib.Path(config.out) / config.split
  latents.write_index(folder, index)
  todo = [shard for shard in range(index.shards) if not latents.has_shard(folder, index, shard)]
  if len(todo) < index.shards:
    print(f"{index.shards - len(todo)} of {index.shards} files are there", flush=True)
  encode = Encoder(vae, config.batch)
  progress = Progress(sum(len(index.images(shard)) for shard in todo))
  for shard in todo:
    encoded = encode(batches(source, index.images(shard), config))
    latents.write_shard(folder, index, shard, progress(encoded))
  return {
    "out": str(folder),
    "examples": index.examples,
    "classes": index.num_classes,
    "shape": list(index.shape),
    "shards": index.shards,
    "written": len(todo),
    "autoencoder": vae.sha256,
    "seconds": round(time.monotonic() - start, 2),
  }


def open_source(config: PrepareConfig) -> tuple[Source, str]:
  """The pictures, and a name that tells them from others.

  Raises:
    ValueError: neither kind of folder, and what the sources refuse.
  """
  how: dict[str, Any] = {"size": config.size, "damaged": config.damaged}
  if (pathlib.Path(config.source) / IMAGENET).is_dir():
    return prepared.tfds_source(IMAGENET, config.split, config.source, **how), f"tfds/{IMAGENET}"
  pictures = image_folder.image_source(config.source, config.split, **how)
  return pictures, f"images {pictures.records.sha256}"


def batches(source: Source, images: range, config: PrepareConfig) -> Iterator[dict[str, np.ndarray]]:
  """{"x1", "label"} of these images in their order, the last batch as short as it comes out."""
  starts = grain.MapDataset.range(images.start, images.stop, config.batch)

  def take(start: int) -> dict[str, np.ndarray]:
    return source.take(np.arange(start, min(start + config.batch, images.stop)))

  options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.threads)
  return iter(starts.map(take).to_iter_dataset(options))


class Progress:
  """Counts the images that pass, and prints their rate and the time left now and then."""

  def __init__(self, total: int, every: float = 10.0):
    self._total, self._every, self._done = total, every, 0
    self._start = self._said = time.monotonic()

  def __call__(
    self, encoded: Iterator[tuple[np.ndarray, np.ndarray]]
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for labels, moments in encoded:
      yield labels, moments
      self._done += len(labels)
      now = time.monotonic()
      if now - self._said > self._every or self._done == self._total:
        rate = self._done / (now - self._start)
        left = (self._total - self._done) / rate
        print(f"{self._done} of {self._total} images, {rate:.1f} images/s, {left:.0f} s left", flush=True)
        self._said = now


class Encoder:
  """Moments of images and of their mirror images, batches split over this process's devices."""

  def __init__(self, vae: Vae, batch: int):
    mesh = sharding.local_mesh()
    self._batch, self._rows = batch, sharding.over_batch(mesh)
    self._params = jax.device_put(vae.params, sharding.replicated(mesh))

    def both(params: PyTree, x: Array) -> Array:
      """(B, H, W, 3) -> (B, 2, h, w, 2 C)."""
      views = jax.lax.map(lambda x: autoencoder.encode(vae.config, params, x), jnp.stack([x, x[:, :, ::-1]]))
      return jnp.concatenate(views, axis=-1).swapaxes(0, 1)

    self._both = jax.jit(both, out_shardings=self._rows)

  def __call__(self, given: Iterator[dict[str, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(labels (n,), moments (n, 2, h, w, 2 C)) of each batch; the next one is encoded meanwhile."""
    waiting = None
    for batch in given:
      x, label = batch["x1"], batch["label"]
      # To one size, so that there is one program.
      x = np.concatenate([x, np.zeros((self._batch - len(x), *x.shape[1:]), x.dtype)])
      moments = self._both(self._params, jax.device_put(x, self._rows))
      if waiting:
        yield self._host(*waiting)
      waiting = label, moments
    if waiting:
      yield self._host(*waiting)

  @staticmethod
  def _host(label: np.ndarray, moments: Array) -> tuple[np.ndarray, np.ndarray]:
    return label, np.asarray(moments)[: len(label)]
