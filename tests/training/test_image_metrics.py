"""The FID suite on a run and on files: what is generated, what it is compared with, what is refused.

The run is a map in closed form whose pictures show their label, and the extractor averages over regions.
"""

import dataclasses

import fid_case
import numpy as np
import pytest
from fid_case import FINGERPRINT, extract

from mfm_jax.data import datasets
from mfm_jax.data.sources import to_pixels
from mfm_jax.metrics import features as metrics_of
from mfm_jax.metrics import reference, samples, statistics
from mfm_jax.metrics.statistics import Statistics
from mfm_jax.training import evaluation, image_metrics, shares
from mfm_jax.training import features as extraction
from mfm_jax.training.evaluation import ImageConfig
from mfm_jax.training.features import collect
from mfm_jax.training.image_metrics import Suite
from mfm_jax.training.run import Run

DIGITS = datasets.load(fid_case.CONFIG.data)
NUM = 40


@pytest.fixture(scope="module")
def run() -> Run:
  return fid_case.run()


@pytest.fixture(autouse=True)
def chunks(monkeypatch):
  """Several parts, the last one not full."""
  monkeypatch.setattr(shares, "CHUNK", 16)


def suite(*metrics: str, **changes) -> Suite:
  how = {"num": NUM, "few": True, "splits": 2, "subset": 10, **changes}
  return Suite(metrics=metrics, extract=extract, fingerprint=FINGERPRINT, **how)


def shown(pictures: np.ndarray) -> np.ndarray:
  """The labels that pictures show."""
  return np.rint(pictures[:, 0, 0, 0] / 255.0 * 20.0).astype(int)


def all_of(batches) -> np.ndarray:
  return np.concatenate(list(batches))


def gaussian(x: np.ndarray):
  return Statistics.empty(x.shape[1]).add(x).gaussian()


def test_samples_are_balanced_and_of_their_labels(run):
  labels = samples.balanced_labels(NUM, 10)
  pictures = all_of(image_metrics.sample_pictures(run, suite("fid"), to_pixels, labels))
  assert pictures.shape == (NUM, 8, 8, 3)  # one channel stands for three
  np.testing.assert_array_equal(shown(pictures), labels)
  again = all_of(image_metrics.sample_pictures(run, suite("fid"), to_pixels, labels))
  np.testing.assert_array_equal(pictures, again)
  other = all_of(image_metrics.sample_pictures(run, suite("fid", seed=1), to_pixels, labels))
  assert (pictures != other).any()


def test_a_row_has_the_figures_of_its_pictures(run, tmp_path):
  everything = suite("fid", "sfid", "is", "precision_recall", "kid", "class_fid")
  known = image_metrics.of_source(everything, DIGITS.test, to_pixels)
  path = tmp_path / "samples.npz"
  found = image_metrics.of_run(run, everything, known, to_pixels, keep=str(path))

  real = extract(np.repeat(samples.to_bytes(to_pixels(DIGITS.test.take(np.arange(360))["x1"])), 3, -1))
  with np.load(path) as file:
    fake, labels = extract(file["arr_0"]), file["arr_1"]
  distance = statistics.frechet_distance
  assert found["num"] == NUM
  assert found["num_reference"] == 360
  assert found["fid"] == pytest.approx(distance(gaussian(fake.pool), gaussian(real.pool)))
  assert found["sfid"] == pytest.approx(distance(gaussian(fake.spatial), gaussian(real.spatial)))
  score = metrics_of.inception_score(fake.logits, splits=2)
  assert (found["inception_score"], found["inception_score_std"]) == pytest.approx(score)
  assert (found["precision"], found["recall"]) == metrics_of.precision_recall(known.features[:NUM], fake.pool)
  assert found["kid"] == pytest.approx(metrics_of.kid(known.features[:NUM], fake.pool, size=10).mean)
  pairs = (known.features, known.labels, fake.pool, labels)
  within = statistics.class_frechet_distances(*pairs, few=True)
  assert found["class_fid"] == pytest.approx(np.mean(list(within.values())))
  # The file by itself has the same figures.
  assert image_metrics.of_samples(everything, path, known) == found


