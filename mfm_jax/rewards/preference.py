"""Rewards of human preference: networks that score a picture, most of them against a prompt.

A prompt belongs to a class: `cond["label"]` selects from a table, computed once, when the reward is made.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.models import blip, clip
from mfm_jax.models.layers import output
from mfm_jax.models.score_head import ScoreHead
from mfm_jax.rewards.parts import in_parts
from mfm_jax.rewards.preprocess import Preprocess
from mfm_jax.types import Array, Cond, PyTree

PRECISIONS = (
  "float32",
  "tensorfloat32",
  "bfloat16",
)  # of products, as jax.default_matmul_precision names them
PROMPTS_A_TIME = 64


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("params", "rows"),
  meta_fields=("function", "preprocess", "precision", "at_once"),
)
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreferenceReward:
  """r(x, cond) -> (B,), float32, of pictures x (B, H, W, 3) in [0, 1]; differentiable.

  With one prompt cond is ignored. With several, cond["label"] (B,) selects. A label without a prompt, such as
  the null label where no prompt was given for it, is a ValueError; in a compiled program it gives NaN.

  Attributes:
    function: (params, pixels, *rows of the batch) -> (B,).
    preprocess: pictures -> pixels.
    params: of its network.
    rows: arrays with a row a prompt; () for a network that takes none.
    precision: of `PRECISIONS`; an accelerator's own default rounds float32 products to fewer bits.
    at_once: pictures a device whose activations are held for a gradient, see `in_parts`; 0 for all.

  Raises:
    ValueError: at a call, another shape, no label, or one without a prompt.
  """

  function: Callable[..., Array]
  preprocess: Preprocess
  params: PyTree
  rows: tuple[Array, ...]
  precision: str = "float32"
  at_once: int = 0

  def __call__(self, x: Array, cond: Cond = None) -> Array:
    def score(x: Array, *chosen: Array) -> Array:
      return self.function(self.params, self.preprocess(x), *chosen)

    chosen = [self._choose(row, cond, x.shape[0]) for row in self.rows]
    with jax.default_matmul_precision(self.precision):
      return in_parts(score, x, *chosen, rows=self.at_once)

  def _choose(self, row: Array, cond: Cond, batch: int) -> Array:
    if len(row) == 1:
      return jnp.broadcast_to(row, (batch, *row.shape[1:]))
    if not cond or "label" not in cond:
      raise ValueError(
        f'cond["label"] must be given: the reward has {len(row)} prompts, one a class; got cond={cond}'
      )
    label = cond["label"]
    checks.shape('cond["label"]', label, (batch,))
    checks.in_interval('cond["label"], which selects a prompt,', label, 0, len(row) - 1)
    # Negative indices would count from the end.
    return jnp.take(row, jnp.where(label < 0, len(row), label), axis=0, mode="fill", fill_value=None)


def clip_score(
  net: clip.Clip, params: PyTree, ids: np.ndarray, *, precision: str = "float32"
) -> PreferenceReward:
  """100 cos(image, text) (Hessel et al. 2021, arXiv:2104.08718), negative values kept.

  Args:
    net, params: a network and its parameters; those of the text tower are used once, for the table.
    ids: (prompts, context), of the tokenizer.
    precision: see `PreferenceReward`.
  """
  return _similarity(net, params, ids, 100.0, Preprocess(size=net.config.image_size), precision)


def pickscore(
  net: clip.Clip, params: PyTree, ids: np.ndarray, *, precision: str = "float32"
) -> PreferenceReward:
  """PickScore, exp(log_scale) cos(image, text) (Kirstain et al. 2023, arXiv:2305.01569); see `clip_score`."""
  preprocess = Preprocess(size=net.config.image_size, crop="floor")
  return _similarity(net, params, ids, jnp.exp(params["log_scale"]), preprocess, precision)


def hpsv2(net: clip.Clip, params: PyTree, ids: np.ndarray, *, precision: str = "float32") -> PreferenceReward:
  """HPSv2, cos(image, text) (Wu et al. 2023, arXiv:2306.09341), v2.0 and v2.1; see `clip_score`."""
  preprocess = Preprocess(size=net.config.image_size, fit="longest")
  return _similarity(net, params, ids, 1.0, preprocess, precision)


def aesthetic(
  net: clip.Clip, params: PyTree, head: PyTree, *, precision: str = "float32"
) -> PreferenceReward:
  """The LAION aesthetic predictor of CLIP's embeddings, about 1 to 10; it takes no prompt.

  Args:
    net, params: OpenAI's CLIP ViT-L/14.
    head: parameters of `ScoreHead`.
    precision: see `PreferenceReward`.
  """

  def score(params: PyTree, pixels: Array) -> Array:
    return output(ScoreHead(), params["head"], clip.unit(net.image(params["image"], pixels)))

  return PreferenceReward(
    function=score,
    preprocess=Preprocess(size=net.config.image_size),
    params=_on_device({"image": params["image"], "head": head}),
    rows=(),
    precision=precision,
  )


def imagereward(
  net: blip.ImageReward, params: PyTree, ids: np.ndarray, mask: np.ndarray, *, precision: str = "float32"
) -> PreferenceReward:
  """ImageReward, standardised. The text encoder attends to the image, so it runs at each call.

  Args:
    net, params: the network and its parameters.
    ids, mask: (prompts, tokens), of the tokenizer.
    precision: see `PreferenceReward`.
  """
  _check_ids(ids, net.config.vocabulary)
  return PreferenceReward(
    function=net.score,
    preprocess=Preprocess(size=net.config.image_size),
    params=_on_device(params),
    rows=(jnp.asarray(ids), jnp.asarray(mask)),
    precision=precision,
  )


def text_table(net: clip.Clip, params: PyTree, ids: np.ndarray, *, precision: str = "float32") -> Array:
  """Embeddings of length 1, (prompts, D) float32, of ids (prompts, context)."""
  _check_ids(ids, net.config.vocabulary)

  @jax.jit
  def table(params: PyTree, ids: Array) -> Array:
    embed = lambda row: clip.unit(net.text(params, row[None]))[0]  # noqa: E731
    return jax.lax.map(embed, ids, batch_size=PROMPTS_A_TIME)

  with jax.default_matmul_precision(precision):
    return table(params, jnp.asarray(ids))


def _similarity(net, params, ids, scale, preprocess, precision) -> PreferenceReward:
  def score(params: PyTree, pixels: Array, text: Array) -> Array:
    return params["scale"] * (clip.unit(net.image(params["image"], pixels)) * text).sum(1)

  return PreferenceReward(
    function=score,
    preprocess=preprocess,
    params=_on_device({"image": params["image"], "scale": scale}),
    rows=(text_table(net, params["text"], ids, precision=precision),),
    precision=precision,
  )


def _on_device(params: PyTree) -> PyTree:
  """Float32 arrays of a device, so that a call does not move them there again."""
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def _check_ids(ids: np.ndarray, vocabulary: int) -> None:
  checks.at_least("number of prompts", len(ids), 1)
  if ids.max() >= vocabulary:
    raise ValueError(
      f"ids must be below the network's vocabulary of {vocabulary}; got {ids.max()}: another tokenizer's"
    )
