"""Data prepared by TensorFlow Datasets, read and decoded without TensorFlow."""

import io
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from mfm_jax.data import datasets, prepared
from mfm_jax.data.datasets import DataConfig


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, kind)
  return stream.getvalue()


def prepare(name: str, data_dir, images: dict[str, list[np.ndarray]], shape, num_classes: int):
  """Writes a small data set under the name of a real one; encoded images need no TensorFlow."""
  tfds = pytest.importorskip("tensorflow_datasets")

  def info(self):
    image = tfds.features.Image(shape=shape)
    label = tfds.features.ClassLabel(num_classes=num_classes)
    features = tfds.features.FeaturesDict({"image": image, "label": label})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def examples(pixels):
    for i, p in enumerate(pixels):
      yield i, {"image": encoded(p), "label": i % num_classes}

  body = {
    "name": name,
    "VERSION": tfds.core.Version("9.9.9"),  # not a version that the installed code knows
    "_info": info,
    "_split_generators": lambda self, _: {s: examples(p) for s, p in images.items()},
    "_generate_examples": lambda self: None,
  }
  with tfds.core.registered.skip_registration():
    builder_class = types.new_class(
      name, (tfds.core.GeneratorBasedBuilder,), exec_body=lambda ns: ns.update(body)
    )
  builder = builder_class(data_dir=data_dir, file_format="array_record")
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  builder.download_and_prepare(download_config=config)


def by_label(source) -> dict[int, np.ndarray]:
  taken = source.take(np.arange(len(source)))
  return dict(zip(taken["label"].tolist(), taken["x1"], strict=True))


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_small_images_are_read_into_memory(tmp_path, name, shape):
  rng = np.random.default_rng(0)
  pixels = [rng.integers(0, 256, shape, dtype=np.uint8).squeeze() for _ in range(7)]
  prepare(name, tmp_path, {"train": pixels, "test": pixels[:3]}, shape, 10)
  found = by_label(prepared.tfds_source(name, "train", str(tmp_path)))
  assert len(found) == 7  # prepared in another order, but each with its own label
  for label, image in found.items():
    np.testing.assert_allclose(image, pixels[label].reshape(shape) / 127.5 - 1, atol=1e-6, err_msg=str(label))
  config = DataConfig(name=f"tfds/{name}", path=str(tmp_path), size=36, labelled=False)
  data = datasets.load(config)
  assert (data.shape, data.num_classes, len(data.test)) == ((36, 36, shape[2]), 0, 3)
  assert data.image


def test_imagenet_is_cropped_when_taken(tmp_path):
  ramp = np.broadcast_to(np.arange(60, dtype=np.uint8)[None, :, None] * 4, (40, 60, 3))
  flat = [np.full((50 + i, 40, 3), 10 * i, np.uint8) for i in range(3)]
  images = {"train": [ramp], "validation": flat}
  prepare("imagenet2012", tmp_path, images, (None, None, 3), 1000)
  train = prepared.tfds_source("imagenet2012", "train", str(tmp_path), size=20)
  image = train.take(np.array([0]))["x1"][0]
  assert image.shape == (20, 20, 3)
  # 60 x 40 halves to 30 x 20 (column c holds 8 c + 2), whose centre is columns 5 to 24.
  np.testing.assert_allclose((image + 1) * 127.5, np.zeros((20, 20, 3)) + image_ramp(), atol=1.0)
  test = prepared.tfds_source("imagenet2012", "test", str(tmp_path), size=32)
  for label, flat_image in by_label(test).items():
    np.testing.assert_allclose((flat_image + 1) * 127.5, 10 * label, atol=1e-4)
  data = datasets.load(DataConfig(name="tfds/imagenet2012", path=str(tmp_path), size=16))
  assert (data.shape, data.num_classes) == ((16, 16, 3), 1000)


def image_ramp() -> np.ndarray:
  return (8.0 * np.arange(5, 25) + 2)[None, :, None]


def test_centre_crop_halves_by_averaging_two_by_two():
  pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
  crop = prepared.centre_crop(Image.fromarray(pixels), 20)
  means = pixels.reshape(20, 2, 20, 2, 3).mean((1, 3))
  np.testing.assert_allclose(crop, means, atol=1.0)  # it rounds twice; bicubic errs by tens


def test_centre_crop_of_every_orientation_and_mode():
  for size, mode in (((64, 64), "L"), ((300, 65), "RGB"), ((65, 300), "CMYK"), ((17, 40), "P")):
    crop = prepared.centre_crop(Image.new(mode, size), 64)
    assert (crop.shape, crop.dtype) == ((64, 64, 3), np.uint8)


