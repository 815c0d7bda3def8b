"""Published state dicts of preference models <-> parameters, strictly and both ways.

Layouts of CLIP:
    open_clip     one in_proj for query, key and value (HPSv2 and whatever open_clip or OpenAI published)
    transformers  q_proj, k_proj, v_proj (PickScore and the checkpoints for transformers)
"""

import dataclasses
import re
from collections.abc import Mapping

import jax
import numpy as np

from mfm_jax import checks
from mfm_jax.types import PyTree

State = dict[str, np.ndarray]
LAYOUTS = ("open_clip", "transformers")
# Buffers that a module makes itself, and layers of BLIP that ImageReward has and does not use.
UNUSED = re.compile(
  r"attn_mask|(text_model|vision_model)\.embeddings\.position_ids"
  r"|blip\.text_encoder\.embeddings\.position_ids|blip\.(vision|text)_proj\.(weight|bias)"
)


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One parameter of ours.

  Attributes:
    path: in our parameters; below "blocks" a leading axis counts the blocks.
    names: of its tensors, joined along their first axis; {} is the number of the block.
    layout: "linear" (out, in) -> (in, out); "patch" (D, C, p, p) -> (p p C, D); "same"; "row" and "rows":
      ours with one and with two leading axes of size 1.
  """

  path: tuple[str, ...]
  names: tuple[str, ...]
  layout: str = "same"


def clip_leaves(layout: str) -> list[Leaf]:
  """Every tensor of CLIP in a layout.

  Raises:
    ValueError: an unknown layout.
  """
  checks.one_of("layout", layout, LAYOUTS)
  if layout == "open_clip":
    return [
      Leaf(("image", "encoder", "class"), ("visual.class_embedding",)),
      Leaf(("image", "encoder", "position"), ("visual.positional_embedding",)),
      Leaf(("image", "encoder", "patches", "kernel"), ("visual.conv1.weight",), "patch"),
      *_norm("image/encoder/norm_in", "visual.ln_pre"),
      *_open_clip_blocks("image/encoder/blocks", "visual.transformer.resblocks.{}."),
      *_norm("image/encoder/norm_out", "visual.ln_post"),
      Leaf(("image", "embedding", "kernel"), ("visual.proj",)),
      Leaf(("text", "tokens", "embedding"), ("token_embedding.weight",)),
      Leaf(("text", "position"), ("positional_embedding",)),
      *_open_clip_blocks("text/blocks", "transformer.resblocks.{}."),
      *_norm("text/norm_out", "ln_final"),
      Leaf(("text", "embedding", "kernel"), ("text_projection",)),
      Leaf(("log_scale",), ("logit_scale",)),
    ]
  image, text = "vision_model.", "text_model."
  return [
    Leaf(("image", "encoder", "class"), (image + "embeddings.class_embedding",)),
    Leaf(("image", "encoder", "position"), (image + "embeddings.position_embedding.weight",)),
    Leaf(("image", "encoder", "patches", "kernel"), (image + "embeddings.patch_embedding.weight",), "patch"),
    *_norm("image/encoder/norm_in", image + "pre_layrnorm"),  # so written in the published weights
    *_transformers_blocks("image/encoder/blocks", image + "encoder.layers.{}."),
    *_norm("image/encoder/norm_out", image + "post_layernorm"),
    Leaf(("image", "embedding", "kernel"), ("visual_projection.weight",), "linear"),
    Leaf(("text", "tokens", "embedding"), (text + "embeddings.token_embedding.weight",)),
    Leaf(("text", "position"), (text + "embeddings.position_embedding.weight",)),
    *_transformers_blocks("text/blocks", text + "encoder.layers.{}."),
    *_norm("text/norm_out", text + "final_layer_norm"),
    Leaf(("text", "embedding", "kernel"), ("text_projection.weight",), "linear"),
    Leaf(("log_scale",), ("logit_scale",)),
  ]


def imagereward_leaves() -> list[Leaf]:
  """Every tensor of ImageReward that its score depends on."""
  image, text = "blip.visual_encoder.", "blip.text_encoder."
  block, layer = image + "blocks.{}.", text + "encoder.layer.{}."
  attention, cross = layer + "attention.", layer + "crossattention."
  return [
    Leaf(("image", "class"), (image + "cls_token",), "rows"),
    Leaf(("image", "position"), (image + "pos_embed",), "row"),
    *_dense("image/patches", image + "patch_embed.proj", layout="patch"),
    *_norm("image/blocks/norm_attention", block + "norm1"),
    *_dense("image/blocks/qkv", block + "attn.qkv"),
    *_dense("image/blocks/projection", block + "attn.proj"),
    *_norm("image/blocks/norm_mlp", block + "norm2"),
    *_dense("image/blocks/mlp_in", block + "mlp.fc1"),
    *_dense("image/blocks/mlp_out", block + "mlp.fc2"),
    *_norm("image/norm_out", image + "norm"),
    Leaf(("tokens", "embedding"), (text + "embeddings.word_embeddings.weight",)),
    Leaf(("position",), (text + "embeddings.position_embeddings.weight",)),
    *_norm("norm_in", text + "embeddings.LayerNorm"),
    *_dense("blocks/qkv", *(f"{attention}self.{name}" for name in ("query", "key", "value"))),
    *_dense("blocks/projection", attention + "output.dense"),
    *_norm("blocks/norm_attention", attention + "output.LayerNorm"),
    *_dense("blocks/cross_query", cross + "self.query"),
    *_dense("blocks/cross_key_value", cross + "self.key", cross + "self.value"),
    *_dense("blocks/cross_projection", cross + "output.dense"),
    *_norm("blocks/norm_cross", cross + "output.LayerNorm"),
    *_dense("blocks/mlp_in", layer + "intermediate.dense"),
    *_dense("blocks/mlp_out", layer + "output.dense"),
    *_norm("blocks/norm_mlp", layer + "output.LayerNorm"),
    *head_leaves("mlp.", "head/"),
  ]


def head_leaves(prefix: str = "", path: str = "") -> list[Leaf]:
  """The five layers of a score head; between some of them the published module has dropout."""
  numbers = (0, 2, 4, 6, 7)
  return [leaf for i, n in enumerate(numbers) for leaf in _dense(f"{path}layer_{i}", f"{prefix}layers.{n}")]


def clip_layout(state: Mapping[str, np.ndarray]) -> str:
  """The layout of a state dict of CLIP.

  Raises:
    ValueError: tensors that are of neither.
  """
  marks = {leaves[2].names[0]: layout for layout in LAYOUTS for leaves in [clip_leaves(layout)]}
  for name, layout in marks.items():
    if name in state:
      return layout
  raise ValueError(f"weights of CLIP must hold {' or '.join(marks)}; got {', '.join(list(state)[:3])} ...")


def to_params(state: Mapping[str, np.ndarray], leaves: list[Leaf], like: PyTree) -> PyTree:
  """Parameters, NumPy float32, from a state dict.

  Args:
    state: float tensors by name.
    leaves: of its format.
    like: parameters, or their shapes, of the network that is to be filled.

  Raises:
    ValueError: a tensor that is missing or unknown, or whose shape is not the network's.
  """
  out: dict = {}
  known: set[str] = set()
  for leaf in leaves:
    target = tuple(_take(like, leaf.path).shape)
    values = []
    for names, shape in _tensors(leaf, target):
      for name in names:
        if name not in state:
          raise ValueError(f"weights must hold {name}; got none among {len(state)} tensors")
        if state[name].shape != shape:
          raise ValueError(f"{name} must have shape {shape}; got {state[name].shape}")
      known.update(names)
      joined = np.concatenate([state[name] for name in names]) if len(names) > 1 else state[names[0]]
      values.append(_ours(np.asarray(joined, np.float32), leaf.layout))
    _put(out, leaf.path, np.stack(values) if "blocks" in leaf.path else values[0])
  for name in state:
    if name not in known and not UNUSED.fullmatch(name):
      raise ValueError(f"weights must hold nothing but the {len(known)} tensors of the network; got {name}")
  return out


def to_state(params: PyTree, leaves: list[Leaf]) -> State:
  """The inverse of `to_params`: bit-equal tensors under the published names."""
  params = jax.tree.map(np.asarray, params)
  out: State = {}
  for leaf in leaves:
    value = _take(params, leaf.path)
    blocks = value if "blocks" in leaf.path else value[None]
    for (names, _), block in zip(_tensors(leaf, value.shape), blocks, strict=True):
      whole = _theirs(block, leaf.layout)
      parts = np.split(whole, len(names)) if len(names) > 1 else [whole]
      out |= {name: np.array(part, order="C") for name, part in zip(names, parts, strict=True)}
  return out


def _tensors(leaf: Leaf, target: tuple[int, ...]) -> list[tuple[list[str], tuple[int, ...]]]:
  """The names of a parameter's tensors, block by block, and the shape of each, from that of ours."""
  scanned = "blocks" in leaf.path
  depth, target = (target[0], target[1:]) if scanned else (1, target)
  shape = _theirs(np.broadcast_to(np.float32(0), target), leaf.layout).shape
  if len(leaf.names) > 1:
    shape = (shape[0] // len(leaf.names), *shape[1:])
  return [([name.format(i) for name in leaf.names], shape) for i in range(depth)]


def _ours(value: np.ndarray, layout: str) -> np.ndarray:
  if layout == "linear":
    return value.T
  if layout == "patch":
    return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
  return value[{"same": (), "row": (0,), "rows": (0, 0)}[layout]]


def _theirs(value: np.ndarray, layout: str) -> np.ndarray:
  if layout == "linear":
    return value.T
  if layout == "patch":  # of three channels
    side = round((value.shape[0] / 3) ** 0.5)
    return value.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)
  return value[{"same": (), "row": (None,), "rows": (None, None)}[layout]]


