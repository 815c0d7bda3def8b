"""Preference rewards: which prompt is used, how often it is embedded, precision, transformations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import preference_case as case
import pytest

from mfm_jax.models import blip, clip
from mfm_jax.rewards import composition, preference

NET = clip.build(clip.PRESETS["tiny"])
PARAMS = case.noisy(NET.init)
IDS = np.zeros((3, 77), np.int32)
IDS[:, :3] = [[49406, 320, 49407], [49406, 1929, 49407], [49406, 77, 49407]]
X = np.random.default_rng(0).uniform(size=(2, 20, 24, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def pickscore():
  return preference.pickscore(NET, PARAMS, IDS)


def test_a_similarity_is_its_formula(pickscore):
  pixels = pickscore.preprocess(X)
  image, text = jax.jit(NET.image)(PARAMS["image"], pixels), jax.jit(NET.text)(PARAMS["text"], IDS[:2])
  cosine = (image * text).sum(1) / jnp.linalg.norm(image, axis=1) / jnp.linalg.norm(text, axis=1)
  label = {"label": jnp.array([0, 1])}
  np.testing.assert_allclose(pickscore(X, label), np.exp(PARAMS["log_scale"]) * cosine, rtol=1e-4)
  hundred = dataclasses.replace(pickscore, params={**pickscore.params, "scale": jnp.float32(100)})
  np.testing.assert_allclose(hundred(X, label), 100 * cosine, rtol=1e-4)
  assert pickscore(X, label).dtype == jnp.float32


def test_the_table_is_computed_once(pickscore):
  calls = []

  def text(params, ids):
    jax.debug.callback(lambda: calls.append(1))
    return NET.text(params, ids)

  reward = preference.clip_score(dataclasses.replace(NET, text=text), PARAMS, IDS)
  jax.effects_barrier()
  assert 1 <= len(calls) <= len(IDS)
  before = len(calls)
  for i in range(3):
    reward(X, {"label": np.array([i, 0])})
  jax.effects_barrier()
  assert len(calls) == before
  assert jax.tree.leaves(reward.params["image"])
  assert "text" not in reward.params  # the text tower is not kept


def test_labels_select_and_one_prompt_is_for_all(pickscore):
  """A row is the reward of its class, and cond is ignored where there is one row."""
  by_label = pickscore(X, {"label": np.array([2, 0])})
  for i, row in enumerate((2, 0)):
    single = dataclasses.replace(pickscore, rows=(pickscore.rows[0][row : row + 1],))
    np.testing.assert_allclose(single(X, {"label": np.array([9, 9])})[i], by_label[i], rtol=1e-5)
  with pytest.raises(ValueError, match=r'cond\["label"\] must be given: the reward has 3 prompts'):
    pickscore(X)
  with pytest.raises(ValueError, match=r"which selects a prompt, must lie in \[0, 2\]; got 3"):
    pickscore(X, {"label": np.array([0, 3])})
  with pytest.raises(ValueError, match=r'cond\["label"\] must have shape \(2,\); got \(3,\)'):
    pickscore(X, {"label": np.array([0, 1, 2])})


def test_a_label_without_a_prompt_is_nan_in_a_compiled_program(pickscore):
  compiled = jax.jit(pickscore)(X, {"label": jnp.array([1, 3])})
  assert np.isfinite(compiled[0])
  assert np.isnan(compiled[1])
  assert np.isnan(jax.jit(pickscore)(X, {"label": jnp.array([1, -1])})[1])


def test_gradients_under_jit_scan_and_checkpoint(pickscore):
  """The reward is a pytree: its network is an argument of a compiled program."""
  label = {"label": jnp.array([0, 1])}

  @jax.jit
  def steps(reward, x):
    def body(x, _):
      gradient = jax.grad(lambda x: jax.checkpoint(reward)(x, label).sum())(x)
      return x + 0.1 * gradient, None

    return jax.lax.scan(body, x, None, length=2)[0]

  x, expected = steps(pickscore, X), X
  gradient = jax.jit(jax.grad(lambda x: pickscore(x, label).sum()))
  for _ in range(2):
    expected = expected + 0.1 * gradient(expected)
  np.testing.assert_allclose(x, expected, rtol=1e-3, atol=1e-5)
  assert np.abs(gradient(X)).max() > 0


def test_it_composes(pickscore):
  label = {"label": jnp.array([0, 1])}
  total = composition.weighted_sum([pickscore, pickscore], [2.0, -0.5])
  np.testing.assert_allclose(total(X, label), 1.5 * pickscore(X, label), rtol=1e-5)
  assert composition.is_differentiable(total)


def test_imagereward_selects_ids_and_masks():
  net = blip.build(blip.PRESETS["tiny"])
  params = case.noisy(net.init)
  ids = np.random.default_rng(0).integers(1, 30000, (3, blip.TOKENS)).astype(np.int32)
  mask = (np.arange(blip.TOKENS) < np.array([[4], [20], [35]])).astype(np.int32)
  reward = preference.imagereward(net, params, ids, mask)
  rows = np.array([2, 0])
  score, compiled = jax.jit(net.score), jax.jit(lambda label: reward(X, {"label": label}))
  expected = score(params, reward.preprocess(X), ids[rows], mask[rows])
  np.testing.assert_allclose(compiled(rows), expected, rtol=1e-5)
  other = np.where(mask == 0, 5, ids)  # what is padded is not seen
  padded = score(params, reward.preprocess(X), other[rows], mask[rows])
  np.testing.assert_allclose(padded, expected, rtol=1e-5)
  assert np.isnan(compiled(np.array([0, 3]))[1])


@pytest.mark.parametrize(
  ("ids", "message"),
  [
    (np.zeros((0, 77), np.int32), "number of prompts must be at least 1; got 0"),
    (np.full((1, 77), 50000, np.int32), "ids must be below the network's vocabulary of 49408; got 50000"),
  ],
)
def test_bad_prompts(ids, message):
  with pytest.raises(ValueError, match=message):
    preference.hpsv2(NET, PARAMS, ids)


@pytest.mark.parametrize(
  ("kind", "changes", "message"),
  [
    (clip.ClipConfig, {"activation": "relu"}, "activation must be one of gelu, quick_gelu; got 'relu'"),
    (clip.ClipConfig, {"patch": 5}, "patch must divide image_size; got patch=5, image_size=32"),
    (clip.ClipConfig, {"text_heads": 5}, "text_heads must divide text_width; got text_heads=5"),
    (clip.ClipConfig, {"image_depth": 0}, "image_depth must be at least 1; got 0"),
    (blip.BlipConfig, {"image_heads": 5}, "image_heads must divide image_width; got image_heads=5"),
    (blip.BlipConfig, {"text_depth": 0}, "text_depth must be at least 1; got 0"),
  ],
)
def test_bad_sizes(kind, changes, message):
  tiny = {clip.ClipConfig: clip, blip.BlipConfig: blip}[kind].PRESETS["tiny"]
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(tiny, **changes)


def test_networks_refuse_other_sizes():
  with pytest.raises(ValueError, match=r"pixels must have shape \(any, 32, 32, 3\); got \(1, 16, 16, 3\)"):
    NET.image(PARAMS["image"], np.zeros((1, 16, 16, 3)))
  with pytest.raises(ValueError, match=r"ids must have shape \(any, 77\); got \(1, 35\)"):
    NET.text(PARAMS["text"], np.zeros((1, 35), np.int32))
