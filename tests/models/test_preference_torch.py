"""CLIP and ImageReward against transformers, open_clip and imscore: towers, scores, gradients in pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import preference_case as case
import pytest

from mfm_jax.convert import preference as layouts
from mfm_jax.models import blip, clip
from mfm_jax.rewards import preference
from mfm_jax.rewards.preprocess import MEAN, STD

torch = pytest.importorskip("torch", reason="needs PyTorch, the extra `torch`")
TINY = clip.PRESETS["tiny"]


def transformers_clip(config, state):
  transformers = pytest.importorskip("transformers", reason="needs transformers, with CLIPModel")
  common = {"hidden_act": config.activation, "projection_dim": config.embedding}
  net = transformers.CLIPModel(
    transformers.CLIPConfig(
      projection_dim=config.embedding,
      text_config={
        **common,
        "hidden_size": config.text_width,
        "intermediate_size": 4 * config.text_width,
        "num_hidden_layers": config.text_depth,
        "num_attention_heads": config.text_heads,
        "eos_token_id": config.vocabulary - 1,
      },
      vision_config={
        **common,
        "hidden_size": config.image_width,
        "intermediate_size": 4 * config.image_width,
        "num_hidden_layers": config.image_depth,
        "num_attention_heads": config.image_heads,
        "image_size": config.image_size,
        "patch_size": config.patch,
      },
    )
  )
  load(net, state)
  return lambda x: net.get_image_features(pixel_values=x), lambda ids: net.get_text_features(input_ids=ids)


def open_clip(config, state):
  library = pytest.importorskip("open_clip", reason="needs open_clip")
  net = library.CLIP(
    config.embedding,
    {
      "image_size": config.image_size,
      "layers": config.image_depth,
      "width": config.image_width,
      "head_width": config.image_width // config.image_heads,
      "patch_size": config.patch,
    },
    {"width": config.text_width, "heads": config.text_heads, "layers": config.text_depth},
    quick_gelu=config.activation == "quick_gelu",
  )
  load(net, state)
  return net.encode_image, net.encode_text


def load(net, state):
  found = net.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=False)
  assert not found.unexpected_keys
  assert all(layouts.UNUSED.fullmatch(name) for name in found.missing_keys), found.missing_keys
  net.eval()


def inputs(config, batch=3):
  rng = np.random.default_rng(1)
  pixels = rng.normal(size=(batch, config.image_size, config.image_size, 3)).astype(np.float32)
  ids = np.zeros((batch, config.context), np.int64)
  for row, length in zip(ids, (2, 9, config.context), strict=False):
    row[:length] = rng.integers(1, config.vocabulary - 2, length)
    row[0], row[length - 1] = config.vocabulary - 2, config.vocabulary - 1
  return pixels, ids


def chw(x):
  return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def close(ours, theirs, tolerance):
  theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else theirs
  error = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
  print(f"relative error {error:.1e} of {theirs.shape}, at most {tolerance:g}")
  assert error <= tolerance


@pytest.mark.parametrize(
  ("architecture", "activation"),
  [
    ("tiny", "gelu"),
    ("tiny", "quick_gelu"),
    pytest.param("ViT-B-32-quickgelu", "quick_gelu", marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize(("layout", "make"), [("transformers", transformers_clip), ("open_clip", open_clip)])
def test_the_towers_of_clip(architecture, activation, layout, make):
  config = clip.PRESETS[architecture]
  config = clip.ClipConfig(**{**vars(config), "activation": activation})
  net = clip.build(config)
  params = case.noisy(net.init)
  image, text = make(config, layouts.to_state(params, layouts.clip_leaves(layout)))
  pixels, ids = inputs(config)
  x = chw(pixels).requires_grad_()
  expected, text_expected = image(x), text(torch.from_numpy(ids))
  close(jax.jit(net.image)(params["image"], pixels), expected, 1e-4)
  close(jax.jit(net.text)(params["text"], jnp.asarray(ids, jnp.int32)), text_expected, 1e-4)
  # The cosine, and its gradient in pixels.
  cosine = torch.nn.functional.cosine_similarity(expected, text_expected)
  cosine.sum().backward()
  rows = clip.unit(net.text(params["text"], jnp.asarray(ids, jnp.int32)))
  score = lambda pixels: (clip.unit(net.image(params["image"], pixels)) * rows).sum(1)  # noqa: E731
  close(score(pixels), cosine, 1e-4)
  close(jax.grad(lambda x: score(x).sum())(pixels), x.grad.numpy().transpose(0, 2, 3, 1), 1e-3)


def imscore_reward(config):
  """ImageReward as imscore builds it, of another size; the score from pixels and ids is its method's."""
  model = pytest.importorskip("imscore.imreward.model", reason="needs imscore")
  transformers = pytest.importorskip("transformers")
  net = torch.nn.Module()
  net.blip = torch.nn.Module()
  net.blip.visual_encoder = model.VisionTransformer(
    config.image_size, config.patch, 3, config.image_width, config.image_depth, config.image_heads
  )
  bert = transformers.BertConfig(
    vocab_size=config.vocabulary,
    hidden_size=config.text_width,
    num_hidden_layers=config.text_depth,
    num_attention_heads=config.text_heads,
    intermediate_size=4 * config.text_width,
  )
  bert.encoder_width = config.image_width
  net.blip.text_encoder = model.BertModel(bert)
  net.mlp = model.MLP(config.text_width)

  def score(x, ids, mask):
    image = net.blip.visual_encoder(x)
    seen = torch.ones(image.shape[:2], dtype=torch.bool)
    h = net.blip.text_encoder(
      ids, attention_mask=mask, encoder_hidden_states=image, encoder_attention_mask=seen
    )
    return (net.mlp(h[:, 0])[:, 0] - 0.16717362830052426) / 1.0333394966054072

  return net, score


