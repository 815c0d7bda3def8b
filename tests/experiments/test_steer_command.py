"""python -m experiments.steer and experiments.classifier: what they write and what they refuse."""

import json

import numpy as np
import pytest
import run_case

CONFIGS = run_case.ROOT / "experiments" / "configs"
GMM = f"--config={CONFIGS / 'steer_gmm.py'}:smoke"
ALL = ("base", "best_of_n", "dps", "mfm_gf", "mfm_g", "hybrid", "smc", "search")
CLASSES = ["--config.reward.name=classes", "--config.reward.classes=(0.2,0.0,0.8)"]


def _arrays(path):
  with np.load(path) as file:
    return {name: file[name] for name in file.files}


def test_all_methods_leave_a_table_files_and_pictures(trained, commands):
  done = commands("steer", GMM, f"--workdir={trained[0]}", "--config.dps.renormalise=clip")
  folder = trained[0] / "steer"
  assert done.json == json.loads((folder / "steer.json").read_text())
  assert [row["method"] for row in done.json["methods"]] == list(ALL)
  assert done.json["out"] == [str(folder / f"{method}.npz") for method in ALL]
  for method in ALL:
    arrays = _arrays(folder / f"{method}.npz")
    shapes = {"x1": (32, 2), "reward": (32,)}
    if method not in ("best_of_n", "smc", "search"):
      times = len(arrays["path_t"])
      shapes |= {"path_t": (times,), "path_x": (times, 3, 2), "path_value": (times, 32)}
    assert {name: array.shape for name, array in arrays.items()} == shapes
    if "path_t" in arrays:
      np.testing.assert_array_equal(arrays["path_x"][-1], arrays["x1"][:3])
      assert (arrays["path_t"][0], arrays["path_t"][-1]) == (np.float32(1e-3), 1.0)
    assert (folder / f"{method}.png").read_bytes().startswith(b"\x89PNG")
  for word in ("sde, 8 steps, 2 x 32 samples", "mfm_gf, N = 4", "mfm_g, N = 2", "best_of_n, N = 8", "nfe"):
    assert word in done.out
  # At equal cost or below, but for the last reward of SMC.
  nfe = {row["method"]: row["nfe"] - (row["method"] == "smc") for row in done.json["methods"]}
  assert max(nfe.values()) == nfe["mfm_gf"]


def test_one_method_a_number_and_a_seed(trained, commands, tmp_path):
  drawn = []
  for seed in (3, 3, 4):
    out = tmp_path / f"{len(drawn)}.npz"
    flags = ["--method=mfm_gf", "--num=6", f"--seed={seed}", f"--out={out}", "--config.seeds=1"]
    done = commands("steer", GMM, f"--workdir={trained[0]}", *flags)
    assert done.json["out"] == [str(out)]
    config = done.json["config"]
    assert (config["num"], config["seeds"], config["methods"]) == (6, 1, ["mfm_gf"])
    assert json.loads(out.with_suffix(".json").read_text()) == done.json
    drawn.append(_arrays(out)["x1"])
  assert drawn[0].shape == (6, 2)
  np.testing.assert_array_equal(drawn[0], drawn[1])
  assert (drawn[0] != drawn[2]).all()


def test_several_methods_and_one_name(trained, commands, tmp_path):
  flags = ["--method=base,mfm_gf", f"--out={tmp_path / 'x.npz'}"]
  done = commands("steer", GMM, f"--workdir={trained[0]}", *flags)
  assert done.json["out"] == [str(tmp_path / f"x_{method}.npz") for method in ("base", "mfm_gf")]
  assert {path.name for path in tmp_path.glob("*.npz")} == {"x_base.npz", "x_mfm_gf.npz"}


def test_closed_forms_need_no_run(commands, tmp_path):
  flags = ["--config.teacher=oracle", "--method=mfm_gf", f"--workdir={tmp_path / 'oracle'}"]
  done = commands("steer", GMM, *flags, "--config.interpolant=trigonometric", "--config.sampler=ode")
  assert done.json["step"] is None
  assert done.json["config"]["sampler"] == "ode"
  assert json.loads((tmp_path / "oracle" / "steer" / "mfm_gf.json").read_text()) == done.json
  assert (tmp_path / "oracle" / "steer" / "mfm_gf.npz").exists()


