"""Named data sets: from a config to a training and a test source."""

import dataclasses
import os
import pathlib

from mfm_jax import checks
from mfm_jax.data import arrays, idx, prepared, sources
from mfm_jax.data.sources import Source

NAMES = ("mixture", "digits", "idx", "arrays", "tfds/mnist", "tfds/cifar10", "tfds/imagenet2012")
_SIZED = ("idx", "tfds/mnist", "tfds/cifar10", "tfds/imagenet2012")
_DECODED_LIMIT = 512  # examples that data_std decodes of a source that is not in memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Which data, and how they are brought into model space.

  Attributes:
    name: one of `NAMES`.
    path: idx: the folder ("" for $MFM_DATA_DIR/mnist); arrays: the folder of train.npz and test.npz;
      tfds: the data_dir ("" for its default). Not read by the others.
    size: side of the images in pixels, 0 for the data set's own: idx, tfds/mnist and tfds/cifar10
      are padded, or cut at the border, to it, tfds/imagenet2012 is scaled and cropped to it (own: 256).
    pool: idx: side of the squares of pixels that are averaged, after that; 1 keeps them.
    labelled: False drops the labels (num_classes 0).
    classes: number of classes of an idx folder and of arrays.
    latent_scale, latent_shift: of arrays that are latents of an autoencoder: (latent - shift) * scale was
      stored. For whoever decodes them; nothing is scaled here.
    train_size, test_size: draws of a mixture.
    seed: of a mixture's draws.
  """

  name: str
  path: str = ""
  size: int = 0
  pool: int = 1
  labelled: bool = True
  classes: int = 10
  latent_scale: float = 1.0
  latent_shift: float = 0.0
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
  """

  train: Source
  test: Source
  shape: tuple[int, ...]
  num_classes: int
  data_std: float
  image: bool


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
    image=len(train.shape) == 3,
  )


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
    return arrays.array_folder(config.path, split, labelled=labelled, num_classes=config.classes)
  if config.name == "idx":
    return idx.idx_folder(
      idx_path(config.path),
      split,
      labelled=labelled,
      num_classes=config.classes,
      size=config.size,
      pool=config.pool,
    )
  name = config.name.removeprefix("tfds/")
  return prepared.tfds_source(name, split, config.path, labelled=labelled, size=config.size)


def idx_path(path: str) -> pathlib.Path:
  """`path`, or $MFM_DATA_DIR/mnist where it is empty."""
  if path:
    return pathlib.Path(path)
  root = os.environ.get("MFM_DATA_DIR", "")
  if not root:
    raise ValueError(
      "an idx folder must be named by data.path, or be the folder mnist in $MFM_DATA_DIR; got neither"
    )
  return pathlib.Path(root) / "mnist"
