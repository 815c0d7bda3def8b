"""Pictures to latents: what is stored, and that a killed preparation is completed byte by byte."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
import vae_case
from PIL import Image

from mfm_jax.data import datasets, latents, prepared
from mfm_jax.data.datasets import DataConfig
from mfm_jax.models import autoencoder
from mfm_jax.training import decoding, folder, prepare
from mfm_jax.training.prepare import PrepareConfig


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """(configuration, summary) of a prepared training split; the test split is there too."""
  root = tmp_path_factory.mktemp("prepared")
  config = PrepareConfig(
    source=str(vae_case.write_pictures(root / "pictures", {"train": 3, "val": 1})),
    vae=str(vae_case.write_vae(root / "vae")),
    out=str(root / "latents"),
    size=vae_case.SIZE,
    batch=2,
    shard=4,
    threads=2,
  )
  prepare.prepare(dataclasses.replace(config, split="test"))
  return config, prepare.prepare(config)


def files(out):
  return {path.name: path.read_bytes() for path in (out / "train").iterdir()}


def out_of(config):
  return pathlib.Path(config.out)


def test_the_moments_are_those_of_the_picture_and_its_mirror_image(made):
  config, summary = made
  assert {key: summary[key] for key in ("examples", "classes", "shape", "shards", "written")} == {
    "examples": 9,
    "classes": 3,
    "shape": [4, 4, 4],
    "shards": 3,
    "written": 3,
  }
  source = latents.latent_source(config.out, "train")
  params = vae_case.params()
  for index, name in ((0, "n01/0"), (7, "n03/1")):
    crop = prepared.centre_crop(Image.open(f"{config.source}/train/{name}.png"), vae_case.SIZE)
    views = np.stack([crop, crop[:, ::-1]]).astype(np.float32) / 127.5 - 1
    expected = jax.jit(lambda x: autoencoder.encode(vae_case.CONFIG, params, x))(views)
    mean, log_variance, label = source.moments(np.array([index, index]), np.array([0, 1]))
    np.testing.assert_allclose(mean, expected.mean, atol=2e-5)
    np.testing.assert_allclose(log_variance, expected.log_variance, atol=2e-5)
    np.testing.assert_array_equal(label, int(name[2]) - 1)


def test_a_killed_preparation_is_completed_byte_by_byte(made, tmp_path, monkeypatch, capsys):
  config, _ = made
  expected = files(out_of(config))
  again, calls = dataclasses.replace(config, out=str(tmp_path)), []

  def dying(source, images, config):
    for batch in batches(source, images, config):
      calls.append(1)
      if len(calls) == 4:  # in the second file
        (tmp_path / "train" / ".00001-of-00003.array_record.unfinished").write_bytes(b"half")
        raise KeyboardInterrupt
      yield batch

  batches = prepare.batches
  monkeypatch.setattr(prepare, "batches", dying)
  with pytest.raises(KeyboardInterrupt):
    prepare.prepare(again)
  assert "00001-of-00003.array_record" not in files(tmp_path)
  monkeypatch.setattr(prepare, "batches", batches)
  assert prepare.prepare(again)["written"] == 2
  assert "1 of 3 files are there" in capsys.readouterr().out
  assert files(tmp_path) == expected
  assert prepare.prepare(again)["written"] == 0


def test_a_folder_of_other_settings_is_left_alone(made, tmp_path):
  config, _ = made
  other = vae_case.write_vae(tmp_path / "vae", seed=1)
  for changes, message in (
    ({"vae": str(other)}, "only with its own settings; got autoencoder="),
    ({"shard": 5}, "only with its own settings; got shard_size=5, 4 there"),
    ({"size": 7}, "--size must be a multiple of 2 for this autoencoder; got 7"),
  ):
    with pytest.raises(ValueError, match=message):
      prepare.prepare(dataclasses.replace(config, **changes))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"vae": ""}, "--vae must be given; got none"),
    ({"split": "val"}, "--split must be one of train, test; got 'val'"),
    ({"dtype": "bfloat16"}, "--dtype must be one of float32, float16"),
    ({"batch": 0}, "--batch must be at least 1; got 0"),
    ({"damaged": -1}, "--damaged must be at least 0; got -1"),
  ],
)
def test_settings_that_cannot_be(changes, message):
  with pytest.raises(ValueError, match=message):
    PrepareConfig(**{"source": "a", "vae": "b", "out": "c", **changes})


def test_latents_are_decoded_by_their_own_autoencoder_alone(made, tmp_path):
  config, _ = made
  info = folder.data_info(datasets.load(DataConfig(name="latents", path=config.out)))
  vae = decoding.read_vae(config.vae)
  assert (info.latent_scale, info.autoencoder) == (vae_case.CONFIG.scale, vae.sha256)
  mean = latents.latent_source(config.out, "train").moments(np.arange(3), np.zeros(3, int))[0]
  image = decoding.pictures(decoding.decoder(vae, info), mean * info.latent_scale, batch=2)
  decode = jax.jit(lambda z: autoencoder.decode(vae_case.CONFIG, vae_case.params(), z))
  np.testing.assert_allclose(image, (np.asarray(decode(mean)) + 1) / 2, atol=2e-5)
  other = decoding.read_vae(vae_case.write_vae(tmp_path, seed=1))
  with pytest.raises(
    ValueError, match=f"must be the one that the run's latents are of, {vae.sha256}; got {other.sha256}"
  ):
    decoding.decoder(other, info)
  unknown = dataclasses.replace(info, autoencoder="")
  assert decoding.decoder(other, unknown)
  for changes in ({"image": True}, {"shape": (4, 4, 3)}, {"shape": (2,)}):
    with pytest.raises(ValueError, match=r"must be of a run on latents \(h, w, 4\)"):
      decoding.decoder(vae, dataclasses.replace(info, **changes))
