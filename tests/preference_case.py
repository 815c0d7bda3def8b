"""Random weights and small tokenizers in the forms in which those of preference rewards are published."""

import json
import pathlib

import numpy as np

from mfm_jax import convert
from mfm_jax.convert import preference as layouts
from mfm_jax.models import blip, clip
from mfm_jax.models.random_params import random_params as noisy
from mfm_jax.models.score_head import ScoreHead
from mfm_jax.rewards import tokenizers
from mfm_jax.training.stand_ins import write_clip_vocabulary

__all__ = ["head", "noisy", "state_of", "write", "write_bert_vocabulary", "write_clip_vocabulary"]


def head(width: int):
  """`init` of the head."""
  return lambda key: ScoreHead().init(key, np.zeros((1, width), np.float32))["params"]


def state_of(name: str, architecture: str = "tiny", seed: int = 0) -> dict[str, np.ndarray]:
  """A state dict of random weights: of "open_clip", "transformers", "imagereward" or "head"."""
  if name == "imagereward":
    net = blip.build(blip.PRESETS[architecture])
    return layouts.to_state(noisy(net.init, seed), layouts.imagereward_leaves())
  config = clip.PRESETS[architecture]
  if name == "head":
    return layouts.to_state(noisy(head(config.embedding), seed), layouts.head_leaves())
  return layouts.to_state(noisy(clip.build(config).init, seed), layouts.clip_leaves(name))


def write(folder: pathlib.Path, name: str, **options) -> pathlib.Path:
  """The file of such a state dict."""
  path = folder / f"{name}.safetensors"
  convert.write_state(path, state_of(name, **options), {})
  return path


def write_bert_vocabulary(folder: pathlib.Path) -> pathlib.Path:
  """Letters, their continuations and a few words; enough for every text of ASCII."""
  letters = [chr(i) for i in range(33, 127) if not chr(i).isupper()]
  words = ["a", "high", "quality", "photo", "##graph", "of", "resolution", "##ing", "##er", "dog", "shark"]
  tokens = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  tokens += dict.fromkeys([*letters, *("##" + letter for letter in letters), *words])
  path = folder / "vocab.txt"
  path.write_text("\n".join(tokens) + "\n")
  return path


def write_vocabulary_of_transformers(folder: pathlib.Path, source: pathlib.Path) -> pathlib.Path:
  """vocab.json and merges.txt of an open_clip file."""
  vocabulary, merges = tokenizers._open_clip_vocabulary(source)
  path = folder / "vocab.json"
  path.write_text(json.dumps(vocabulary))
  (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges), ""]))
  return path
