"""Preference rewards from the files in which their weights are published."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from mfm_jax import checks, convert
from mfm_jax.convert import preference as layouts
from mfm_jax.models import blip, clip
from mfm_jax.models.random_params import random_params
from mfm_jax.models.score_head import ScoreHead
from mfm_jax.rewards import preference, prompts, tokenizers
from mfm_jax.types import PyTree

RANDOM = "random"  # in place of a file of weights: random ones, for rehearsals without published ones
NAMES = ("clip", "pickscore", "hpsv2", "imagereward", "aesthetic")
_HUB = "https://huggingface.co/"
_OPENAI = "model.safetensors of " + _HUB + "openai/clip-vit-"
# What to ask a user for.
WEIGHTS = {
  "clip": _OPENAI + "base-patch32 (or another CLIP, also as open_clip writes it)",
  "pickscore": "model.safetensors of " + _HUB + "yuvalkirstain/PickScore_v1",
  "hpsv2": "HPS_v2.1_compressed.pt (v2.1) or HPS_v2_compressed.pt (v2.0) of " + _HUB + "xswu/HPSv2",
  "imagereward": "ImageReward.pt of " + _HUB + "zai-org/ImageReward",
  "aesthetic": _OPENAI + "large-patch14",
}
HEAD = (
  "sac+logos+ava1-l14-linearMSE.pth of https://github.com/christophschuhmann/improved-aesthetic-predictor"
)
CLIP_TOKENIZER = "tokenizer.json of " + _HUB + "openai/clip-vit-large-patch14"
BERT_TOKENIZER = "vocab.txt of " + _HUB + "google-bert/bert-base-uncased"
ARCHITECTURES = {
  "clip": "ViT-B-32-quickgelu",
  "pickscore": "ViT-H-14",
  "hpsv2": "ViT-H-14",
  "imagereward": "ImageReward",
  "aesthetic": "ViT-L-14-quickgelu",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
  """The files and the prompts of a preference reward.

  Attributes:
    weights: file of the network, see `WEIGHTS`; .safetensors, or .pt and .pth, which need the extra `torch`.
    head: file of the aesthetic predictor's head; of it alone.
    tokenizer: file, or folder, of the tokenizer; "" for the folder of the weights.
    architecture: of `models.clip.PRESETS` or `models.blip.PRESETS`; "" for that of the published weights.
    prompt: with {} for the name of a class, or without for one prompt.
    class_names: file of names, see `prompts.read_class_names`; with {} in the prompt.
    null_prompt: of samples with the null label; "" for none, then they have no reward.
    precision: of `preference.PRECISIONS`.
    at_once: pictures a device whose activations are held for a gradient; 0 for all.

  `weights`, and `head`, may be "random": a network of the architecture that has learnt nothing, and without
  `tokenizer` a stand-in for that. Its scores mean nothing, its speed and memory are the published one's.
  """

  weights: str = ""
  head: str = ""
  tokenizer: str = ""
  architecture: str = ""
  prompt: str = prompts.TEMPLATE
  class_names: str = ""
  null_prompt: str = ""
  precision: str = "float32"
  at_once: int = 4

  def __post_init__(self):
    checks.at_least("reward.preference.at_once", self.at_once, 0)
    checks.one_of("reward.preference.precision", self.precision, preference.PRECISIONS)

  def build(self, name: str) -> preference.PreferenceReward:
    """The reward `name`, of `NAMES`.

    Raises:
      ValueError: as `check`; weights of another layout or size than the architecture's.
    """
    return dataclasses.replace(self._build(name), at_once=self.at_once)

  def _build(self, name: str) -> preference.PreferenceReward:
    ids, mask = self.check(name)
    path = pathlib.Path(self.weights)
    if name == "imagereward":
      assert ids is not None
      assert mask is not None
      score = blip.build(blip.PRESETS[self._architecture(name)])
      params = _params(path, "weights", lambda state: layouts.imagereward_leaves(), score.init, WEIGHTS[name])
      return preference.imagereward(score, params, ids, mask, precision=self.precision)
    net = clip.build(clip.PRESETS[self._architecture(name)])
    params = _params(
      path, "weights", lambda state: layouts.clip_leaves(layouts.clip_layout(state)), net.init, WEIGHTS[name]
    )
    if name == "aesthetic":
      features = np.zeros((1, net.config.embedding), np.float32)
      init = lambda key: ScoreHead().init(key, features)["params"]  # noqa: E731
      head = _params(pathlib.Path(self.head), "head", lambda state: layouts.head_leaves(), init, HEAD)
      return preference.aesthetic(net, params, head, precision=self.precision)
    assert ids is not None
    make = {"clip": preference.clip_score, "pickscore": preference.pickscore, "hpsv2": preference.hpsv2}
    return make[name](net, params, ids, precision=self.precision)

  def check(self, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Everything that can be known without reading the weights; gives ids and mask of the prompts.

    Raises:
      ValueError: a file that is not there, with where it is published; another architecture; a prompt for
        classes without their names, or the reverse; a tokenizer that cannot be read.
    """
    checks.one_of("reward.name", name, NAMES)
    known = blip.PRESETS if name == "imagereward" else clip.PRESETS
    checks.one_of(f"reward.preference.architecture for {name}", self._architecture(name), known)
    _check_file("weights", self.weights, WEIGHTS[name], name)
    if (name == "aesthetic") != bool(self.head):
      raise ValueError(
        f"reward.preference.head must be given for aesthetic ({HEAD}), and for no other; got {self.head!r} "
        f"for {name}"
      )
    if name == "aesthetic":
      _check_file("head", self.head, HEAD, name)
      return None, None
    texts = self._prompts()
    return self._tokenize(name)(texts)

  @property
  def identity(self) -> str:
    """sha256 of the files of weights."""
    digest = hashlib.sha256()
    for path in filter(None, (self.weights, self.head)):
      if path == RANDOM:
        digest.update(f"{RANDOM} {self.architecture}".encode())
        continue
      with open(path, "rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

  def _architecture(self, name: str) -> str:
    return self.architecture or ARCHITECTURES[name]

  def _prompts(self) -> tuple[str, ...]:
    by_class = "{}" in self.prompt
    if by_class != bool(self.class_names):
      raise ValueError(
        "reward.preference.class_names must be given with {} in reward.preference.prompt, and only then; got "
        f"{self.class_names!r} with {self.prompt!r}"
      )
    if not by_class:
      if self.null_prompt:
        raise ValueError(
          "reward.preference.null_prompt must be '' with one prompt for all; got " + repr(self.null_prompt)
        )
      return (self.prompt,)
    names = prompts.read_class_names(self.class_names)
    null = (self.null_prompt,) if self.null_prompt else ()
    return prompts.class_prompts(names, self.prompt) + null

  def _tokenize(self, name: str) -> tokenizers.Tokenize:
    if self.weights == RANDOM and not self.tokenizer:
      if name == "imagereward":
        config = blip.PRESETS[self._architecture(name)]
        return tokenizers.stand_in(length=blip.TOKENS, vocabulary=config.vocabulary)
      config = clip.PRESETS[self._architecture(name)]
      return tokenizers.stand_in(length=config.context, vocabulary=config.vocabulary)
    path = self.tokenizer or pathlib.Path(self.weights).parent
    source = BERT_TOKENIZER if name == "imagereward" else CLIP_TOKENIZER
    wanted = ("vocab.txt",) if name == "imagereward" else tokenizers.CLIP_FILES
    try:
      tokenizers.find(path, wanted)
    except ValueError as error:
      raise ValueError(
        f"reward.preference.tokenizer must name {source}, or that be beside the weights of {name}; {error}"
      ) from None
    if name == "imagereward":
      return tokenizers.bert_tokenizer(path, length=blip.TOKENS)
    # What open_clip has cleaned and padded for its own models; PickScore was trained with transformers.
    style = "transformers" if name == "pickscore" else "open_clip"
    return tokenizers.clip_tokenizer(path, style=style)


def _check_file(key: str, path: str, source: str, name: str) -> None:
  if path != RANDOM and not pathlib.Path(path).is_file():
    got = f"{path}: no such file" if path else "''"
    raise ValueError(f"reward.preference.{key} must name {source}, for {name}; got {got}")


def _params(
  path: pathlib.Path, key: str, leaves: Callable[[dict], list[layouts.Leaf]], init: Callable, source: str
) -> PyTree:
  """The parameters in a file, those of the network that `init` makes."""
  if str(path) == RANDOM:
    return random_params(init)
  state = convert.read_state(path, name=f"reward.preference.{key}", source=source)
  try:
    return layouts.to_params(state, leaves(state), jax.eval_shape(init, jax.random.key(0)))
  except ValueError as error:
    raise ValueError(
      f"reward.preference.{key}={path} does not fit the network: {error}; it must be {source}"
    ) from None
