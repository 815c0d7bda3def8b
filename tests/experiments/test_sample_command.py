"""python -m experiments.sample: what it writes and what it refuses."""

import numpy as np
import pytest

from mfm_jax.training.run import load_run

NULL = 3  # the mixture has as many components; see `test_the_null_label_is_the_number_of_classes`


def _arrays(done):
  with np.load(done.json["out"]) as file:
    return {name: file[name] for name in file.files}


def _contexts(folder, n=3, **changes):
  arrays = {"x_t": np.zeros((n, 2)), "t": np.linspace(0, 1, n), **changes}
  np.savez(folder / "contexts.npz", **{name: array for name, array in arrays.items() if array is not None})
  return f"--contexts={folder / 'contexts.npz'}"


@pytest.mark.parametrize(
  "how",
  [[], ["--sampler=map", "--steps=3"], ["--sampler=ode", "--steps=4"], ["--sampler=sde", "--steps=20"]],
  ids=lambda how: "-".join(how) or "default",
)
def test_marginal_samples(how, trained, commands, tmp_path):
  out = tmp_path / "samples.npz"
  done = commands("sample", f"--workdir={trained[0]}", "--num=16", f"--out={out}", *how)
  arrays = _arrays(done)
  assert {name: array.shape for name, array in arrays.items()} == {"x1": (16, 2)}
  assert np.isfinite(arrays["x1"]).all()
  assert done.json["out"] == str(out)
  assert done.json["picture"] == str(out.with_suffix(".png"))
  assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
  expected = {"mode": "marginal", "shape": [16, 2], "step": 20, "ema": "0.999"}
  assert {name: done.json[name] for name in expected} == expected


@pytest.mark.parametrize("how", [[], ["--sampler=glass", "--steps=3"]], ids=["map", "glass"])
def test_posterior_draws(how, trained, commands, tmp_path):
  flags = ["--mode=posterior", "--num=5", "--num_contexts=3", "--t=0.25", f"--out={tmp_path / 'x.npz'}"]
  done = commands("sample", f"--workdir={trained[0]}", *flags, *how)
  arrays = _arrays(done)
  shapes = {name: array.shape for name, array in arrays.items()}
  assert shapes == {"x1": (3, 5, 2), "x_t": (3, 2), "t": (3,)}
  np.testing.assert_array_equal(arrays["t"], 0.25)
  assert (done.json["mode"], done.json["shape"]) == ("posterior", [3, 5, 2])
  assert np.isfinite(arrays["x1"]).all()


def test_the_default_place_is_in_the_run_folder_and_the_seed_decides(trained, commands):
  drawn = []
  for seed in (0, 0, 1):
    done = commands("sample", f"--workdir={trained[0]}", "--num=16", f"--seed={seed}")
    assert done.json["out"] == str(trained[0] / "samples" / "marginal.npz")
    drawn.append(_arrays(done)["x1"])
  np.testing.assert_array_equal(drawn[0], drawn[1])
  assert (drawn[0] != drawn[2]).all()


def test_contexts_of_the_user_come_back_with_their_draws(trained, commands, tmp_path):
  x_t = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
  given = _contexts(tmp_path, x_t=x_t)
  out = f"--out={tmp_path / 'draws.npz'}"
  done = commands("sample", f"--workdir={trained[0]}", "--mode=posterior", given, "--num=4", out)
  arrays = _arrays(done)
  np.testing.assert_array_equal(arrays["x_t"], x_t)
  np.testing.assert_array_equal(arrays["t"], [0, 0.5, 1])
  assert arrays["x1"].shape == (3, 4, 2)
  # At t = 1 the context is the answer (MATH 2.2), up to what a network of 20 steps knows; at 0 draws vary.
  assert arrays["x1"][0].std(axis=0).min() > 0


def test_labels_of_contexts_are_used_and_overridden(labelled, commands, tmp_path):
  common = [f"--workdir={labelled}", "--mode=posterior", "--num=4"]
  with_labels = _contexts(tmp_path, label=np.array([0, NULL, 1]))
  out = f"--out={tmp_path / 'draws.npz'}"
  labelled_draws = _arrays(commands("sample", *common, with_labels, out))
  np.testing.assert_array_equal(labelled_draws["label"], [0, NULL, 1])
  one = _arrays(commands("sample", *common, with_labels, "--label=1", "--guidance=2", out))
  np.testing.assert_array_equal(one["label"], [1, 1, 1])
  without = _arrays(commands("sample", *common, _contexts(tmp_path), out))
  assert "label" not in without
  # The null label is the absence of a label; another one is not.
  np.testing.assert_array_equal(without["x1"][1], labelled_draws["x1"][1])
  assert (without["x1"][0] != labelled_draws["x1"][0]).any()


