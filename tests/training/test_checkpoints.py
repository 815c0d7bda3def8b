"""Checkpoints hold the state bit by bit, survive stray folders, and refuse another network."""

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mfm_jax.training import integrity
from mfm_jax.training.checkpoint import NICENESS, Checkpoints, SaveError
from mfm_jax.training.state import TrainState, create


def _state(step=0, width=64, dtype=jnp.float32) -> TrainState:
  params = {"net": {"kernel": jnp.linspace(0, 1, width * width, dtype=dtype).reshape(width, width)}}
  return create(params, optax.adam(0.1), ("0.9",))._replace(step=jnp.asarray(step, jnp.int32))


def _copy(state):
  return jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)


def _assert_same(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_what_is_restored_is_the_state_at_the_save_though_training_went_on(tmp_path):
  """Saving is asynchronous and the next step overwrites the donated buffers."""

  def moved(state):
    return jax.tree.map(lambda leaf: leaf + 1, state)

  advance = jax.jit(moved, donate_argnums=0)
  state, expected, donated = _state(width=512), {}, []
  with Checkpoints(tmp_path, keep=5) as checkpoints:
    for _ in range(5):
      state = advance(state)
      expected[int(state.step)] = _copy(state)
      checkpoints.save(state, {"next_index": int(state.step)}, {})
      for _ in range(3):
        before, state = state, advance(state)
        donated.append(before.params["net"]["kernel"].is_deleted())
    assert checkpoints.steps() == sorted(expected)
  assert any(donated), "buffers must really be donated (jax copies one that is being read)"
  with Checkpoints(tmp_path) as checkpoints:
    for step, saved in expected.items():
      restored = checkpoints.restore(_state(width=512), step)
      _assert_same(restored.state, saved)
      assert restored.data == {"next_index": step}


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
def test_what_writes_beside_a_step_has_a_lower_priority(tmp_path, monkeypatch):
  write_hashes, found = integrity.write_hashes, []

  def spy(*args):
    found.append(os.getpriority(os.PRIO_PROCESS, 0))
    write_hashes(*args)

  monkeypatch.setattr(integrity, "write_hashes", spy)
  own = os.getpriority(os.PRIO_PROCESS, 0)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(_state(1), {}, {})
  assert found == [min(own + NICENESS, 19), own]  # while it is written; its seal, when that is waited for
  assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_only_the_newest_are_kept_and_the_newest_is_restored(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (3, 6, 9):
      checkpoints.save(_state(step), {"next_index": step}, {"teacher": "x", "window": [{"loss": 0.1}]})
    checkpoints.wait()
    assert checkpoints.steps() == [6, 9]
    restored = checkpoints.restore(_state())
    assert (restored.step, int(restored.state.step)) == (9, 9)
    assert restored.meta == {"teacher": "x", "window": [{"loss": 0.1}]}
    assert checkpoints.restore(_state(), 6).step == 6
    with pytest.raises(ValueError, match=r"step must be one of the checkpoints \[6, 9\] in .*; got 3"):
      checkpoints.restore(_state(), 3)


def test_saves_that_follow_each_other_fast_leave_no_more_than_are_kept(tmp_path):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    for step in range(1, 7):
      checkpoints.save(_state(step), {}, {})
  assert [path.name for path in tmp_path.iterdir()] == ["6"]


def test_what_is_later_is_set_aside_and_saved_again(tmp_path):
  with Checkpoints(tmp_path / "run", writable=True) as run:
    run.save(_state(2), {}, {})
    with Checkpoints(tmp_path / "kept", keep=None, writable=True, beside=run) as kept:
      for step in (1, 2, 3, 4):
        kept.save(_state(step), {}, {})
      kept.forget_after(2)
      assert kept.steps() == [1, 2]
      kept.save(_state(3), {}, {})
      assert kept.steps() == [1, 2, 3]
      assert kept.last_good == f"step 2 in {tmp_path / 'run'}"
  assert sorted(path.name for path in (tmp_path / "kept").glob("*.*")) == ["3.abandoned", "4.abandoned"]


def test_an_empty_folder_has_no_checkpoint(tmp_path):
  with Checkpoints(tmp_path / "new") as checkpoints:
    assert checkpoints.steps() == []
    assert checkpoints.newest() is None
    assert checkpoints.restore(_state()) is None
  assert not (tmp_path / "new").exists(), "a reader changes nothing"


def _leftovers(folder):
  """What interrupted programs and users leave: empty steps, one half copied, one of orbax's own."""
  for name in ("9", "99", "7.orbax-checkpoint-tmp", "notes"):
    (folder / name).mkdir()
  (folder / "98" / "state").mkdir(parents=True)
  (folder / "98" / "state" / "part").write_text("x")


def test_leftovers_are_no_checkpoints_for_a_reader(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(_state(5), {}, {})
  _leftovers(tmp_path)
  names = sorted(path.name for path in tmp_path.iterdir())
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.steps() == [5]
    assert checkpoints.restore(_state()).step == 5
  assert sorted(path.name for path in tmp_path.iterdir()) == names, "a reader changes nothing"


def test_leftovers_hinder_no_later_save_and_displace_no_checkpoint(tmp_path):
  """orbax alone would save nothing at 6 and 9 without a word: step 99 exists."""
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    checkpoints.save(_state(5), {}, {})
  _leftovers(tmp_path)
  for step in (6, 9):
    with Checkpoints(tmp_path, keep=2, writable=True) as checkpoints:
      checkpoints.save(_state(step), {}, {})
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.steps() == [6, 9]
    assert int(checkpoints.restore(_state()).state.step) == 9
  assert (tmp_path / "98.incomplete" / "state" / "part").exists(), "set aside, not lost"


def test_a_step_is_saved_once_and_never_before_a_later_one(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(_state(5), {}, {"first": True})
    checkpoints.wait()
    checkpoints.save(_state(5), {}, {"first": False})
    checkpoints.wait()
    assert checkpoints.restore(_state()).meta == {"first": True}
    with pytest.raises(ValueError, match=r"saved in order; got step 4 after \[5\]"):
      checkpoints.save(_state(4), {}, {})


@pytest.mark.parametrize(
  ("like", "message"),
  [
    ({"width": 32}, r"ema/0.9/net/kernel is \(\(64, 64\), 'float32'\) in the checkpoint and \(\(32, 32\)"),
    ({"dtype": jnp.bfloat16}, r"net/kernel is .*'float32'.* in the checkpoint and .*'bfloat16'\) here"),
  ],
)
def test_arrays_of_another_network_are_refused_by_name(like, message, tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(_state(1), {}, {})
    checkpoints.wait()
    with pytest.raises(ValueError, match=message):
      checkpoints.restore(_state(**like))


def test_a_missing_parameter_is_refused_by_name(tmp_path):
  other = _state()
  other.params["net"]["bias"] = jnp.zeros(3)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(_state(1), {}, {})
    checkpoints.wait()
    with pytest.raises(ValueError, match=r"params/net/bias is None in the checkpoint and \(\(3,\)"):
      checkpoints.restore(other)


def test_what_is_asked_for_is_read_into_the_memory_of_the_host(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(_state(1), {}, {})
    found = checkpoints.restore(jax.eval_shape(_state), only="ema/0.9/").state
  assert isinstance(found.ema["0.9"]["net"]["kernel"], np.ndarray)
  _assert_same(found.ema, _state(1).ema)
  assert set(jax.tree.leaves((found.step, found.params, found.opt_state))) == {...}


def test_an_error_of_the_disk_names_the_last_good_checkpoint(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(_state(1), {}, {})
    checkpoints.wait()
    with pytest.raises(SaveError, match=r"^full; last good checkpoint: step 1 in "), checkpoints.named():
      raise OSError("full")
