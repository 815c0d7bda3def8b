"""Cached latents: what is on the disk, the draws that training takes of them, and what is refused."""

import dataclasses
import pickle

import numpy as np
import pytest

from mfm_jax.data import datasets, latents, pipeline
from mfm_jax.data.datasets import DataConfig
from mfm_jax.data.latents import Index

SHAPE, CLASSES = (2, 3, 4), 3
INDEX = Index(
  split="train",
  examples=7,
  num_classes=CLASSES,
  shape=SHAPE,
  shard_size=3,
  size=16,
  source="noise",
  autoencoder="abc",
  scale=0.5,
  shift=0.25,
)


def moments_of(index=INDEX):
  """(examples, views, h, w, 2 C)."""
  *sides, channels = index.shape
  rng = np.random.default_rng(0)
  return rng.standard_normal((index.examples, index.views, *sides, 2 * channels), np.float32)


def write(path, **changes):
  """A folder with both splits; returns that of the training one."""
  for split in ("test", "train"):
    index = dataclasses.replace(INDEX, **{"split": split, **changes})
    folder, moments = path / split, moments_of(index)
    latents.write_index(folder, index)
    for shard in range(index.shards):
      images = np.array(index.images(shard))
      parts = [images[:2], images[2:]]
      latents.write_shard(folder, index, shard, ((part % CLASSES, moments[part]) for part in parts))
  return folder


def test_moments_come_back(tmp_path):
  write(tmp_path)
  source = latents.latent_source(tmp_path, "train")
  assert (len(source), source.shape, source.num_classes) == (7, SHAPE, CLASSES)
  indices, views = np.array([6, 0, 3, 3]), np.array([0, 1, 0, 1])
  for each in (source, pickle.loads(pickle.dumps(source))):
    mean, log_variance, label = each.moments(indices, views)
    np.testing.assert_array_equal(np.concatenate([mean, log_variance], -1), moments_of()[indices, views])
    np.testing.assert_array_equal(label, [0, 0, 0, 0])
  half = latents.latent_source(write(tmp_path / "half", dtype="float16").parent, "train")
  mean, _, _ = half.moments(indices, views)
  np.testing.assert_allclose(mean, moments_of()[indices, views][..., :4], rtol=5e-4, atol=1e-6)


def test_draws_have_the_law_of_the_moments_scaled(tmp_path):
  write(tmp_path)
  source, n = latents.latent_source(tmp_path, "train"), 4000
  drawn = source.draw(np.full(n, 5), np.arange(n), seed=1)["x1"]
  means, log_variances = np.split(moments_of()[5], 2, axis=-1)
  # A mixture in equal parts of image and mirror image.
  mean, second = means.mean(0), (np.exp(log_variances) + means**2).mean(0)
  error = np.sqrt((second - mean**2) / n) * 0.5
  assert (np.abs(drawn.mean(0) - (mean - 0.25) * 0.5) < 4.5 * error).all()
  np.testing.assert_allclose(drawn.var(0), (second - mean**2) * 0.25, rtol=0.2)


def test_a_draw_is_a_function_of_seed_and_position(tmp_path):
  write(tmp_path)
  source = latents.latent_source(tmp_path, "train")
  draw = lambda position, seed: source.draw(np.array([2]), np.array([position]), seed)["x1"]  # noqa: E731
  np.testing.assert_array_equal(draw(3, 0), draw(3, 0))
  for other in (draw(4, 0), draw(3, 1), source.take(np.array([2]))["x1"]):
    assert np.abs(other - draw(3, 0)).min() > 0
  fixed = source.take(np.array([2, 4]))["x1"]
  np.testing.assert_array_equal(fixed[1], source.take(np.array([4]))["x1"][0])
  assert latents.latent_source(tmp_path, "train", labelled=False).take(np.array([1]))["label"] == [0]


def test_batches_are_drawn_anew_each_epoch_and_resumed_exactly(tmp_path):
  write(tmp_path)
  source = latents.latent_source(tmp_path, "train")

  def batches(**changes):
    return pipeline.batches(source, **{"batch_size": 6, "seed": 3, "prefetch": 0, **changes})

  whole = batches()
  found = [next(whole) for _ in range(7)]
  rows = np.concatenate([batch["x1"] for batch in found]).reshape(6, 7, -1)
  assert len(np.unique(rows.reshape(42, -1), axis=0)) == 42  # six epochs of seven images
  again = batches(prefetch=2, threads=2)
  again.set_state({"next_index": 5})
  np.testing.assert_array_equal(next(again)["x1"], found[5]["x1"])
  hosts = [next(batches(host_index=host, host_count=2)) for host in range(2)]
  np.testing.assert_array_equal(np.concatenate([batch["x1"] for batch in hosts]), found[0]["x1"])
  in_order = next(batches(shuffle=False))
  np.testing.assert_array_equal(in_order["x1"], source.take(np.arange(6))["x1"])


