"""Named data sets: from a config to a training and a test source."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from mfm_jax import checks
from mfm_jax.data import arrays, idx, image_folder, latents, prepared, sources
from mfm_jax.data.latents import LatentSource
from mfm_jax.data.sources import Source

NAMES = (
  "mixture",
  "digits",
  "idx",
  "arrays",
  "strips",
  "images",
  "latents",
  "noise",
  "tfds/mnist",
  "tfds/cifar10",
  "tfds/imagenet2012",
)
_SIZED = ("idx", "images", "tfds/mnist", "tfds/cifar10", "tfds/imagenet2012")
_DECODED_LIMIT = 512  # examples that data_std decodes of a source that is not in memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Which data, and how they are brought into model space.

  Attributes:
    name: one of `NAMES`.
    path: idx: the folder ("" for $MFM_DATA_DIR/mnist); arrays: the folder of train.npz and test.npz;
      strips: the folder ("" for $MFM_DATA_DIR/cifar10-subset); images: the folder of train/<class>/ and
      val/<class>/; latents: that of experiments.prepare_latents; tfds: the data_dir ("" for its default).
      Not read by the others.
    size: side of the images in pixels, 0 for the data set's own: idx, tfds/mnist and tfds/cifar10
      are padded, or cut at the border, to it, images and tfds/imagenet2012 are scaled
      and cropped to it (own: 256).
    pool: idx: side of the squares of pixels that are averaged, after that; 1 keeps them.
    shape: of one example of arrays (checked when they are read, and what a dry run without them goes by) and
      of noise.
    labelled: False drops the labels (num_classes 0).
    classes: number of classes, of all but the mixture, digits, images, latents and tfds.
    latent_scale, latent_shift: of arrays that are latents of an autoencoder: (latent - shift) * scale was
      stored. For whoever decodes them; nothing is scaled here. Of latents: 1 and 0, or the autoencoder's own,
      which they are scaled by.
    damaged: images, tfds/imagenet2012: records of a split that may be unreadable; the next one stands for
      each.
    train_size, test_size: draws of a mixture, examples of noise (which stands in where only speed counts).
    seed: of these.
  """

  name: str
  path: str = ""
  size: int = 0
  pool: int = 1
  labelled: bool = True
  classes: int = 10
  shape: tuple[int, ...] = ()
  latent_scale: float = 1.0
  latent_shift: float = 0.0
  damaged: int = 0
  train_size: int = 1 << 20
  test_size: int = 1 << 14
  seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
  """Both splits, and what a network and a picture need to know of them.

  Attributes:
    train, test: sources of one shape and one number of classes.
    shape: of one example; images (H, W, C).
    num_classes: 0 for unlabelled data; also the null label.
    data_std: root mean square of the training values about zero, the c of MATH 9.
    image: whether an example can be shown as a picture.
    latent_scale, latent_shift: of latents, (latent - shift) * scale is the example.
    autoencoder: hash of the parameters that the latents are of; "" where it is not known, or for other data.
  """

  train: Source
  test: Source
  shape: tuple[int, ...]
  num_classes: int
  data_std: float
  image: bool
  latent_scale: float = 1.0
  latent_shift: float = 0.0
  autoencoder: str = ""


def load(config: DataConfig, mixture=None) -> Dataset:
  """The data set of `config`.

  Args:
    config: see `DataConfig`.
    mixture: weights, means and covs to draw from, for the name "mixture" alone.

  Raises:
    ValueError: an unknown name, a `size` for data that have none, a mixture missing, no path for an
      idx folder, and whatever the source itself finds wrong.
  """
  checks.one_of("data.name", config.name, NAMES)
  checks.at_least("data.size", config.size, 0)
  checks.at_least("data.damaged", config.damaged, 0)
  if config.size and config.name not in _SIZED:
    raise ValueError(f"data.size must be 0 for {config.name}, which has no size; got {config.size}")
  if config.pool != 1 and config.name != "idx":
    raise ValueError(f"data.pool must be 1 for {config.name}: only idx folders are pooled; got {config.pool}")
  train, test = (_source(config, split, mixture) for split in ("train", "test"))
  if train.shape != test.shape:
    raise ValueError(f"training and test examples must have one shape; got {train.shape} and {test.shape}")
  for split, source in (("training", train), ("test", test)):
    if not len(source):
      raise ValueError(f"the {split} split of {config.name} must hold at least 1 example; got 0")
  in_memory = isinstance(train, sources.ArraySource)
  return Dataset(
    train=train,
    test=test,
    shape=train.shape,
    num_classes=train.num_classes,
    data_std=sources.root_mean_square(train, **({} if in_memory else {"limit": _DECODED_LIMIT})),
    image=config.name != "latents" and len(train.shape) == 3 and train.shape[-1] in (1, 3),
    **_latent_facts(config, train, test),
  )