def test_features_of_a_reference_keep_their_labels():
  known = image_metrics.of_source(suite("kid"), DIGITS.test, to_pixels)
  assert known.features.shape == (NUM, 4)
  every = extract(np.repeat(samples.to_bytes(to_pixels(DIGITS.test.take(np.arange(360))["x1"])), 3, -1)).pool
  labels = DIGITS.test.take(np.arange(360))["label"]
  for row, label in zip(known.features, known.labels, strict=True):
    nearest = np.argmin(np.abs(every - row).sum(1))
    assert labels[nearest] == label


def test_posterior_draws_of_clean_contexts_have_the_law_of_the_data(run):
  """At t = 1 a draw is its context but for the first pixel; at t = 0 it knows nothing of it."""
  own = suite("posterior_fid", num=400)  # more than there are pictures
  known = image_metrics.of_source(own, DIGITS.test, to_pixels)
  at_one, at_zero = image_metrics.posterior_rows(run, own, known, DIGITS.test, to_pixels, times=(1.0, 0.0))
  assert [at_one["t"], at_zero["t"]] == [1.0, 0.0]
  assert at_one["num"] == 400
  assert at_one["posterior_fid"] < 0.05 * at_zero["posterior_fid"]


def test_a_reference_from_statistics_from_pictures_or_from_both(tmp_path):
  pictures = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
  found = extract(pictures)
  own, around = gaussian(found.pool), gaussian(found.spatial)
  arrays = {"mu": own.mean + 1, "sigma": own.covariance, "mu_s": around.mean, "sigma_s": around.covariance}
  path = tmp_path / "a.npz"

  np.savez(path, arr_0=pictures, arr_1=np.arange(60) % 10)
  known = image_metrics.of_file(suite("fid", "kid", "class_fid"), path)
  np.testing.assert_allclose(known.pool.mean, own.mean)
  np.testing.assert_allclose(known.features, found.pool)
  np.testing.assert_array_equal(known.labels, np.arange(60) % 10)

  np.savez(path, **arrays)
  known = image_metrics.of_file(suite("fid", "sfid"), path)
  np.testing.assert_array_equal(known.pool.mean, own.mean + 1)
  assert known.features is None
  with pytest.raises(ValueError, match=r"or pictures; kid need pictures \(arr_0\)"):
    image_metrics.of_file(suite("fid", "kid"), path)

  np.savez(path, arr_0=pictures, **arrays)  # statistics of more pictures than there are: ADM's reference
  known = image_metrics.of_file(suite("fid", "kid"), path)
  np.testing.assert_array_equal(known.pool.mean, own.mean + 1)
  np.testing.assert_allclose(known.features, found.pool[:NUM])


def test_collecting_is_the_same_for_any_batches(monkeypatch):
  pictures = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)
  whole = collect(extract, [pictures], spatial=True, hold={"pool": 20, "logits": 50})
  monkeypatch.setattr(extraction, "BATCH", 6)
  monkeypatch.setattr(extraction, "ROWS", 15)
  parts = collect(extract, np.split(pictures, [3, 30]), spatial=True, hold={"pool": 20, "logits": 50})
  for ours, theirs in ((whole.pool, parts.pool), (whole.spatial, parts.spatial)):
    assert ours.count == theirs.count == 50
    np.testing.assert_allclose(ours.scatter, theirs.scatter, rtol=1e-10)
  assert parts.held["pool"].shape == (20, 4)
  for name, held in whole.held.items():
    np.testing.assert_array_equal(held, parts.held[name])
  with pytest.raises(ValueError, match="features need at least 1 picture"):
    collect(extract, [])
  with pytest.raises(ValueError, match="features to hold must be one of pool, logits; got 'spatial'"):
    collect(extract, [pictures], hold={"spatial": 3})


@pytest.fixture
def fake(monkeypatch):
  monkeypatch.setattr(evaluation, "extractor", fid_case.extractor)