def test_a_data_set_knows_scale_and_autoencoder(tmp_path):
  write(tmp_path)
  data = datasets.load(DataConfig(name="latents", path=str(tmp_path), shape=SHAPE))
  assert (data.latent_scale, data.latent_shift, data.autoencoder) == (0.5, 0.25, "abc")
  assert (data.shape, data.num_classes, data.image) == (SHAPE, CLASSES, False)
  everything = data.train.take(np.arange(7))["x1"]
  assert data.data_std == pytest.approx(np.sqrt(np.mean(everything**2)), rel=1e-5)
  same = DataConfig(name="latents", path=str(tmp_path), latent_scale=0.5, latent_shift=0.25)
  assert datasets.load(same).latent_scale == 0.5
  with pytest.raises(
    ValueError, match=r"must be those of the autoencoder, 0\.5 and 0\.25, or absent; got 0\.18"
  ):
    datasets.load(DataConfig(name="latents", path=str(tmp_path), latent_scale=0.18))
  with pytest.raises(ValueError, match=r"an example of the train split .* must have shape \(4, 4, 4\)"):
    datasets.load(DataConfig(name="latents", path=str(tmp_path), shape=(4, 4, 4)))


def test_splits_of_two_autoencoders_are_refused(tmp_path):
  write(tmp_path)
  write(tmp_path / "other", autoencoder="def")
  (tmp_path / "test").rename(tmp_path / "old")
  (tmp_path / "other" / "test").rename(tmp_path / "test")
  with pytest.raises(
    ValueError, match="the autoencoder of training and test latents must be one; got abc and def"
  ):
    datasets.load(DataConfig(name="latents", path=str(tmp_path)))


def test_folders_that_are_incomplete_or_damaged(tmp_path):
  with pytest.raises(ValueError, match=r"made by experiments\.prepare_latents; got no .*index\.json"):
    latents.latent_source(tmp_path, "train")
  folder = write(tmp_path)
  first = folder / INDEX.file(0)
  content = first.read_bytes()
  first.unlink()
  with pytest.raises(
    ValueError, match=r"all of its 3 files; got no 00000-of-00003\.array_record: run prepare"
  ):
    latents.latent_source(tmp_path, "train")
  first.write_bytes((folder / INDEX.file(2)).read_bytes())
  with pytest.raises(ValueError, match=r"must have 6 records; got 2: remove it"):
    latents.latent_source(tmp_path, "train")
  first.write_bytes(content[: len(content) // 2])
  with pytest.raises(ValueError, match=r"must have 6 records; got .*: remove it"):
    latents.latent_source(tmp_path, "train")
  where = content.index(moments_of()[0, 0].tobytes())
  first.write_bytes(content[:where] + bytes([content[where] ^ 255]) + content[where + 1 :])
  source = latents.latent_source(tmp_path, "train")
  with pytest.raises(ValueError, match=r"the latents in .* must be readable; got Corrupted"):
    source.take(np.arange(7))
  (folder / latents.INDEX).write_text('{"format": 2}')
  with pytest.raises(ValueError, match="must be an index of latents of format 1"):
    latents.latent_source(tmp_path, "train")


def test_what_is_not_written(tmp_path):
  latents.write_index(tmp_path, INDEX)
  latents.write_index(tmp_path, INDEX)
  with pytest.raises(
    ValueError, match=r"only with its own settings; got size=32, 16 there; autoencoder='d', 'abc'"
  ):
    latents.write_index(tmp_path, dataclasses.replace(INDEX, size=32, autoencoder="d"))
  moments, labels = moments_of(), np.zeros(7, int)
  for batch, message in (
    ((labels[:2], moments[:2]), "shard 0 must have 3 images; got 2"),
    ((labels[:3], moments[:3, :1]), r"moments must have shape \(3, 2, 2, 3, 8\); got \(3, 1, 2, 3, 8\)"),
    (
      (labels[:3], np.full_like(moments[:3], np.nan)),
      "moments must be finite in float32; got others in shard 0",
    ),
  ):
    with pytest.raises(ValueError, match=message):
      latents.write_shard(tmp_path, INDEX, 0, [batch])
  half = dataclasses.replace(INDEX, dtype="float16")
  with pytest.raises(ValueError, match="moments must be finite in float16"):
    latents.write_shard(tmp_path, half, 0, [(labels[:3], np.full_like(moments[:3], 1e5))])
  assert [path.name for path in tmp_path.iterdir()] == [latents.INDEX]
  with pytest.raises(ValueError, match="dtype of latents must be one of float32, float16; got 'int8'"):
    dataclasses.replace(INDEX, dtype="int8")
  with pytest.raises(ValueError, match="examples of latents must be at least 1; got 0"):
    dataclasses.replace(INDEX, examples=0)
