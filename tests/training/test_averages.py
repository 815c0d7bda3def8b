"""Power averages have the weights that they are named for, and make up those of other lengths."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_case

from mfm_jax.training import averages, loop, posthoc
from mfm_jax.training.run import load_run
from mfm_jax.training.state import TrainState


def weights_of(length, steps):
  """The weights of the parameters after step 1, ..., steps in a power average, each followed by itself."""

  def advance(average, step):
    params = {"w": jax.nn.one_hot(step, steps)}
    average = averages.update(average, params, f"power:{length}", step)
    return average, average["w"]

  _, found = jax.lax.scan(advance, {"w": jnp.full(steps, 1e6)}, jnp.arange(steps))
  return np.asarray(found, np.float64)


@pytest.mark.parametrize("length", [0.05, 0.1, 0.25])
def test_a_power_average_is_as_long_as_its_name_says(length):
  weights = weights_of(length, 400)[-1]
  assert weights.sum() == pytest.approx(1, abs=1e-4), "it has forgotten where it started"
  time = np.arange(1, 401)
  mean = weights @ time
  assert np.sqrt(weights @ (time - mean) ** 2) / 400 == pytest.approx(length, rel=0.02)


def test_an_average_that_was_kept_is_itself_in_a_long_run():
  kept = [2**21 * i // 400 for i in range(1, 401)]
  pairs = [(step, own) for step in kept for own in (0.05, 0.1)]
  found, error = averages.combination(*zip(*pairs, strict=True), at=kept[-1], length=0.05)
  assert error < 1e-6
  np.testing.assert_allclose(found, np.eye(len(pairs))[-2], atol=1e-5)


@pytest.mark.parametrize("length", [0.05, 0.07, 0.15, 0.2])
def test_two_lengths_make_up_another_one(length):
  kept = list(range(25, 401, 25))
  pairs = [(step, own) for step in kept for own in (0.05, 0.1)]
  found, error = averages.combination(*zip(*pairs, strict=True), at=400, length=length)
  assert found.sum() == pytest.approx(1)
  assert error < 0.03
  own = {length: weights_of(length, 400) for length in (0.05, 0.1)}
  ours = sum(w * own[own_length][step - 1] for w, (step, own_length) in zip(found, pairs, strict=True))
  theirs = weights_of(length, 400)[-1]
  assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 0.03


def test_what_cannot_be_made_up_has_a_large_error():
  _, error = averages.combination([400], [0.1], at=400, length=0.02)
  assert error > 0.3


@pytest.mark.parametrize("name", ["power:0", "power:0.5", "power:x"])
def test_lengths_out_of_range_are_refused(name):
  with pytest.raises(ValueError, match=r"length of an average must lie in|must be power:<length>"):
    averages.power_length(name)


@pytest.mark.slow
def test_a_run_gives_any_average_after_training(tmp_path):
  changes = {"ema_every": 4, "checkpoint_every": 8}
  loop.train(run_case.smoke({**changes, "ema_lengths": (0.05, 0.1)}), tmp_path / "kept")
  loop.train(run_case.smoke({**changes, "ema_lengths": (0.08,)}), tmp_path / "direct")
  ours = load_run(tmp_path / "kept", ema="power:0.08")
  theirs = load_run(tmp_path / "direct", ema="power:0.08")
  assert (ours.step, ours.ema) == (theirs.step, theirs.ema) == (20, "power:0.08")
  raw = load_run(tmp_path / "kept", ema="raw")

  def distance(a, b):
    return float(sum(np.sum((x - y) ** 2) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))) ** 0.5

  assert distance(ours.params, theirs.params) < 0.05 * distance(raw.params, theirs.params)

  # Killed when the checkpoint of step 16 was there and its averages not yet: the same averages are kept.
  for name in ("checkpoints/20", "averages/16", "averages/20"):
    shutil.rmtree(tmp_path / "kept" / name)
  (tmp_path / "kept" / "summary.json").unlink()
  loop.train(run_case.smoke({**changes, "ema_lengths": (0.05, 0.1)}), tmp_path / "kept")
  assert load_run(tmp_path / "kept", ema="power:0.08").sha256 == ours.sha256
  kept = sorted(int(path.name) for path in (tmp_path / "kept" / "averages").iterdir())
  assert kept == [4, 8, 12, 16, 20]

  with pytest.raises(ValueError, match=r"must be near those kept \(\[0.05, 0.1\], every 4 steps\)"):
    load_run(tmp_path / "kept", ema="power:0.001")


def test_a_run_that_kept_none_gives_none(finished, tmp_path):
  with pytest.raises(ValueError, match="a power average needs a run with ema_lengths and ema_every"):
    load_run(finished, ema="power:0.1")
  (tmp_path / posthoc.FOLDER).mkdir()
  like = TrainState(step=jnp.int32(0), params={}, opt_state=(), ema={"power:0.1": {}})
  with pytest.raises(ValueError, match="which kept none yet"):
    posthoc.put_together(tmp_path, like, 0.1)
  assert "ema_lengths" in json.loads((finished / "config.json").read_text())["config"]


def test_lengths_and_their_interval_go_together():
  with pytest.raises(ValueError, match="ema_lengths and ema_every must be set together"):
    run_case.smoke({"ema_lengths": (0.1,)})