def test_an_evaluation_of_a_run_and_of_its_samples(run, fake, tmp_path):
  names = {"write_samples": str(tmp_path / "samples.npz"), "write_reference": str(tmp_path / "known.npz")}
  images = ImageConfig(split="test", num=NUM, few=True, splits=2, **names)
  found = evaluation.evaluate(run, ["fid", "is", "posterior_fid"], images, times=(0.5,))
  assert set(found) == {"extractor", "images", "posterior_fid"}
  assert found["extractor"]["convention"] == "adm"
  images = ImageConfig(reference=names["write_reference"], num=NUM, few=True, splits=2)
  again = evaluation.evaluate(None, ["fid", "is"], images, sample_file=names["write_samples"])
  assert again["images"][0] == pytest.approx(found["images"][0])


def test_mistakes(run, fake, tmp_path):
  def refused(message, *args, **kwargs):
    with pytest.raises(ValueError, match=message):
      evaluation.evaluate(*args, **kwargs)

  few = ImageConfig(split="test", num=NUM, few=True)
  file = tmp_path / "batch.npz"
  samples.write_samples(file, [np.zeros((4, 8, 8, 3), np.uint8)], 4)
  refused("metrics must be one of posterior, .*, posterior_fid; got 'fld'", run, ["fld"], few)
  refused("number of metrics must be at least 1; got 0", run, [], few)
  refused(r"must exceed the 2048 dimensions .*; got 40", run, ["fid"], ImageConfig(num=NUM))
  kid = ImageConfig(num=NUM, few=True, subset=50)
  refused(r"num \(for kid\) must be at least 50; got 40", run, ["kid"], kid)
  refused(r"num \(for is\) must be at least 10; got 4", run, ["is"], ImageConfig(num=4, few=True))
  refused("must come without a run and its metrics; got a run", run, ["fid"], few, sample_file="a.npz")
  refused("a run, or a file of samples, must be given; got neither", None, ["fid"], few)
  refused("got metrics value, which need a run", None, ["value"], few, sample_file="a.npz")
  refused("--reference must name an .npz file with --samples", None, ["fid"], few, sample_file="a.npz")
  refused("guidance must be a scale the run was trained with", run, ["fid"], few, guidance=3.0)
  refused("split must be one of train, test; got 'all'", run, ["fid"], ImageConfig(split="all", few=True))
  refused("times must lie in", run, ["posterior_fid"], few, times=(2.0,))
  of_file = ImageConfig(reference=str(file), num=NUM, few=True)
  refused("number of samples in .* must be at least 40; got 4", None, ["fid"], of_file, sample_file=str(file))
  four = ImageConfig(reference=str(file), num=4, few=True)
  longer = tmp_path / "longer.npz"
  samples.write_samples(longer, [np.zeros((6, 8, 8, 3), np.uint8)], 6)
  kid = dataclasses.replace(four, num=6, subset=6)
  refused(r"reference \(for kid\) must be at least 6; got 4", None, ["kid"], kid, sample_file=str(longer))
  refused("posterior_fid needs a run", None, ["posterior_fid"], four, sample_file=str(file))
  refused("class_fid needs labels of the samples", None, ["class_fid"], four, sample_file=str(file))
  known = tmp_path / "known.npz"
  reference.write_statistics(known, gaussian(np.eye(6, 4)), None, FINGERPRINT)
  of_file = ImageConfig(reference=str(known), num=4, few=True)
  launder = dataclasses.replace(
    of_file, write_reference=str(tmp_path / "new.npz"), reference=str(known) + "2.npz"
  )
  np.savez(launder.reference, mu=np.zeros(4), sigma=np.eye(4), mu_s=np.zeros(3), sigma_s=np.eye(3))
  refused("--write_reference must be of pictures", None, ["fid"], launder, sample_file=str(file))
  refused("sfid needs spatial statistics", None, ["sfid"], of_file, sample_file=str(file))
  samples.write_samples(file, [np.zeros((4, 8, 8, 3), np.uint8)], 4, np.array([0, 0, 1, 2]))
  refused(
    "2 pictures of every class in samples; got fewer of 1", None, ["class_fid"], four, sample_file=str(file)
  )


def test_too_few_pictures_behind_the_statistics_of_a_file(tmp_path):
  path = tmp_path / "known.npz"
  reference.write_statistics(path, Statistics.empty(4).add(np.eye(4)).gaussian(few=True), None, FINGERPRINT)
  with pytest.raises(ValueError, match="must exceed the 4 dimensions of the features"):
    image_metrics.of_file(suite("fid", few=False, num=3000), path)