def test_marginal_labels_come_in_turn_or_all_alike(labelled, commands, tmp_path):
  common = ["sample", f"--workdir={labelled}", "--num=5", f"--out={tmp_path / 'x.npz'}"]
  classes = load_run(labelled).info.num_classes
  np.testing.assert_array_equal(_arrays(commands(*common))["label"], np.arange(5) % classes)
  np.testing.assert_array_equal(_arrays(commands(*common, "--label=1"))["label"], np.ones(5))


def test_the_null_label_is_the_number_of_classes(labelled):
  assert load_run(labelled).info.num_classes == NULL


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--out=x.png"], "--out must end in .npz; got x.png"),
    (["--mode=posterior", "--t=1.5"], "t must lie in [0.0, 1.0]; got 1.5"),
    (["--mode=posterior", "--t=-0.1"], "t must lie in [0.0, 1.0]; got -0.1"),
    (["--mode=posterior", "--t=nan"], "t must lie in [0.0, 1.0]; got nan"),
    (["--mode=posterior", "--num_contexts=0"], "flag --num_contexts=0"),
    (["--mode=posterior", "--num_contexts=99999"], "held-out examples must be at least 99999; got 256"),
    (["--mode=posterior", "--sampler=ode"], "sampler must be one of map, glass; got 'ode'"),
    (["--sampler=glass"], "sampler must be one of map, ode, sde; got 'glass'"),
    (["--sampler=euler"], "flag --sampler=euler"),
    (["--num=0"], "num must be at least 1; got 0"),
    (["--steps=-1"], "steps must be at least 1; got -1"),
    (["--ema=0.9"], "ema must be one of 0.5, 0.999, raw; got '0.9'"),
    (["--label=1"], "label must be absent for a run without labels; got 1"),
    (["--label=-2"], "flag --label=-2"),
    (["--guidance=2"], "guidance must be a scale the run was trained with (1.0); got 2.0"),
    (["--out=/dev/null/x.npz"], "/dev/null"),
  ],
  ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_mistakes(flags, message, trained, commands):
  assert message in commands("sample", f"--workdir={trained[0]}", *flags).mistake


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--label=4"], "label must lie in [0, 3]; got 4"),
    (["--guidance=1.5"], "guidance must be a scale the run was trained with (1.0, 2.0); got 1.5"),
  ],
)
def test_labels_and_scales_that_were_not_trained(flags, message, labelled, commands):
  for mode in ("marginal", "posterior"):
    done = commands("sample", f"--workdir={labelled}", f"--mode={mode}", *flags)
    assert message in done.mistake


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"x_t": np.zeros((3, 5))}, "x_t of contexts must have shape (any, 2); got (3, 5)"),
    ({"t": np.zeros(2)}, "t of contexts must have shape (3,); got (2,)"),
    ({"t": np.full(3, 1.5)}, "t of contexts must lie in [0.0, 1.0]; got 1.5"),
    ({"x_t": np.full((3, 2), np.nan)}, "x_t of contexts must lie in"),
    ({"x_t": np.full((3, 2), "a")}, "x_t of contexts must be real numbers; got <U1"),
    ({"t": None}, "contexts must hold x_t and t; got ['x_t']"),
    ({"x_t": None}, "contexts must hold x_t and t; got ['t']"),
    ({"label": np.zeros(3, int)}, "label must be absent for a run without labels"),
    ({"label": np.zeros(3)}, "label of contexts must be integers; got float64"),
    ({"labels": np.zeros(3, int)}, "contexts may hold x_t, t and label alone; got ['labels']"),
    ({"x_t": np.zeros((0, 2)), "t": np.zeros(0)}, "number of contexts must be at least 1; got 0"),
    ({"t": np.array([None] * 3)}, "contexts must be a readable .npz file"),
  ],
  ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_contexts_that_a_run_cannot_take(changes, message, trained, commands, tmp_path):
  given = _contexts(tmp_path, **changes)
  assert message in commands("sample", f"--workdir={trained[0]}", "--mode=posterior", given).mistake


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut", "array", None])
def test_contexts_that_are_no_npz(content, trained, commands, tmp_path):
  file = tmp_path / "contexts.npz"
  if content == "array":
    with file.open("wb") as stream:
      np.save(stream, np.zeros(3))
  elif content is not None:
    file.write_bytes(content)
  done = commands("sample", f"--workdir={trained[0]}", "--mode=posterior", f"--contexts={file}")
  assert f"contexts must be a readable .npz file; got {file}" in done.mistake


def test_a_missing_run_folder(commands, tmp_path):
  for name in ("sample", "evaluate"):
    done = commands(name, f"--workdir={tmp_path / 'nowhere'}")
    assert done.mistake.endswith("nowhere: no such folder")
    assert "workdir must be a run folder" in commands(name).mistake