def test_a_trained_classifier_steers_to_its_classes(labelled, classifier, commands, tmp_path):
  """The mixture's components are the classes; 20 parts of the first, 80 of the third, none of the second."""
  flags = [*CLASSES, f"--config.reward.classifier={classifier[0]}", f"--out={tmp_path / 'x.npz'}"]
  more = ["--method=mfm_gf", "--config.steps=50", "--num=200", "--config.mfm_gf.draws=16", "--config.seeds=1"]
  oracle = ["--config.teacher=oracle", f"--workdir={tmp_path / 'oracle'}"]
  done = commands("steer", GMM, *oracle, *flags, *more)
  assert done.json["objective"] == "reward"
  nearest = np.abs(
    _arrays(tmp_path / "x.npz")["x1"].mean(1, keepdims=True) - np.array([-3.0, 0.0, 3.0])
  ).argmin(1)
  share = np.bincount(nearest, minlength=3) / 200
  np.testing.assert_allclose(share, [0.2, 0.0, 0.8], atol=0.12)
  # A run with labels takes the same reward, within a class as well.
  done = commands("steer", GMM, f"--workdir={labelled}", *flags, "--method=dps", "--label=1", "--guidance=2")
  np.testing.assert_array_equal(_arrays(tmp_path / "x.npz")["label"], 1)
  assert done.json["objective"] == "reward"


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      ["--method=gf"],
      "method must be one of base, best_of_n, dps, mfm_gf, mfm_g, hybrid, smc, search; got 'gf'",
    ),
    (["--num=33"], "num must be a multiple of smc.particles; got num=33, smc.particles=32"),
    (["--config.smc.threshold=2.0"], "smc.threshold must lie in [0.0, 1.0]; got 2.0"),
    (["--config.search.particles=0"], "search.particles must be at least 1; got 0"),
    (["--config.glass_steps=5"], "glass_steps must be 0 for a map"),
    (["--config.reward.name=python"], "reward.function must be given with reward.name=python"),
    (["--config.mfm_gf.draws=1"], "mfm_gf.draws must be at least 2; got 1"),
    (["--config.mfm_g.draws=-1"], "draws must be at least 0; got -1"),
    (["--config.steps=0"], "steps must be at least 1; got 0"),
    (["--config.start=0"], "start must lie in (0, 1); got 0.0"),
    (["--config.start=1"], "start must lie in (0, 1); got 1.0"),
    (["--config.sampler=heun"], "sampler must be one of ode, sde; got 'heun'"),
    (["--config.stepz=5"], "unknown config key config.stepz (did you mean steps?)"),
    (["--config.mfm_gf.drawz=5"], "unknown config key config.mfm_gf.drawz (did you mean draws?)"),
    (["--num=-1"], "flag --num=-1"),
    (["--out=x.png"], "--out must end in .npz; got x.png"),
    (["--label=1"], "label must be absent for a run without labels; got"),
    (["--guidance=2"], "guidance must be a scale the run was trained with (1.0); got 2.0"),
    (["--ema=0.9"], "ema must be one of 0.5, 0.999, raw; got '0.9'"),
    (
      ["--config.reward.name=quadratic", "--config.reward.centre=(1.0,2.0,3.0)"],
      "x, flattened, must have shape",
    ),
    (CLASSES, "reward.classifier must name a trained classifier for reward.name=classes"),
    (
      [*CLASSES, "--config.reward.classifier=nowhere"],
      "reward.classifier must be a folder of experiments.class",
    ),
    (["--config.reward.observed=(2.0,)"], "reward.matrix and reward.observed must be given together"),
    (["--config.teacher=oracle", "--label=1"], "must be absent with teacher=oracle"),
    (["--out=/dev/null/x.npz"], "/dev/null"),
    (["--config.reward.sigma=0"], "sigma must be a positive number; got 0.0"),
    (["--config.reward.sigma=1e-15", "--method=dps"], "at most 1% of the rewards may be NaN or infinite"),
  ],
  ids=lambda value: "-".join(value)[-40:] if isinstance(value, list) else "",
)
def test_mistakes(flags, message, trained, commands):
  assert message in commands("steer", GMM, f"--workdir={trained[0]}", *flags).mistake


def test_missing_folders_and_classes_that_do_not_fit(trained, classifier, commands, tmp_path):
  assert "--workdir must name a run folder; got none" in commands("steer", GMM).mistake
  assert "no such folder" in commands("steer", GMM, f"--workdir={tmp_path / 'nowhere'}").mistake
  flags = ["--config.reward.name=classes", f"--config.reward.classifier={classifier[0]}"]
  done = commands("steer", GMM, f"--workdir={trained[0]}", *flags, "--config.reward.classes=(0.5,0.5)")
  assert "reward.classes must have shape (3,); got (2,)" in done.mistake
  done = commands("steer", GMM, f"--workdir={classifier[0]}")
  assert "must be the folder of a run; got that of a classifier" in done.mistake


@pytest.mark.slow
def test_a_run_without_posterior_ability_is_refused_before_anything_is_written(commands, tmp_path):
  flow = tmp_path / "flow"
  assert commands("train", *run_case.FLAGS, "--config.loss.consistency=none", f"--workdir={flow}").status == 0
  done = commands("steer", GMM, f"--workdir={flow}")
  assert "methods mfm_gf and mfm_g and hybrid and smc and search need posterior draws" in done.mistake
  assert not (flow / "steer").exists()
  assert commands("steer", GMM, f"--workdir={flow}", "--method=base,best_of_n").status == 0
  glass = commands("steer", GMM, f"--workdir={flow}", "--method=mfm_gf", "--config.glass_steps=2")
  assert glass.json["methods"][0]["forwards"] == 8 + 8 * 4 * 4


def test_a_python_function_is_a_reward(trained, commands, tmp_path):
  """It is found in the folder that the command is started in; methods with gradients are refused."""
  reward = ["--config.reward.name=python", "--config.reward.function=steer_case:black_box"]
  flags = [GMM, f"--workdir={trained[0]}", *reward, f"--out={tmp_path / 'x.npz'}"]
  done = commands("steer", *flags, "--method=mfm_gf,search,best_of_n,smc")
  assert done.json["objective"] == "reward"
  refused = commands("steer", *flags, "--method=dps,mfm_gf").mistake
  assert "methods dps differentiate the reward; got one without gradient" in refused
  broken = commands("steer", *flags, "--config.reward.function=steer_case:broken", "--method=mfm_gf").mistake
  assert "reward 'steer_case:broken' must not raise; got RuntimeError: no such luck" in broken


def test_mistakes_of_the_classifier(commands, tmp_path):
  config = f"--config={CONFIGS / 'classifier_digits.py'}:smoke"
  assert "--workdir must name a folder; got none" in commands("classifier", config).mistake
  unlabelled = ["--config.data.name=mixture", "--config.data.labelled=False", f"--workdir={tmp_path / 'run'}"]
  assert "a classifier needs labelled data" in commands("classifier", config, *unlabelled).mistake
  assert not (tmp_path / "run").exists()
