"""Which tensor of a published state dict is which parameter of ours, and in what layout.

Kinds of weights, by what they hold beside patches, blocks and the final layer:
    mfm   two time embeddings a part, the context and its time, guidance (the published Meta Flow Map)
    dmf   one time embedding, of s in the encoder and of u in the decoder (Decoupled MeanFlow)
    sit   one time embedding of s = u; twice the output channels (SiT)
    repa  as sit, and projectors that only its training used (REPA)
A dmf, sit or repa network is an mfm network whose other embeddings are zero.
"""

import dataclasses
import re

from mfm_jax import checks
from mfm_jax.models.dit import DiTConfig

KINDS = ("mfm", "dmf", "sit", "repa")
PUBLISHED = {  # what to ask a user for
  "mfm": "a Meta Flow Map's checkpoint (MFM-XL/2, MFM-B/2) of https://github.com/adh1s/mfm",
  "dmf": "a checkpoint (DMF-XL/2+) of the repository of Decoupled MeanFlow",
  "sit": "SiT-XL-2-256x256.pt of https://github.com/willisma/SiT",
  "repa": "a checkpoint (SiT-XL/2 + REPA) of https://github.com/sihyun-yu/REPA",
}
UNUSED = {"repa": re.compile(r"projectors\..*")}  # listed by a conversion, not converted
POSITIONS = re.compile(r"(blocks\.\d+\.)?pos_embed")  # fixed: checked, and written again


@dataclasses.dataclass(frozen=True)
class Entry:
  """One tensor.

  Attributes:
    names: in the state dict, one for each block of a scanned parameter.
    path: in our parameters.
    layout: "linear" (out, in) -> (in, out); "conv" (D, C, h, w) -> (h, w, C, D); "patch" (D, C, p, p) ->
      (p p C, D); "same".
    scanned: whether ours has the blocks on a leading axis.
  """

  names: tuple[str, ...]
  path: tuple[str, ...]
  layout: str
  scanned: bool


def entries(kind: str, config: DiTConfig, depth: int) -> list[Entry]:
  """Every tensor that is converted, in the order of the published module.

  Raises:
    ValueError: an unknown kind, or options that weights of this kind do not have.
  """
  checks.one_of("kind", kind, KINDS)
  if config.joint_attention and config.qk_norm:
    raise ValueError("joint_attention and qk_norm must not both be set: no published weights have both")
  if kind != "mfm" and (config.joint_attention or config.preserve_at_zero or config.residual_context):
    raise ValueError(
      "joint_attention, preserve_at_zero and residual_context must be False for weights without a context; "
      f"got kind {kind}, {config}"
    )
  out = _layer("x_embedder.proj", "state", "patch")
  if kind == "mfm":
    out += _layer("x_cond_embedder.proj", "context", "patch")
    out += _layer("x_cond_adaLN.1", "context_modulation")
    for theirs, ours in MFM_TIMES.items():
      out += _time(theirs, ours)
    out.append(Entry(("guidance_embedder.embedding_table.weight",), ("guidance", "embedding"), "same", False))
  else:
    out += _time("t_embedder", "start")
  out.append(Entry(("y_embedder.embedding_table.weight",), ("label", "embedding"), "same", False))
  attention = "joint_attn" if config.joint_attention else "attn"
  layers = {f"{attention}.qkv": "qkv", f"{attention}.proj": "projection", "mlp.fc1": "mlp_in"}
  layers |= {"mlp.fc2": "mlp_out", "adaLN_modulation.1": "modulation"}
  if config.joint_attention:
    layers[f"{attention}.kv_cond"] = "context_kv"
  for theirs, ours in layers.items():
    out += _layer(theirs, ours, blocks=depth)
  if config.joint_attention:
    out += _layer("x_cond_embedder.proj", "context", "patch", blocks=depth)
  if config.qk_norm:
    for name in ("q_norm", "k_norm"):
      names = tuple(f"blocks.{i}.{attention}.{name}.scale" for i in range(depth))
      out.append(Entry(names, ("blocks", name, "scale"), "same", True))
  return (
    out + _layer("final_layer.linear", "out") + _layer("final_layer.adaLN_modulation.1", "modulation_out")
  )


MFM_TIMES = {
  "s_embedder": "start",
  "t_embedder": "end",
  "t_cond_embedder": "context_time",
  "s_embedder_second": "start_decoder",
  "t_embedder_second": "end_decoder",
}


def _time(theirs: str, ours: str) -> list[Entry]:
  return _layer(f"{theirs}.mlp.0", f"{ours}/in") + _layer(f"{theirs}.mlp.2", f"{ours}/out")


def _layer(theirs: str, ours: str, layout: str = "linear", blocks: int = 0) -> list[Entry]:
  """Weight and bias of a layer, of every block where `blocks` is given."""
  path = (*(("blocks",) if blocks else ()), *ours.split("/"))
  prefixes = [f"blocks.{i}." for i in range(blocks)] or [""]
  return [
    Entry(tuple(f"{p}{theirs}.{torch}" for p in prefixes), (*path, flax), kind, bool(blocks))
    for torch, flax, kind in (("weight", "kernel", layout), ("bias", "bias", "same"))
  ]
