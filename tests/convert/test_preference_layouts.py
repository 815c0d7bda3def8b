"""Published state dicts of preference models: both ways, and what is refused."""

import jax
import numpy as np
import preference_case as case
import pytest

from mfm_jax.convert import preference as layouts
from mfm_jax.models import blip, clip

TINY = clip.build(clip.PRESETS["tiny"])
SCORE = blip.build(blip.PRESETS["tiny"])
FORMATS = {
  "open_clip": (TINY.init, layouts.clip_leaves("open_clip")),
  "transformers": (TINY.init, layouts.clip_leaves("transformers")),
  "imagereward": (SCORE.init, layouts.imagereward_leaves()),
  "head": (case.head(16), layouts.head_leaves()),
}


@pytest.mark.parametrize("name", FORMATS)
def test_there_and_back(name):
  init, leaves = FORMATS[name]
  params = case.noisy(init)
  state = layouts.to_state(params, leaves)
  back = layouts.to_params(state, leaves, params)
  jax.tree.map(np.testing.assert_array_equal, params, back)
  assert jax.tree.structure(params) == jax.tree.structure(back)
  again = layouts.to_state(back, leaves)
  assert all(np.array_equal(again[tensor], value) for tensor, value in state.items())


def test_both_layouts_of_clip_give_the_same_network():
  states = {layout: case.state_of(layout) for layout in layouts.LAYOUTS}
  assert [layouts.clip_layout(state) for state in states.values()] == list(layouts.LAYOUTS)
  first, second = (
    layouts.to_params(state, layouts.clip_leaves(layout), jax.eval_shape(TINY.init, jax.random.key(0)))
    for layout, state in states.items()
  )
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_buffers_of_the_published_files_are_passed_over():
  init, leaves = FORMATS["imagereward"]
  state = case.state_of("imagereward")
  state |= {"blip.text_encoder.embeddings.position_ids": np.arange(512.0)[None]}
  state |= {"blip.vision_proj.weight": np.zeros((4, 4)), "blip.text_proj.bias": np.zeros(4)}
  layouts.to_params(state, leaves, jax.eval_shape(init, jax.random.key(0)))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda s: s.pop("visual.proj"), "weights must hold visual.proj; got none among"),
    (lambda s: s.update(extra=np.zeros(3)), "weights must hold nothing but the .* tensors .*; got extra"),
    (
      lambda s: s.update({"visual.proj": np.zeros((32, 8))}),
      r"visual.proj must have shape \(32, 16\); got \(32, 8\)",
    ),
    (
      lambda s: s.update({"transformer.resblocks.1.attn.in_proj_weight": np.zeros((24, 24))}),
      r"transformer.resblocks.1.attn.in_proj_weight must have shape \(72, 24\); got \(24, 24\)",
    ),
    (
      lambda s: s.update({"visual.conv1.weight": np.zeros((32, 3, 4, 4))}),
      r"visual.conv1.weight must have shape \(32, 3, 8, 8\); got \(32, 3, 4, 4\)",
    ),
    (
      lambda s: s.update({"visual.transformer.resblocks.2.ln_1.weight": np.zeros(32)}),
      "got visual.transformer.resblocks.2.ln_1.weight",
    ),
  ],
)
def test_other_tensors_are_refused(change, message):
  init, leaves = FORMATS["open_clip"]
  state = case.state_of("open_clip")
  change(state)
  with pytest.raises(ValueError, match=message):
    layouts.to_params(state, leaves, jax.eval_shape(init, jax.random.key(0)))


def test_what_is_not_clip():
  with pytest.raises(ValueError, match=r"weights of CLIP must hold visual.conv1.weight or vision_model"):
    layouts.clip_layout({"x": np.zeros(1)})
  with pytest.raises(ValueError, match="layout must be one of open_clip, transformers; got 'jax'"):
    layouts.clip_leaves("jax")
