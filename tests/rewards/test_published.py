"""Preference rewards from files: missing ones are named with their source; all rewards by random weights."""

import importlib.util

import jax
import numpy as np
import preference_case as case
import pytest

from mfm_jax.rewards import published
from mfm_jax.rewards.published import PreferenceConfig
from mfm_jax.training.steer_config import RewardConfig, SteerConfig

X = np.random.default_rng(0).uniform(size=(2, 24, 20, 3)).astype(np.float32)
LABEL = {"label": np.array([1, 0])}
needs_tokenizers = pytest.mark.skipif(
  importlib.util.find_spec("tokenizers") is None, reason="needs the library `tokenizers`, the extra `rewards`"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """A folder of all weights, tiny, with tokenizers and class names."""
  folder = tmp_path_factory.mktemp("weights")
  for name in ("open_clip", "transformers", "imagereward", "head"):
    case.write(folder, name)
  case.write_bert_vocabulary(folder)
  case.write_clip_vocabulary(folder)
  (folder / "names.txt").write_text("shark\ndog\n")
  return folder


def config(folder, weights, **more):
  more = {"class_names": str(folder / "names.txt"), **more}
  return PreferenceConfig(weights=str(folder / f"{weights}.safetensors"), architecture="tiny", **more)


def test_the_aesthetic_predictor(files):
  """It needs no prompt, so no tokenizer."""
  own = config(files, "transformers", head=str(files / "head.safetensors"), class_names="")
  reward = SteerConfig(reward=RewardConfig(name="aesthetic", weight=2.0, preference=own)).build_reward()
  np.testing.assert_allclose(reward(X), 2 * own.build("aesthetic")(X), rtol=1e-6)
  assert np.isfinite(reward(X)).all()


@needs_tokenizers
@pytest.mark.parametrize(
  ("name", "weights"),
  [
    ("clip", "open_clip"),
    ("pickscore", "transformers"),
    ("hpsv2", "open_clip"),
    ("imagereward", "imagereward"),
  ],
)
def test_a_reward_by_class(files, name, weights):
  own = config(files, weights, null_prompt="A photo.")
  reward = RewardConfig(name=name, preference=own).build()
  assert [len(row) for row in reward.rows] == [3] * len(reward.rows)
  values = np.asarray(reward(X, LABEL))
  assert np.isfinite(values).all()
  assert np.isfinite(reward(X, {"label": np.array([2, 2])})).all()  # the null label
  one = config(files, weights, prompt="A high-quality, high-resolution photograph of a dog.", class_names="")
  np.testing.assert_allclose(one.build(name)(X)[0], values[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["hpsv2", "imagereward", "aesthetic"])
def test_random_weights_stand_for_files(name, tmp_path):
  """Without weights, tokenizer and the library that reads it; a prompt for each class all the same."""
  (tmp_path / "names.txt").write_text("shark\ndog\n")
  own = PreferenceConfig(weights="random", architecture="tiny", class_names=str(tmp_path / "names.txt"))
  if name == "aesthetic":
    own = PreferenceConfig(weights="random", head="random", architecture="tiny")
  reward = own.build(name)
  values = np.asarray(reward(X, LABEL))
  assert np.isfinite(values).all()
  if name != "aesthetic":
    assert abs(reward(X, {"label": np.array([0, 0])})[0] - values[0]) > 1e-6  # another prompt
  np.testing.assert_array_equal(own.build(name)(X, LABEL), values)
  assert own.identity == PreferenceConfig(**vars(own)).identity


@needs_tokenizers
def test_both_layouts_of_clip_give_one_reward(files):
  values = [config(files, weights).build("hpsv2")(X, LABEL) for weights in ("open_clip", "transformers")]
  np.testing.assert_allclose(*values, rtol=1e-5)


@needs_tokenizers
def test_a_pt_of_a_training_program(files, tmp_path):
  torch = pytest.importorskip("torch", reason="needs PyTorch, the extra `torch`")
  state = {name: torch.from_numpy(value) for name, value in case.state_of("open_clip").items()}
  path = tmp_path / "HPS_v2.1_compressed.pt"
  torch.save({"epoch": 3, "name": "hps", "optimizer": {"state": {"0": state}}, "state_dict": state}, path)
  own = PreferenceConfig(
    weights=str(path), tokenizer=str(files), architecture="tiny", class_names=str(files / "names.txt")
  )
  np.testing.assert_array_equal(
    own.build("hpsv2")(X, LABEL), config(files, "open_clip").build("hpsv2")(X, LABEL)
  )


@pytest.mark.parametrize("name", published.NAMES)
@pytest.mark.parametrize(("path", "got"), [("", "''"), ("no.pt", "no.pt: no such file")])
def test_missing_weights_name_their_source(name, path, got):
  with pytest.raises(ValueError, match=rf"weights must name .* of https://hugg.*, for {name}; got {got}"):
    PreferenceConfig(weights=path).check(name)


@pytest.mark.parametrize(
  ("name", "changes", "message"),
  [
    ("clip", {"weights": ""}, r"weights must name model.safetensors of .*, for clip; got ''"),
    (
      "aesthetic",
      {},
      r"head must be given for aesthetic \(sac\+logos\+ava1-l14-linearMSE.pth of https://github",
    ),
    ("aesthetic", {"head": "no.pth"}, r"head must name sac\+logos.*; got no.pth: no such file"),
    ("clip", {"head": "no.pth"}, "and for no other; got 'no.pth' for clip"),
    ("clip", {"class_names": ""}, r"class_names must be given with \{\} in reward.preference.prompt"),
    ("clip", {"prompt": "A dog."}, "class_names must be given with .*names.txt' with 'A dog.'"),
    ("clip", {"prompt": "A", "class_names": "", "null_prompt": "B"}, "null_prompt must be '' .* got 'B'"),
    ("clip", {"class_names": "no.json"}, "imagenet_class_index.json for ImageNet.*got no.json"),
    ("clip", {"architecture": "ViT-G"}, "architecture for clip must be one of ViT-B-32, .*; got 'ViT-G'"),
    ("imagereward", {"architecture": "ViT-H-14"}, "for imagereward must be one of ImageReward, tiny; got"),
    (
      "clip",
      {"tokenizer": "no"},
      r"tokenizer must name tokenizer.json of https://huggingface.co/openai/clip",
    ),
    (
      "imagereward",
      {"tokenizer": "no"},
      "must name vocab.txt of https://huggingface.co/google-bert/bert-base",
    ),
    ("quality", {}, "reward.name must be one of clip, pickscore"),
  ],
)
def test_what_is_refused_before_weights_are_read(files, name, changes, message):
  changes = {"weights": str(files / "open_clip.safetensors"), "tokenizer": str(files), **changes}
  with pytest.raises(ValueError, match=message):
    PreferenceConfig(**{"class_names": str(files / "names.txt"), "architecture": "tiny", **changes}).check(
      name
    )


def test_weights_of_another_network(files):
  own = config(files, "transformers", head=str(files / "head.safetensors"), class_names="")
  for changes, message in (
    (
      {"weights": own.head},
      r"weights=.*head.safetensors does not fit the network: weights of CLIP must hold",
    ),
    ({"head": own.weights}, r"head=.* does not fit the network: weights must hold layers.0.weight; got none"),
    ({"architecture": "ViT-B-32"}, r"does not fit .*class_embedding must have shape \(768,\); got \(32,\)"),
    ({"weights": str(files / "names.txt")}, r"reward.preference.weights must end in .safetensors"),
  ):
    with pytest.raises(ValueError, match=message):
      PreferenceConfig(**{**vars(own), **changes}).build("aesthetic")


def test_settings_of_rewards():
  with pytest.raises(
    ValueError, match=r"reward\.preference must be left alone for a reward.name not of clip"
  ):
    RewardConfig(name="quadratic", preference=PreferenceConfig(weights="x"))
  with pytest.raises(
    ValueError, match=r"reward\.preference\.precision must be one of float32, tensorfloat32"
  ):
    PreferenceConfig(precision="float16")


def test_all_files_are_checked_before_one_is_read(files, monkeypatch):
  own = config(files, "transformers", head=str(files / "head.safetensors"), class_names="")
  monkeypatch.setattr(jax, "eval_shape", lambda *args: pytest.fail("weights were read"))
  rewards = [RewardConfig(name="aesthetic", preference=own), RewardConfig(name="pickscore")]
  with pytest.raises(ValueError, match="yuvalkirstain/PickScore_v1, for pickscore; got ''"):
    SteerConfig(reward=rewards[0], more_rewards=(rewards[1],)).build_reward()


def test_the_identity_is_that_of_the_files(files):
  own = config(files, "transformers", head=str(files / "head.safetensors"), class_names="")
  other = config(files, "open_clip", head=own.head, class_names="")
  made = [SteerConfig(reward=RewardConfig(name="aesthetic", preference=p)).classifiers for p in (own, other)]
  assert len(made[0]) == 64
  assert made[0] != made[1]