def test_encoded_source_names_the_bad_record():
  def source(image, label=0):
    return prepared.EncodedSource(
      records=[{"image": image, "label": label}], decode=np.asarray, shape=(4, 4, 3), num_classes=2
    )

  good = encoded(np.zeros((4, 4, 3), np.uint8))
  assert source(good).take(np.array([0]))["x1"].shape == (1, 4, 4, 3)
  with pytest.raises(ValueError, match="record 0 must be a readable image"):
    source(b"nothing").take(np.array([0]))
  with pytest.raises(ValueError, match=r"record 0 must decode to \(4, 4, 3\); got \(5, 4, 3\)"):
    source(encoded(np.zeros((5, 4, 3), np.uint8))).take(np.array([0]))
  with pytest.raises(ValueError, match=r"label must lie in 0\.\.1; got 2"):
    source(good, 2).take(np.array([0]))


def test_data_that_are_not_prepared_are_a_clear_error(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  message = f"train split of cifar10 must be prepared in data_dir .* got data_dir={tmp_path}"
  with pytest.raises(ValueError, match=message):
    prepared.tfds_source("cifar10", "train", str(tmp_path))
  with pytest.raises(ValueError, match=r"name must be one of mnist, .*; got 'svhn'"):
    prepared.tfds_source("svhn", "train", str(tmp_path))
  with pytest.raises(ValueError, match="split must be one of train, test; got 'validation'"):
    prepared.tfds_source("mnist", "validation", str(tmp_path))


def test_reading_needs_neither_tensorflow_nor_pytorch(tmp_path):
  """In a fresh process, because another test may have imported them."""
  pytest.importorskip("tensorflow_datasets")
  prepare("mnist", tmp_path, {"train": [np.zeros((28, 28), np.uint8)]}, (28, 28, 1), 10)
  code = (
    "import sys; from mfm_jax.data import prepared, pipeline, datasets; "
    f"print(len(prepared.tfds_source('mnist', 'train', {str(tmp_path)!r})), "
    "[m for m in ('tensorflow', 'torch') if m in sys.modules])"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.split("\n")[0] == "1 []"


def test_a_few_damaged_records_are_replaced_by_their_neighbours_and_counted(capsys):
  def records():
    good = [encoded(np.full((4, 4, 3), 10 * i, np.uint8)) for i in range(6)]
    good[2], good[3], good[5] = b"nothing", encoded(np.zeros((5, 4, 3), np.uint8)), good[5][:20]
    return [{"image": image, "label": i} for i, image in enumerate(good)]

  def source(damaged):
    return prepared.EncodedSource(
      records=records(), decode=np.asarray, shape=(4, 4, 3), num_classes=6, damaged=damaged
    )

  tolerant = source(3)
  for _ in range(2):  # named once
    np.testing.assert_array_equal(tolerant.take(np.arange(6))["label"], [0, 1, 4, 4, 4, 0])
  said = capsys.readouterr().out
  assert said.count("skipped") == 3
  assert "skipped, 1 of at most 3: record 2 must be a readable image" in said
  with pytest.raises(ValueError, match=r"at most data\.damaged=2 records may be unreadable; got 3: record 5"):
    source(2).take(np.arange(6))


class Checked(list):
  """Records of a reader that knows which of them are damaged, and reads all or none."""

  def __getitems__(self, indices):
    return [self[i] for i in indices]

  def __getitem__(self, i):
    if super().__getitem__(i) is None:
      raise RuntimeError("chunk data\n hash mismatch")
    return super().__getitem__(i)


def test_a_record_that_its_reader_refuses_is_damaged(capsys):
  good = {"image": encoded(np.zeros((4, 4, 3), np.uint8))}
  records = Checked([{**good, "label": 0}, None, {**good, "label": 2}])
  options = {"records": records, "decode": np.asarray, "shape": (4, 4, 3), "num_classes": 3}
  tolerant = prepared.EncodedSource(**options, damaged=1)
  np.testing.assert_array_equal(tolerant.take(np.arange(3))["label"], [0, 2, 2])
  assert "skipped, 1 of at most 1: record 1 must be readable; got chunk data hash" in capsys.readouterr().out
  with pytest.raises(ValueError, match=r"data\.damaged=0 .* record 1 must be readable"):
    prepared.EncodedSource(**options).take(np.arange(3))


def test_records_that_are_all_damaged_are_an_error():
  options = {"decode": np.asarray, "shape": (4, 4, 3), "num_classes": 0, "damaged": 5}
  source = prepared.EncodedSource(records=[{"image": b"nothing"}] * 3, **options)
  with pytest.raises(ValueError, match="one record at least must be readable; got none of 3"):
    source.take(np.arange(1))


@pytest.mark.parametrize("error", [SyntaxError("broken PNG file"), Image.DecompressionBombError("too large")])
def test_all_errors_of_pillow_are_those_of_the_record(error):
  def decode(image):
    raise error

  with pytest.raises(ValueError, match=f"record 7 must be a readable image; got {error}"):
    prepared.decode_record("record 7", encoded(np.zeros((4, 4, 3), np.uint8)), decode)
