"""Folders of pictures laid out as ImageNet's, and ADM's crop of them."""

import numpy as np
import pytest
import vae_case
from PIL import Image
from sklearn.datasets import load_sample_images

from mfm_jax.data import datasets, image_folder, prepared
from mfm_jax.data.datasets import DataConfig


def adm_crop(image, side):
  """The formula of guided-diffusion (Dhariwal and Nichol 2021), from its description.

  Box-filter halvings while the short side is at least twice the target, one bicubic step so that the short
  side is the target, then `side` pixels from offset (extent - side) // 2 on both axes.
  """
  width, height = image.size
  while min(width, height) >= 2 * side:
    width, height = width // 2, height // 2
    image = image.resize((width, height), resample=Image.BOX)
  ratio = side / min(width, height)
  image = image.resize((round(width * ratio), round(height * ratio)), resample=Image.BICUBIC)
  pixels = np.array(image)
  y, x = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
  return pixels[y : y + side, x : x + side]


def photographs():
  """Photographs cut to odd sizes and to just twice a crop; with skimage, its own too."""
  for pixels in load_sample_images().images:
    for height, width in ((427, 640), (425, 333), (301, 639), (101, 57), (114, 201)):
      yield pixels[:height, :width]
  try:
    from skimage import data
  except ImportError:
    return
  yield from (data.astronaut()[:511, :377], data.chelsea(), data.coffee()[:399])


def test_the_crop_is_that_of_adm():
  for pixels in photographs():
    image = Image.fromarray(pixels)
    for side in (32, 57, 100, 256):
      np.testing.assert_array_equal(
        prepared.centre_crop(image, side), adm_crop(image, side), str(pixels.shape)
      )


@pytest.fixture
def folder(tmp_path):
  return vae_case.write_pictures(tmp_path, {"train": 3, "val": 1})


def test_classes_are_numbered_by_name_and_pictures_cropped(folder):
  data = datasets.load(DataConfig(name="images", path=str(folder), size=8))
  assert (data.shape, data.num_classes, data.image) == ((8, 8, 3), 3, True)
  assert (len(data.train), len(data.test)) == (9, 3)
  taken = data.train.take(np.arange(9))
  np.testing.assert_array_equal(taken["label"], np.repeat([0, 1, 2], 3))
  crop = prepared.centre_crop(Image.open(folder / "train" / "n02" / "1.png"), 8)
  np.testing.assert_allclose(taken["x1"][4], crop / 127.5 - 1, atol=1e-6)
  assert datasets.load(DataConfig(name="images", path=str(folder), size=8, labelled=False)).num_classes == 0
  assert image_folder.image_source(folder, "test").shape == (256, 256, 3)


def test_a_class_without_pictures_and_other_files_move_no_label(folder):
  for file in (folder / "val" / "n01").iterdir():
    file.unlink()
  (folder / "val" / "n01").rmdir()
  (folder / "val" / "n02" / "list.txt").write_text("n02")
  (folder / "val" / "n03" / ".hidden.png").write_text("")
  (folder / "val" / "README").write_text("")
  found = image_folder.pictures(folder, "test")
  assert (found.files, found.label) == (("n02/0.png", "n03/0.png"), (1, 2))


def test_a_picture_that_cannot_be_read_is_named(folder, capsys):
  bad = folder / "train" / "n02" / "0.png"
  bad.write_bytes(bad.read_bytes()[:100])
  source = image_folder.image_source(folder, "train", size=8)
  with pytest.raises(ValueError, match=r"got 1: .*train/n02/0\.png must be a readable image"):
    source.take(np.arange(9))
  source = image_folder.image_source(folder, "train", size=8, damaged=1)
  np.testing.assert_array_equal(source.take(np.arange(9))["label"], np.repeat([0, 1, 2], 3))
  assert "skipped, 1 of at most 1" in capsys.readouterr().out


def test_folders_that_are_none(tmp_path):
  with pytest.raises(ValueError, match=r"must hold train/<class>/ and val/<class>/; got ''"):
    image_folder.pictures("", "train")
  with pytest.raises(
    ValueError, match=r"the test split of a folder of pictures must be in .*val; got no such"
  ):
    image_folder.pictures(tmp_path, "test")
  (tmp_path / "train" / "n01").mkdir(parents=True)
  with pytest.raises(ValueError, match=r"must hold pictures in class folders; got none in 1 of them"):
    image_folder.pictures(tmp_path, "train")
  with pytest.raises(ValueError, match="split must be one of train, test; got 'val'"):
    image_folder.pictures(tmp_path, "val")