def _dense(path: str, *names: str, layout: str = "linear") -> list[Leaf]:
  parts = tuple(path.split("/"))
  kernel = Leaf((*parts, "kernel"), tuple(f"{name}.weight" for name in names), layout)
  return [kernel, Leaf((*parts, "bias"), tuple(f"{name}.bias" for name in names))]


def _norm(path: str, name: str) -> list[Leaf]:
  parts = tuple(path.split("/"))
  return [Leaf((*parts, "scale"), (f"{name}.weight",)), Leaf((*parts, "bias"), (f"{name}.bias",))]


def _open_clip_blocks(path: str, prefix: str) -> list[Leaf]:
  qkv = (*path.split("/"), "qkv")
  return [
    *_norm(f"{path}/norm_attention", prefix + "ln_1"),
    Leaf((*qkv, "kernel"), (prefix + "attn.in_proj_weight",), "linear"),
    Leaf((*qkv, "bias"), (prefix + "attn.in_proj_bias",)),
    *_dense(f"{path}/projection", prefix + "attn.out_proj"),
    *_norm(f"{path}/norm_mlp", prefix + "ln_2"),
    *_dense(f"{path}/mlp_in", prefix + "mlp.c_fc"),
    *_dense(f"{path}/mlp_out", prefix + "mlp.c_proj"),
  ]


def _transformers_blocks(path: str, prefix: str) -> list[Leaf]:
  return [
    *_norm(f"{path}/norm_attention", prefix + "layer_norm1"),
    *_dense(f"{path}/qkv", *(f"{prefix}self_attn.{part}_proj" for part in "qkv")),
    *_dense(f"{path}/projection", prefix + "self_attn.out_proj"),
    *_norm(f"{path}/norm_mlp", prefix + "layer_norm2"),
    *_dense(f"{path}/mlp_in", prefix + "mlp.fc1"),
    *_dense(f"{path}/mlp_out", prefix + "mlp.fc2"),
  ]


def _take(tree, path):
  for name in path:
    tree = tree[name]
  return tree


def _put(tree, path, value):
  for name in path[:-1]:
    tree = tree.setdefault(name, {})
  tree[path[-1]] = value