def test_imagereward():
  config = blip.PRESETS["tiny"]
  net = blip.build(config)
  params = case.noisy(net.init)
  theirs, score = imscore_reward(config)
  load(theirs, layouts.to_state(params, layouts.imagereward_leaves()))
  rng = np.random.default_rng(0)
  pixels = rng.normal(size=(3, config.image_size, config.image_size, 3)).astype(np.float32)
  ids = rng.integers(1, config.vocabulary, (3, blip.TOKENS))
  mask = (np.arange(blip.TOKENS) < np.array([[4], [20], [35]])).astype(np.int64)
  x = chw(pixels).requires_grad_()
  expected = score(x, torch.from_numpy(ids), torch.from_numpy(mask))
  expected.sum().backward()
  own = jnp.asarray(ids, jnp.int32), jnp.asarray(mask, jnp.int32)
  close(jax.jit(net.score)(params, pixels, *own), expected, 1e-4)
  gradient = jax.grad(lambda pixels: net.score(params, pixels, *own).sum())(pixels)
  close(gradient, x.grad.numpy().transpose(0, 2, 3, 1), 1e-3)


def test_aesthetic():
  model = pytest.importorskip("imscore.aesthetic.model", reason="needs imscore")
  net = clip.build(TINY)
  params, head = case.noisy(net.init), case.noisy(case.head(TINY.embedding), 3)
  image, _ = transformers_clip(TINY, layouts.to_state(params, layouts.clip_leaves("transformers")))
  theirs = model.MLP()
  theirs.layers[0] = torch.nn.Linear(TINY.embedding, 1024)
  load(theirs, layouts.to_state(head, layouts.head_leaves()))
  reward = preference.aesthetic(net, params, head)
  pixels, _ = inputs(TINY)
  features = torch.nn.functional.normalize(image(chw(pixels)))
  close(reward.function(reward.params, pixels), theirs(features)[:, 0], 1e-4)


def resized(x, longest):
  """By torchvision: the longest side to the network's with black around, or the shortest and the centre."""
  functional = pytest.importorskip("torchvision.transforms.functional", reason="needs torchvision")
  size, bicubic = TINY.image_size, functional.InterpolationMode.BICUBIC
  if not longest:
    x = functional.resize(x, size, bicubic)
    top, left = ((n - size) // 2 for n in x.shape[2:])
    x = functional.crop(x, top, left, size, size)
  else:
    sides = [round(n * size / max(x.shape[2:])) for n in x.shape[2:]]
    high, wide = (size - n for n in sides)
    x = functional.resize(x, sides, bicubic)
    x = functional.pad(x, [wide // 2, high // 2, wide - wide // 2, high - high // 2])
  return functional.normalize(x, MEAN, STD)


@pytest.mark.parametrize(
  ("make", "longest", "scale"),
  [
    (preference.pickscore, False, np.exp(2.5)),
    (preference.hpsv2, True, 1.0),
    (preference.clip_score, False, 100.0),
  ],
)
def test_a_reward_and_its_gradient_from_pictures_on(make, longest, scale):
  """Pictures that are not square and leave [0, 1], so that a clamp would show."""
  net = clip.build(TINY)
  params = case.noisy(net.init)
  image, text = transformers_clip(TINY, layouts.to_state(params, layouts.clip_leaves("transformers")))
  pictures = np.random.default_rng(0).uniform(-0.3, 1.3, size=(3, 44, 56, 3)).astype(np.float32)
  _, ids = inputs(TINY)
  x = chw(pictures).requires_grad_()
  expected = scale * torch.nn.functional.cosine_similarity(
    image(resized(x, longest)), text(torch.from_numpy(ids))
  )
  expected.sum().backward()
  reward = make(net, params, ids.astype(np.int32))
  label = {"label": np.arange(3)}
  values, pull = jax.vjp(lambda x: reward(x, label), pictures)
  close(values, expected, 1e-4)
  close(pull(jnp.ones_like(values))[0], x.grad.numpy().transpose(0, 2, 3, 1), 1e-3)
