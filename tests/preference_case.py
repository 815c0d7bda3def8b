"""Random weights and small tokenizers in the forms in which those of preference rewards are published."""

import gzip
import json
import pathlib

import jax
import numpy as np

from mfm_jax import convert
from mfm_jax.convert import preference as layouts
from mfm_jax.models import blip, clip
from mfm_jax.models.score_head import ScoreHead
from mfm_jax.rewards import tokenizers


def noisy(init, seed: int = 0, spread: float = 0.1):
  """Parameters of `init`, none as it starts: a bias of zero or a scale of one would hide a mistake."""
  shapes = jax.eval_shape(init, jax.random.key(0))
  rng = np.random.default_rng(seed)

  def leaf(path, shape):
    name = path[-1].key
    # Kernels keep the size of signals.
    size = {"kernel": shape.shape[-2] ** -0.5 if shape.ndim > 1 else 0.0, "embedding": 1.0}.get(name, spread)
    values = rng.normal(size=shape.shape) * size
    return (values + (name == "scale")).astype(np.float32)

  params = jax.tree_util.tree_map_with_path(leaf, shapes)
  if "log_scale" in params:
    params["log_scale"] = np.float32(2.5)
  return params


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


def write_clip_vocabulary(folder: pathlib.Path) -> pathlib.Path:
  """As open_clip's, with a few merges; start and end are not the last ids of a real vocabulary."""
  merges = ["t h", "o f</w>", "th e</w>", "i n", "in g</w>", "d o", "do g</w>"]
  path = folder / "bpe_simple_vocab_16e6.txt.gz"
  with gzip.open(path, "wt", encoding="utf-8") as file:
    file.write("\n".join(["#version: 0.2", *merges]))
  return path


def write_vocabulary_of_transformers(folder: pathlib.Path, source: pathlib.Path) -> pathlib.Path:
  """vocab.json and merges.txt of an open_clip file."""
  vocabulary, merges = tokenizers._open_clip_vocabulary(source)
  path = folder / "vocab.json"
  path.write_text(json.dumps(vocabulary))
  (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges), ""]))
  return path
