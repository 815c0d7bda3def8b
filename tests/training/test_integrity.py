"""A checkpoint that is damaged in any way is noticed, named and passed over; nothing is lost by it."""

import json
import random
import shutil
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import run_case

from mfm_jax.training import integrity, loop
from mfm_jax.training.checkpoint import HASHES, SEAL, Checkpoints, SaveError
from mfm_jax.training.state import create


def _state(step):
  params = {"net": {"kernel": jax.random.normal(jax.random.key(step), (32, 32)), "bias": jnp.zeros(3)}}
  return create(params, optax.adam(0.1), ("0.9",))._replace(step=jnp.asarray(step, jnp.int32))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A folder with steps 1 and 2."""
  folder = tmp_path_factory.mktemp("saved")
  with Checkpoints(folder, writable=True) as checkpoints:
    for step in (1, 2):
      checkpoints.save(_state(step), {"next_index": step}, {"window": []})
  return folder


def _restored(folder, *, writable=False):
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with Checkpoints(folder, writable=writable) as checkpoints:
      found = checkpoints.restore(_state(0))
  np.testing.assert_array_equal(
    found.state.params["net"]["kernel"], _state(found.step).params["net"]["kernel"]
  )
  return found.step, " ".join(str(warning.message) for warning in caught)


def test_every_file_has_a_hash(saved):
  step = saved / "2"
  known = {name for file in (HASHES, SEAL) for name in json.loads((step / file).read_text())}
  assert known == integrity.files_of(step) - {SEAL}


def test_a_bit_that_is_flipped_anywhere_is_noticed(saved, tmp_path):
  """100 times; the step before is used, and the damaged one named."""
  rng = random.Random(0)
  files = sorted(integrity.files_of(saved / "2"))
  for trial in range(100):
    # One file after the other, so that small ones are not missed.
    file = saved / "2" / files[trial % len(files)]
    whole = file.read_bytes()
    bit = rng.randrange(8 * len(whole)) if whole else 0
    broken = bytearray(whole or b"\0")
    broken[bit // 8] ^= 1 << bit % 8
    file.write_bytes(broken)
    found = [integrity.damage(saved / "2", name) for name in (HASHES, SEAL)]
    assert any(found), (file, bit)
    if trial < len(files):
      step, said = _restored(saved)
      assert step == 1
      assert f"checkpoint {saved / '2'} is damaged, passed over" in said
    file.write_bytes(whole)
  assert _restored(saved) == (2, "")


def _truncate(folder):
  file = max((folder / name for name in integrity.files_of(folder)), key=lambda path: path.stat().st_size)
  file.write_bytes(file.read_bytes()[:-1])


def _delete(folder):
  max((folder / name for name in integrity.files_of(folder)), key=lambda path: path.stat().st_size).unlink()


def _unlist(folder):
  (folder / HASHES).unlink()


def _make_unreadable(folder):
  _unlist(folder)
  (folder / HASHES).mkdir()


@pytest.mark.parametrize("harm", [_truncate, _delete, _unlist, _make_unreadable])
def test_a_writer_sets_a_damaged_step_aside_and_saves_it_again(harm, saved, tmp_path):
  folder = tmp_path / "checkpoints"
  shutil.copytree(saved, folder)
  harm(folder / "2")
  assert _restored(folder, writable=True)[0] == 1
  assert (folder / "2.damaged").exists()
  with Checkpoints(folder, writable=True) as checkpoints:
    checkpoints.save(_state(2), {}, {})
  assert _restored(folder) == (2, "")


def test_a_disk_that_fails_is_damage(saved, monkeypatch):
  file_digest = integrity.hashlib.file_digest

  def failing(stream, name):
    if str(saved / "2") in stream.name:
      raise OSError(5, "Input/output error")
    return file_digest(stream, name)

  monkeypatch.setattr(integrity.hashlib, "file_digest", failing)
  step, said = _restored(saved)
  assert step == 1
  assert "2 is damaged, passed over: a file cannot be read: [Errno 5] Input/output error" in said


@pytest.mark.parametrize("name", [HASHES, SEAL])
def test_hashes_that_cannot_be_written_are_a_save_that_failed(name, tmp_path, monkeypatch):
  write_hashes = integrity.write_hashes

  def full(folder, own, files):
    if own == name and "2" in folder.name:
      raise OSError(28, "No space left on device")
    write_hashes(folder, own, files)

  monkeypatch.setattr(integrity, "write_hashes", full)
  with Checkpoints(tmp_path, writable=True) as checkpoints:
    checkpoints.save(_state(1), {}, {})
    checkpoints.save(_state(2), {}, {})
    good = 1 if name == HASHES else 2
    with pytest.raises(SaveError, match=rf"step 2 .* No space .*; last good checkpoint: step {good} in"):
      checkpoints.wait()


def _watch(checkpoints):
  for _ in range(1000):  # 10 s
    checkpoints.check()
    time.sleep(0.01)


def test_a_save_that_failed_is_noticed_before_the_next_and_costs_no_checkpoint(tmp_path, monkeypatch):
  write_hashes = integrity.write_hashes

  def full(folder, own, files):
    if own == HASHES and folder.name.startswith("2."):
      raise OSError(28, "No space left on device")
    write_hashes(folder, own, files)

  monkeypatch.setattr(integrity, "write_hashes", full)
  with Checkpoints(tmp_path, keep=1, writable=True) as checkpoints:
    checkpoints.save(_state(1), {}, {})
    checkpoints.wait()
    checkpoints.save(_state(2), {}, {})
    with pytest.raises(SaveError, match=r"step 2 .* No space .*; last good checkpoint: step 1 in"):
      _watch(checkpoints)
    assert checkpoints.steps() == [1]


def test_damaged_steps_alone_are_an_error_and_not_a_new_start(saved, tmp_path):
  folder = tmp_path / "checkpoints"
  shutil.copytree(saved, folder)
  _truncate(folder / "1")
  _delete(folder / "2")
  message = r"a checkpoint must be whole; got damaged ones alone in .*\[2, 1\]"
  with (
    pytest.warns(UserWarning, match="damaged"),
    Checkpoints(folder, writable=True) as checkpoints,
    pytest.raises(ValueError, match=message),
  ):
    checkpoints.restore(_state(0))
  assert {path.name for path in folder.iterdir() if path.is_dir()} == {"1", "2"}


def test_a_checkpoint_without_hashes_is_restored_with_a_warning(saved, tmp_path):
  folder = tmp_path / "checkpoints"
  shutil.copytree(saved, folder)
  for name in (HASHES, SEAL):
    (folder / "2" / name).unlink()
  step, said = _restored(folder)
  assert step == 2
  assert "is older than hashes: not verified" in said


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(finished, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  (folder / "summary.json").unlink()
  _truncate(folder / "checkpoints" / "20")
  with pytest.warns(UserWarning, match="20 is damaged, passed over"):
    summary = loop.train(run_case.smoke(), folder)
  assert summary["params_sha256"] == json.loads((finished / "summary.json").read_text())["params_sha256"]
  assert run_case.metrics(folder) == run_case.metrics(finished)


def test_steps_of_a_period_are_kept_beside_the_newest(tmp_path):
  with Checkpoints(tmp_path, keep=1, keep_every=4, writable=True) as checkpoints:
    for step in range(1, 8):
      checkpoints.save(_state(step), {}, {})
    assert checkpoints.steps() == [4, 7]
