"""Published weights as a run folder, and a run of the transformer as published weights."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks, convert, flow_map, times
from mfm_jax.convert import names
from mfm_jax.convert.names import KINDS
from mfm_jax.data import latents
from mfm_jax.data.datasets import DataConfig
from mfm_jax.losses import DrawConfig, Objective
from mfm_jax.models import ModelConfig
from mfm_jax.models.dit import SIZES, DiTConfig
from mfm_jax.sampling import integrators
from mfm_jax.training import averages, folder, optimizer
from mfm_jax.training.checkpoint import Checkpoints
from mfm_jax.training.config import RunConfig
from mfm_jax.training.folder import DataInfo
from mfm_jax.training.run import Run, load_run, parts
from mfm_jax.training.state import create, params_sha256

EXPECTED = {  # (kind, width): FID on ImageNet 256, as published
  ("mfm", 1152): "1.97 with 4 steps (K-step refinement)",
  ("dmf", 1152): "2.16 with 1 step, 1.51 with 4",
  ("sit", 1152): "2.06 with guidance 1.5, 250 steps",
  ("repa", 1152): "1.42 with guidance, 250 steps",
}
DATA_AT = ("one", "zero")
_EMA = (0.9999,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
  """What a state dict does not say of its network.

  Attributes:
    kind: "mfm", "dmf", "sit" or "repa", see `convert.names`.
    heads, encoder_depth: 0 for those of the published size with its width and depth.
    guidance_scales: trained scales beside 1; of mfm alone.
    trained_at_one: whether labels were trained at scale 1 too (the published map's were not).
    data_at: time of the data in the network's own convention; "" for the kind's: one for sit, zero else.
    preserve_at_zero, residual_context: see `DiTConfig`.
    latent_scale, latent_shift: of the latents that it was trained on, (latent - shift) * scale.
    data: for what needs data: a folder of experiments.prepare_latents, or of train.npz and test.npz in model
      space; "" for none.
  """

  kind: str
  heads: int = 0
  encoder_depth: int = 0
  guidance_scales: tuple[float, ...] = ()
  trained_at_one: bool = False
  data_at: str = ""
  preserve_at_zero: bool = False
  residual_context: bool = False
  latent_scale: float = 0.18215
  latent_shift: float = 0.0
  data: str = ""

  def __post_init__(self):
    checks.one_of("--kind", self.kind, KINDS)
    checks.one_of("--data_at", self.data_at, ("", *DATA_AT))
    for name in ("heads", "encoder_depth"):
      checks.at_least(f"--{name}", getattr(self, name), 0)
    scales = (1.0, *self.guidance_scales)
    if not all(low < high for low, high in itertools.pairwise(scales)):
      raise ValueError(
        "--guidance_scales must ascend from above 1, as the rows of the table do; "
        f"got {','.join(map(str, self.guidance_scales))}"
      )
    if self.guidance_scales and self.kind != "mfm":
      raise ValueError(
        f"--guidance_scales must be absent for {self.kind} weights, which take no scale; "
        f"got {self.guidance_scales}"
      )


def describe(state: Mapping[str, np.ndarray], weights: Weights) -> tuple[RunConfig, DataInfo]:
  """The configuration of a run with these weights, sizes read from the tensors.

  Raises:
    ValueError: tensors without which sizes cannot be told; heads or an encoder depth that are needed; a table
      of guidance whose rows are not those of 1 and weights.guidance_scales; weights.data without data, or
      with latents of another shape, scale or number of classes.
  """
  embed = _tensor(state, "x_embedder.proj.weight", 4)
  width, channels, patch = embed.shape[:3]
  positions = _tensor(state, "pos_embed", 3).shape[1]
  grid = round(positions**0.5)
  if grid**2 != positions:
    raise ValueError(f"pos_embed must have a square number of rows; got {positions}")
  classes = _tensor(state, "y_embedder.embedding_table.weight", 2).shape[0] - 1
  depth = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("blocks.")), default=-1)
  checks.at_least("number of blocks", depth, 1)
  known = {(w, d): (heads, encoder) for w, d, heads, encoder in SIZES.values()}.get((width, depth))
  split = weights.kind in ("mfm", "dmf")  # the others have one embedding for all blocks
  for name, given in (("heads", weights.heads), ("encoder_depth", weights.encoder_depth)):
    if not given and known is None and (name == "heads" or split):
      raise ValueError(
        f"--{name} must be given for width {width}, depth {depth}: no published size has these"
      )
  heads, encoder = known or (0, 0)
  rows = 1 + len(weights.guidance_scales)
  if weights.kind == "mfm":
    found = _tensor(state, "guidance_embedder.embedding_table.weight", 2).shape[0]
    if found != rows or rows == 1:
      raise ValueError(
        f"--guidance_scales must name the {found - 1} scales beside 1 of the guidance table; "
        f"got {weights.guidance_scales}"
      )
  if width % (weights.heads or heads):
    raise ValueError(f"--heads must divide the width of {width}; got {weights.heads or heads}")
  for name in (name for name in state if name.endswith("_norm.scale")):
    checks.shape(name, state[name], (width // (weights.heads or heads),))
  outputs = _tensor(state, "final_layer.linear.weight", 2).shape[0]
  own = DiTConfig(
    encoder_depth=(weights.encoder_depth or encoder) if split else 0,
    joint_attention="blocks.0.joint_attn.qkv.weight" in state,
    qk_norm="blocks.0.attn.q_norm.scale" in state,
    preserve_at_zero=weights.preserve_at_zero,
    residual_context=weights.residual_context,
    reverse_time=(weights.data_at or ("one" if weights.kind == "sit" else "zero")) == "zero",
    learn_sigma=outputs == 2 * patch**2 * channels,
    guidance_decoder=False,
    init="published",
  )
  size = {"width": width, "depth": depth, "heads": weights.heads or heads, "patch": patch}
  shape = (grid * patch, grid * patch, channels)
  scale: dict[str, Any] = {"latent_scale": weights.latent_scale, "latent_shift": weights.latent_shift}
  index = _latents(weights, shape, classes)
  config = RunConfig(
    data=DataConfig(
      name="latents" if index else "arrays", path=weights.data, classes=classes, shape=shape, **scale
    ),
    model=ModelConfig(name="dit", precondition=False, dit=own, **size),
    draws=DrawConfig(
      label_dropout=0.2,
      guidance_scales=weights.guidance_scales,
      guidance_base_rate=0.25 if weights.trained_at_one else 0.0,
    ),
    loss=Objective(consistency="eulerian" if weights.kind == "mfm" else "none"),
    ema=_EMA,
    steps=1,
  )
  autoencoder = index.autoencoder if index else ""
  info = DataInfo(
    shape=shape, num_classes=classes, data_std=1.0, image=False, autoencoder=autoencoder, **scale
  )
  return config, info


def _latents(weights: Weights, shape: tuple[int, ...], classes: int) -> latents.Index | None:
  """The index of the latents in weights.data, which must be such as the network takes; None of arrays."""
  folder = pathlib.Path(weights.data)
  if not weights.data or (folder / "train.npz").is_file():
    return None
  if not (folder / "train" / latents.INDEX).is_file():
    raise ValueError(
      f"--data must be a folder of latents (train/{latents.INDEX}, by experiments.prepare_latents) or of "
      f"train.npz and test.npz; got {weights.data} without either"
    )
  index = latents.read_index(folder / "train")
  for name, ours, theirs in (
    ("shape", shape, index.shape),
    ("num_classes", classes, index.num_classes),
    ("scale", weights.latent_scale, index.scale),
    ("shift", weights.latent_shift, index.shift),
  ):
    if ours != theirs:
      raise ValueError(
        f"--data must hold latents as the weights take them, of {name} {ours}; got {theirs} in {weights.data}"
      )
  return index


def read(path: str, weights: Weights, *, entry: str = "") -> tuple[RunConfig, DataInfo, dict, dict[str, Any]]:
  """Reads and checks a file: configuration, data description, parameters and a report.

  Raises:
    ValueError: what `convert` and `describe` refuse.
  """
  source = names.PUBLISHED[weights.kind]
  state = convert.read_state(path, entry=entry, source=source)
  try:
    state, prefix = convert.strip_prefix(state, weights.kind)
    config, info = describe(state, weights)
    net, unused = convert.to_params(state, weights.kind, config.model.dit)
  except ValueError as error:
    raise ValueError(f"{error}, in {path}; --kind={weights.kind} reads {source}") from error
  params = {"net": net}
  fresh = jax.eval_shape(parts(config, info).model.init, jax.random.key(0))
  if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, fresh):
    raise ValueError(f"{path} must have the parameters of its network; got others")  # a bug of this library
  report = {
    "kind": weights.kind,
    "prefix": prefix,
    "tensors": len(state),
    "unused": unused,
    "parameters": int(sum(leaf.size for leaf in jax.tree.leaves(params))),
    "shape": list(info.shape),
    "num_classes": info.num_classes,
    "params_sha256": params_sha256(params),
    "fid_published": EXPECTED.get((weights.kind, config.model.width), "") if config.model.patch == 2 else "",
  }
  return config, info, params, report


def to_run(path: str, workdir: str | pathlib.Path, weights: Weights, *, entry: str = "") -> dict[str, Any]:
  """Writes a run folder with the weights of a file; returns the report of `read`.

  Raises:
    ValueError: what `read` refuses, before anything is written; a folder that is not empty.
  """
  workdir = pathlib.Path(workdir)
  if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
    raise ValueError(f"--to must be a new or an empty folder; got {workdir}")
  config, info, params, report = read(path, weights, entry=entry)
  source = {"file": pathlib.Path(path).name, **dataclasses.asdict(weights)}
  state = create(params, optimizer.build(config.optimizer, config.steps), averages.names(config))
  with Checkpoints(workdir / "checkpoints", writable=True) as checkpoints:
    checkpoints.save(jax.tree.map(jnp.asarray, state), {}, {"converted": source})
  # Last, so that a folder that was left half done is no run.
  folder.write_config(workdir, config, info, folder.RUN)
  (workdir / "summary.json").write_text(json.dumps({**report, "converted": source}, indent=2) + "\n")
  return report


def check(path: str, weights: Weights, *, entry: str = "") -> dict[str, Any]:
  """The report of `read`, printed with its table of tensors; and draws of the network, which must be finite.

  Raises:
    ValueError: what `read` refuses.
  """
  config, info, params, report = read(path, weights, entry=entry)
  for item in names.entries(weights.kind, config.model.dit, config.model.depth):
    blocks = f" (and {len(item.names) - 1} more blocks)" if len(item.names) > 1 else ""
    print(f"{item.names[0]}{blocks} -> {'/'.join(item.path)}")
  for name in report["unused"]:
    print(f"{name}: not used")
  model = parts(config, info).model
  n = min(4, info.num_classes)
  x, label = jax.random.normal(jax.random.key(0), (n, *info.shape)), jnp.arange(n)
  cond = {"label": label}
  if weights.guidance_scales:
    cond["guidance"] = jnp.full(n, weights.guidance_scales[0])
  zero = jnp.zeros(n)
  if config.is_map:

    def sample(params, x):
      return flow_map.posterior_map(model.velocity(params), x, zero, jnp.zeros_like(x), cond)
  else:

    def sample(params, x):
      drift = flow_map.marginal_velocity(model.velocity(params))
      return integrators.ode(x, times.grid(10), lambda t, x: drift(t, x, cond))[0]

  first = jax.jit(sample)(params, x)
  if not bool(jnp.isfinite(first).all()):
    raise ValueError(f"samples of the network must be finite; got others from {path}")
  report |= {"sample_mean": float(first.mean()), "sample_rms": float(jnp.sqrt((first**2).mean()))}
  return report


def from_run(workdir: str, path: str, kind: str, *, ema: str = "") -> dict[str, Any]:
  """Writes the parameters of a run of the transformer as published weights, .safetensors.

  Raises:
    ValueError: a run of another network, or with parameters that the kind has no tensor for.
  """
  run: Run = load_run(workdir, ema=ema)
  model = run.config.model
  if model.name != "dit" or model.precondition or model.learned_weight:
    raise ValueError(
      "published weights need model.name=dit without precondition and learned_weight; got "
      f"{model.name}, {model.precondition}, {model.learned_weight}"
    )
  needed = {
    "the linear interpolant": run.config.interpolant == "linear",
    "labels": run.info.num_classes > 0,
    "square images": run.info.shape[0] == run.info.shape[1],
    "model.dit.guidance_decoder=False": kind != "mfm" or not model.dit.guidance_decoder,
  }
  for name, met in needed.items():
    if not met:
      raise ValueError(f"published {kind} weights have {name}; got a run without, {workdir}")
  if kind == "mfm" and (not run.config.draws.guidance_scales or model.dit.guidance != "table"):
    raise ValueError("mfm weights have a table of guidance: draws.guidance_scales, model.dit.guidance=table")
  grid = run.info.shape[0] // model.patch
  params = jax.device_get(run.params["net"])
  state = convert.to_state(params, kind, model.dit, patch=model.patch, grid=grid)
  scales = ",".join(map(str, run.config.draws.guidance_scales))
  about = {"params_sha256": run.sha256, "kind": kind, "guidance_scales": scales}
  convert.write_state(path, state, {**about, "encoder_depth": str(model.dit.encoder_depth)})
  return {"kind": kind, "tensors": len(state), "params_sha256": run.sha256, "out": str(path)}


def _tensor(state, name, rank):
  if name not in state or np.ndim(state[name]) != rank:
    found = np.shape(state[name]) if name in state else "none"
    raise ValueError(f"a state dict must hold {name} of {rank} axes; got {found}")
  return state[name]
