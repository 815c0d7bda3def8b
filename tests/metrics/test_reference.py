"""Files of statistics: the fingerprint, ADM's format and pytorch-fid's."""

import dataclasses

import numpy as np
import pytest

from mfm_jax.metrics import reference
from mfm_jax.metrics.reference import Fingerprint
from mfm_jax.metrics.statistics import Gaussian, Statistics

OWN = Fingerprint(convention="adm", weights_sha256="abc")


def gaussian(seed: int, d: int) -> Gaussian:
  return Statistics.empty(d).add(np.random.default_rng(seed).normal(size=(20, d))).gaussian()


POOL, SPATIAL = gaussian(0, 5), gaussian(1, 3)


def check_same(found: Gaussian, expected: Gaussian):
  np.testing.assert_array_equal(found.mean, expected.mean)
  np.testing.assert_array_equal(found.covariance, expected.covariance)


@pytest.mark.parametrize("spatial", [SPATIAL, None])
def test_statistics_are_read_as_they_were_written(spatial, tmp_path):
  path = tmp_path / "new" / "statistics.npz"
  reference.write_statistics(path, POOL, spatial, OWN)
  pool, around = reference.read_statistics(path, OWN)
  check_same(pool, POOL)
  assert pool.count == 20
  if spatial is None:
    assert around is None
  else:
    check_same(around, SPATIAL)
  assert [file.name for file in path.parent.iterdir()] == ["statistics.npz"]


def test_adm_files_are_written_and_read(tmp_path):
  path = tmp_path / "adm.npz"
  reference.write_statistics(path, POOL, SPATIAL)
  with np.load(path) as file:
    assert sorted(file.files) == ["mu", "mu_s", "sigma", "sigma_s"]
  pool, around = reference.read_statistics(path, OWN)
  check_same(pool, POOL)
  check_same(around, SPATIAL)
  assert pool.count == 0  # not known
  # As the published ones come: pictures beside, single precision.
  arrays = {"mu": POOL.mean, "sigma": POOL.covariance, "mu_s": SPATIAL.mean, "sigma_s": SPATIAL.covariance}
  arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
  np.savez(path, arr_0=np.zeros((2, 4, 4, 3), np.uint8), **arrays)
  np.testing.assert_allclose(
    reference.read_statistics(path, OWN)[1].covariance, SPATIAL.covariance, rtol=1e-6
  )


def test_conventions_are_never_mixed(tmp_path):
  torch = dataclasses.replace(OWN, convention="pytorch_fid")
  path = tmp_path / "a.npz"
  reference.write_statistics(path, POOL)  # pytorch-fid's arrays
  check_same(reference.read_statistics(path, torch)[0], POOL)
  with pytest.raises(ValueError, match=r"arrays of pytorch_fid's statistics .* use --convention=pytorch_fid"):
    reference.read_statistics(path, OWN)
  reference.write_statistics(path, POOL, SPATIAL)
  with pytest.raises(
    ValueError, match="arrays of adm's statistics and no fingerprint; got convention pytorch"
  ):
    reference.read_statistics(path, torch)


@pytest.mark.parametrize(
  "change",
  [{"convention": "pytorch_fid"}, {"weights_sha256": "abd"}, {"rounding": "truncate"}, {"crop": "center"}],
)
def test_another_fingerprint_is_refused(change, tmp_path):
  path = tmp_path / "a.npz"
  reference.write_statistics(path, POOL, SPATIAL, OWN)
  ((name, value),) = change.items()
  with pytest.raises(ValueError, match=f"{name} '{getattr(OWN, name)}' there, '{value}' here"):
    reference.read_statistics(path, dataclasses.replace(OWN, **change))


def test_pictures_alone_are_no_statistics(tmp_path):
  np.savez(tmp_path / "a.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
  assert reference.read_statistics(tmp_path / "a.npz", OWN) is None


def test_mistakes(tmp_path):
  path = tmp_path / "a.npz"

  def refused(message):
    with pytest.raises(ValueError, match=message):
      reference.read_statistics(path, OWN)

  refused(r"a reference must be an \.npz file; got no file")
  path.write_bytes(b"no archive")
  refused(r"a\.npz must be a readable \.npz file of arrays")
  with path.open("wb") as file:
    np.save(file, np.zeros(3))
  refused(r"a\.npz must be a readable \.npz file of arrays")
  np.savez(path, mu=POOL.mean)
  refused("must hold sigma beside the means; got mu")
  np.savez(path, mu=POOL.mean, sigma=POOL.covariance, mu_s=POOL.mean)
  refused("must hold sigma_s beside the means")
  np.savez(path, mu=POOL.mean, sigma=np.eye(2), mu_s=SPATIAL.mean, sigma_s=SPATIAL.covariance)
  refused(r"covariance must have shape \(5, 5\); got \(2, 2\) in")
  np.savez(path, mu=POOL.mean, sigma=POOL.covariance, fingerprint=np.array("{"))
  refused("must hold a fingerprint that can be read")
  with pytest.raises(ValueError, match=r"statistics must end in \.npz; got x\.pkl"):
    reference.write_statistics("x.pkl", POOL)
  with pytest.raises(ValueError, match="convention must be one of adm, pytorch_fid; got 'clean'"):
    Fingerprint(convention="clean", weights_sha256="")
  with pytest.raises(ValueError, match="rounding must be one of"):
    dataclasses.replace(OWN, rounding="up")
  with pytest.raises(ValueError, match="crop must be one of none, center; got 'random'"):
    dataclasses.replace(OWN, crop="random")