def _latent_facts(config: DataConfig, train: Source, test: Source) -> dict[str, Any]:
  """Scale, shift and autoencoder of a `Dataset`."""
  scale, shift = config.latent_scale, config.latent_shift
  if not (isinstance(train, LatentSource) and isinstance(test, LatentSource)):
    return {"latent_scale": scale, "latent_shift": shift}
  index = train.index
  for name in ("autoencoder", "scale", "shift", "size", "num_classes"):
    ours, theirs = getattr(index, name), getattr(test.index, name)
    if ours != theirs:
      raise ValueError(f"the {name} of training and test latents must be one; got {ours} and {theirs}")
  if (scale, shift) not in ((1.0, 0.0), (index.scale, index.shift)):
    raise ValueError(
      f"data.latent_scale and latent_shift must be those of the autoencoder, {index.scale} and "
      f"{index.shift}, or absent; got {scale} and {shift}"
    )
  return {"latent_scale": index.scale, "latent_shift": index.shift, "autoencoder": index.autoencoder}


def _source(config: DataConfig, split: str, mixture) -> Source:
  labelled = config.labelled
  if config.name == "mixture":
    if mixture is None:
      raise ValueError("data.name=mixture must come with a mixture to draw from; got None")
    size = config.train_size if split == "train" else config.test_size
    stream = 0 if split == "train" else 1
    return sources.mixture(mixture, size, config.seed, stream=stream, labelled=labelled)
  if config.name == "digits":
    return sources.digits(split, labelled=labelled)
  if config.name == "arrays":
    source = arrays.array_folder(config.path, split, labelled=labelled, num_classes=config.classes)
    if config.shape:
      checks.shape(f"an example of the {split} split of {config.path}", source.x1[0], config.shape)
    return source
  if config.name == "noise":
    size, stream = (config.train_size, 0) if split == "train" else (config.test_size, 1)
    classes = config.classes if labelled else 0
    return sources.noise(config.shape, size, config.seed, stream=stream, num_classes=classes)
  if config.name == "images":
    return image_folder.image_source(
      config.path, split, size=config.size, labelled=labelled, damaged=config.damaged
    )
  if config.name == "latents":
    source = latents.latent_source(config.path, split, labelled=labelled)
    if config.shape:
      checks.shape(f"an example of the {split} split of {config.path}", np.empty(source.shape), config.shape)
    return source
  if config.name == "strips":
    folder = data_path(config.path, "cifar10-subset")
    return arrays.strip_folder(folder, split, labelled=labelled, num_classes=config.classes)
  if config.name == "idx":
    return idx.idx_folder(
      data_path(config.path, "mnist"),
      split,
      labelled=labelled,
      num_classes=config.classes,
      size=config.size,
      pool=config.pool,
    )
  name = config.name.removeprefix("tfds/")
  return prepared.tfds_source(
    name, split, config.path, labelled=labelled, size=config.size, damaged=config.damaged
  )


def data_path(path: str, name: str) -> pathlib.Path:
  """`path`, or the folder `name` in $MFM_DATA_DIR where it is empty."""
  if path:
    return pathlib.Path(path)
  root = os.environ.get("MFM_DATA_DIR", "")
  if not root:
    raise ValueError(f"data.path must name a folder, or $MFM_DATA_DIR one that holds {name}; got neither")
  return pathlib.Path(root) / name
