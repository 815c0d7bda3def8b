"""Published state dicts there and back, all kinds, and everything that must be refused."""

import argparse
import dataclasses

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import convert
from mfm_jax.data import datasets, latents
from mfm_jax.finetuning.draws import FTDrawConfig
from mfm_jax.models import dit
from mfm_jax.models.dit import DiTConfig
from mfm_jax.training import converted, steered, subject
from mfm_jax.training.converted import Weights
from mfm_jax.training.finetune import finetune
from mfm_jax.training.finetune_config import FinetuneConfig
from mfm_jax.training.run import load_run
from mfm_jax.training.steer_config import MethodConfig, RewardConfig, SteerConfig

WIDTH, DEPTH, PATCH, GRID, CHANNELS, CLASSES = 16, 3, 2, 2, 3, 5


def flow_state(kind="sit", seed=0):
  """A random state dict of the architecture of SiT, REPA and DMF."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  state = {"pos_embed": dit.sincos_positions(GRID, GRID, WIDTH)[None]}
  outputs = PATCH**2 * CHANNELS * (2 if kind == "sit" else 1)

  def linear(name, out, into):
    state[f"{name}.weight"], state[f"{name}.bias"] = normal(out, into), normal(out)

  state["x_embedder.proj.weight"] = normal(WIDTH, CHANNELS, PATCH, PATCH)
  state["x_embedder.proj.bias"] = normal(WIDTH)
  linear("t_embedder.mlp.0", WIDTH, 256)
  linear("t_embedder.mlp.2", WIDTH, WIDTH)
  state["y_embedder.embedding_table.weight"] = normal(CLASSES + 1, WIDTH)
  for i in range(DEPTH):
    linear(f"blocks.{i}.attn.qkv", 3 * WIDTH, WIDTH)
    linear(f"blocks.{i}.attn.proj", WIDTH, WIDTH)
    linear(f"blocks.{i}.mlp.fc1", 4 * WIDTH, WIDTH)
    linear(f"blocks.{i}.mlp.fc2", WIDTH, 4 * WIDTH)
    linear(f"blocks.{i}.adaLN_modulation.1", 6 * WIDTH, WIDTH)
  linear("final_layer.linear", outputs, WIDTH)
  linear("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
  if kind == "repa":
    linear("projectors.0.0", 8, WIDTH)
  return state


def equal(ours, theirs):
  assert set(ours) == set(theirs)
  for name, value in theirs.items():
    assert ours[name].dtype == value.dtype
    np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.golden_files("A_", "_weights")
def test_a_published_map_goes_there_and_back_bit_by_bit(golden, case):
  state, prefix = convert.strip_prefix(golden(f"A_{case}_weights"), "mfm")
  assert prefix == "model.dit."
  sizes = golden.json("configs")[case]["dit"]
  config = golden_case.model_config(golden, case).dit
  params, unused = convert.to_params(state, "mfm", config)
  assert unused == []
  grid = sizes["input_size"] // sizes["patch_size"]
  equal(convert.to_state(params, "mfm", config, patch=sizes["patch_size"], grid=grid), state)


@pytest.mark.parametrize("kind", ["sit", "repa", "dmf"])
def test_a_flow_goes_there_and_back_bit_by_bit(kind):
  state = flow_state(kind)
  config = DiTConfig(learn_sigma=kind == "sit")
  params, unused = convert.to_params(state, kind, config)
  assert unused == (["projectors.0.0.bias", "projectors.0.0.weight"] if kind == "repa" else [])
  kept = {name: value for name, value in state.items() if name not in unused}
  equal(convert.to_state(params, kind, config, patch=PATCH, grid=GRID), kept)


@pytest.mark.parametrize("prefix", ["", "module.", "model.model.dit."])
def test_prefixes_of_training_programs_are_taken_away(prefix):
  state = flow_state()
  found, taken = convert.strip_prefix({f"{prefix}{name}": value for name, value in state.items()}, "sit")
  assert taken == prefix
  equal(found, state)


def without(state, name):
  return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda s: without(s, "blocks.1.mlp.fc2.bias"), "must hold blocks.1.mlp.fc2.bias; got none"),
    (lambda s: without(s, "pos_embed"), "must hold pos_embed; got none"),
    (lambda s: {**s, "blocks.0.extra": np.ones(2)}, "nothing but its .* tensors; got blocks.0.extra"),
    (
      lambda s: {**s, "blocks.2.attn.qkv.weight": np.ones((16, 48), np.float32)},
      r"blocks.2.attn.qkv.weight must have shape \(48, 16\); got \(16, 48\)",
    ),
    (lambda s: {**s, "pos_embed": s["pos_embed"] + 1e-3}, "pos_embed must be the fixed table"),
    (
      lambda s: {**s, "t_embedder.mlp.0.weight": np.ones((16, 128), np.float32)},
      r"t_embedder.mlp.0.weight must have shape \(16, 256\); got \(16, 128\)",
    ),
  ],
)
def test_a_state_dict_that_does_not_fit_is_refused_by_name(change, message):
  with pytest.raises(ValueError, match=message):
    convert.to_params(change(flow_state()), "sit", DiTConfig(learn_sigma=True))


def test_names_that_share_no_prefix_are_refused():
  state = {f"model.{name}": value for name, value in flow_state().items()}
  with pytest.raises(ValueError, match=r"every name must start with 'model.', as .* does; got head.weight"):
    convert.strip_prefix({**state, "head.weight": np.ones(1)}, "sit")
  with pytest.raises(ValueError, match=r"a sit state dict must hold x_embedder.proj.weight; got none"):
    convert.strip_prefix({}, "sit")


def test_a_map_is_no_flow(golden):
  config = golden_case.model_config(golden, "base").dit
  _, params = golden_case.model(golden, "base")
  with pytest.raises(ValueError, match="start and end_decoder must be equal"):
    convert.to_state(params["net"], "dmf", config, patch=2, grid=4)


def test_a_flow_is_the_function_of_its_weights_and_starts_a_map_unchanged():
  """One embedding of time in both parts; the context does nothing until it has been trained."""
  params, _ = convert.to_params(flow_state("dmf"), "dmf", DiTConfig())
  net = dit.DiT(WIDTH, DEPTH, 2, PATCH, CLASSES, config=DiTConfig(encoder_depth=2))
  rng = np.random.default_rng(1)
  s, u, t = (jnp.asarray(rng.uniform(size=4), jnp.float32) for _ in range(3))
  x, x_t = (jnp.asarray(rng.normal(size=(4, 4, 4, 3)), jnp.float32) for _ in range(2))
  label = jnp.arange(4)

  def apply(params, s, u, t, x_t):
    return net.apply({"params": params}, s, u, x, t, x_t, label, None)

  value = apply(params, s, u, t, x_t)
  np.testing.assert_allclose(apply(params, s, u, 0 * t, 0 * x_t), value, rtol=1e-5)
  assert jnp.abs(apply(params, s, s, t, x_t) - value).max() > 1e-3  # u is seen, by the decoder
  started = dit.with_context(params)
  np.testing.assert_allclose(apply(started, s, u, t, x_t), value, rtol=1e-5)
  preserved = dataclasses.replace(net, config=dataclasses.replace(net.config, preserve_at_zero=True))
  kept = {"params": dit.with_context(params, preserve_at_zero=True)}
  np.testing.assert_allclose(preserved.apply(kept, s, u, x, t, x_t, label, None), value, rtol=1e-5)


@pytest.mark.slow
def test_every_embedding_of_a_start_comes_alive():
  """Two zero factors in a row would never: after two steps each tensor has had a gradient."""
  params, _ = convert.to_params(flow_state("dmf"), "dmf", DiTConfig())
  params = jax.tree.map(jnp.asarray, dit.with_context(params))
  net = dit.DiT(WIDTH, DEPTH, 2, PATCH, CLASSES, config=DiTConfig(encoder_depth=2))
  rng = np.random.default_rng(1)
  s, u, t = (jnp.asarray(rng.uniform(size=4), jnp.float32) for _ in range(3))
  x, x_t = (jnp.asarray(rng.normal(size=(4, 4, 4, 3)), jnp.float32) for _ in range(2))
  loss = lambda p: jnp.mean(net.apply({"params": p}, s, u, x, t, x_t, jnp.arange(4), None) ** 2)  # noqa: E731
  seen = jax.tree.map(jnp.zeros_like, params)
  for _ in range(3):
    gradient = jax.grad(loss)(params)
    seen = jax.tree.map(lambda a, g: a + jnp.abs(g), seen, gradient)
    params = jax.tree.map(lambda p, g: p - 1e-3 * jnp.sign(g), params, gradient)
  for path, leaf in jax.tree_util.tree_leaves_with_path(seen):
    assert leaf.max() > 0, jax.tree_util.keystr(path)


def save(path, state):
  convert.write_state(path, state, {"made": "by a test"})
  return str(path)


def test_a_converted_run_has_what_the_tensors_say(tmp_path):
  file = save(tmp_path / "w.safetensors", {f"module.{k}": v for k, v in flow_state("repa").items()})
  report = converted.to_run(file, tmp_path / "run", Weights(kind="repa", heads=2, latent_shift=0.25))
  run = load_run(tmp_path / "run")
  assert run.sha256 == report["params_sha256"]
  assert (run.info.shape, run.info.num_classes, run.config.is_map) == ((4, 4, 3), CLASSES, False)
  assert (run.config.data.latent_scale, run.config.data.latent_shift) == (0.18215, 0.25)
  model = run.config.model
  assert (model.width, model.depth, model.heads, model.patch) == (WIDTH, DEPTH, 2, PATCH)
  assert model.dit.reverse_time
  assert report["unused"] == ["projectors.0.0.bias", "projectors.0.0.weight"]
  out = tmp_path / "back.safetensors"
  converted.from_run(str(tmp_path / "run"), str(out), "repa")
  back = convert.read_state(out)
  equal(back, {k: v for k, v in flow_state("repa").items() if not k.startswith("projectors")})
  with pytest.raises(ValueError, match=r"weights must go to a new file; .*back.safetensors is there"):
    converted.from_run(str(tmp_path / "run"), str(out), "repa")
  with pytest.raises(ValueError, match="--to must be a new or an empty folder"):
    converted.to_run(file, tmp_path / "run", Weights(kind="repa", heads=2))
  with pytest.raises(ValueError, match=r"data.path must name a folder with train.npz and test.npz"):
    datasets.load(run.config.data)


def test_weights_of_a_map_are_used_at_their_scales_alone(golden, tmp_path):
  file = save(tmp_path / "w.safetensors", golden("A_base_weights"))
  sizes = golden.json("configs")["base"]["dit"]
  scales = tuple(sizes["model_guidance_class_ws"])
  weights = Weights(
    kind="mfm", heads=sizes["num_heads"], encoder_depth=sizes["encoder_depth"], guidance_scales=scales
  )
  converted.to_run(file, tmp_path / "run", weights)
  run = load_run(tmp_path / "run")
  assert run.scales == scales
  with pytest.raises(ValueError, match=r"a scale the run was trained with \(.*\); got 1.0"):
    run.cond(np.zeros(2), 1.0, 2)
  label = jnp.asarray([0, sizes["label_dim"]])
  np.testing.assert_array_equal(run.cond(label, None, 2)["guidance"], [scales[0], 1.0])
  at_one = dataclasses.replace(weights, trained_at_one=True)
  converted.to_run(file, tmp_path / "other", at_one)
  assert load_run(tmp_path / "other").scales == (1.0, *scales)
  for changes, message in (
    ({"guidance_scales": ()}, "--guidance_scales must name the 1 scales beside 1 of the guidance table"),
    ({"heads": 0}, "--heads must be given for width"),
    ({"heads": 7}, "--heads must divide the width of"),
    ({"encoder_depth": 0}, "--encoder_depth must be given for width"),
  ):
    with pytest.raises(ValueError, match=message):
      converted.read(file, dataclasses.replace(weights, **changes))
  report = converted.check(file, weights)
  assert np.isfinite(report["sample_rms"])


def test_a_converted_flow_has_the_latents_that_it_is_given(tmp_path):
  file, weights = save(tmp_path / "w.safetensors", flow_state()), Weights(kind="sit", heads=2)
  index = latents.Index(
    split="train",
    examples=4,
    num_classes=CLASSES,
    shape=(GRID * PATCH, GRID * PATCH, CHANNELS),
    flips=False,
    shard_size=4,
    size=32,
    source="noise",
    autoencoder="abc",
    scale=weights.latent_scale,
    shift=weights.latent_shift,
  )
  moments = np.random.default_rng(0).normal(size=(4, 1, *index.shape[:2], 2 * CHANNELS)).astype(np.float32)
  for split in ("train", "test"):
    part = dataclasses.replace(index, split=split)
    latents.write_index(tmp_path / "latents" / split, part)
    latents.write_shard(tmp_path / "latents" / split, part, 0, [(np.arange(4) % CLASSES, moments)])
  weights = dataclasses.replace(weights, data=str(tmp_path / "latents"))
  converted.to_run(file, tmp_path / "run", weights)
  run = load_run(tmp_path / "run")
  found = datasets.load(run.config.data)
  assert (found.shape, found.num_classes) == (run.info.shape, run.info.num_classes)
  facts = ("latent_scale", "latent_shift", "autoencoder")
  assert [getattr(found, name) for name in facts] == [getattr(run.info, name) for name in facts]
  for changes, message in (
    ({"latent_scale": 0.5}, "--data must hold latents as the weights take them, of scale 0.5; got 0.18215"),
    ({"latent_shift": 1.0}, "of shift 1.0; got 0.0"),
    ({"data": str(tmp_path)}, r"--data must be a folder of latents \(train/index.json, .*\) or of train.npz"),
  ):
    with pytest.raises(ValueError, match=message):
      converted.read(file, dataclasses.replace(weights, **changes))


@pytest.mark.slow
def test_a_converted_map_is_steered_and_fine_tuned_by_a_reward_on_latents(golden, tmp_path):
  sizes = golden.json("configs")["base"]["dit"]
  shape = (sizes["input_size"], sizes["input_size"], sizes["in_channels"])
  rng = np.random.default_rng(0)
  for split in ("train", "test"):
    x1 = rng.normal(size=(16, *shape)).astype(np.float32)
    np.savez(tmp_path / f"{split}.npz", x1=x1, label=np.arange(16) % sizes["label_dim"])
  weights = Weights(
    kind="mfm",
    heads=sizes["num_heads"],
    encoder_depth=sizes["encoder_depth"],
    guidance_scales=tuple(sizes["model_guidance_class_ws"]),
    data=str(tmp_path),
  )
  file = save(tmp_path / "w.safetensors", golden("A_base_weights"))
  converted.to_run(file, tmp_path / "run", weights)
  run, size = load_run(tmp_path / "run"), int(np.prod(shape))
  reward = RewardConfig(name="quadratic", centre=(0.0,) * size, sigma=4.0)
  config = SteerConfig(steps=2, num=4, reward=reward, mfm_gf=MethodConfig(draws=2))
  scale = weights.guidance_scales[0]
  what = subject.from_run(run, label=1, guidance=scale)
  steer = steered.Method(what, config.build_reward(), config, "mfm_gf", num=4)
  assert np.isfinite(steer(jax.random.key(0)).x1).all()
  with pytest.raises(ValueError, match="guidance must be a scale the run was trained with"):
    subject.from_run(run, label=1, guidance=scale + 1)
  tuning = FinetuneConfig(
    base=str(tmp_path / "run"),
    reward=reward,
    draws=FTDrawConfig(guidance=scale, per_state=2),
    steps=2,
    batch_size=4,
    eval_num=4,
    eval_every=0,
  )
  finetune(tuning, tmp_path / "tuned")
  tuned = load_run(tmp_path / "tuned")
  assert (tuned.scales, tuned.config.is_map) == ((scale,), False)


def test_a_norm_of_another_head_size_is_refused_by_name(golden):
  state, _ = convert.strip_prefix(golden("A_qk_norm_weights"), "mfm")
  sizes = golden.json("configs")["qk_norm"]["dit"]
  weights = {"kind": "mfm", "guidance_scales": tuple(sizes["model_guidance_class_ws"])}
  weights |= {"encoder_depth": sizes["encoder_depth"]}
  heads, size = sizes["num_heads"], sizes["hidden_size"] // sizes["num_heads"]
  converted.describe(state, Weights(heads=heads, **weights))
  for found, how in (
    (state, {"heads": 2 * heads}),
    ({**state, "blocks.0.attn.q_norm.scale": np.ones(size + 1)}, {"heads": heads}),
  ):
    with pytest.raises(ValueError, match=r"blocks.0.attn.q_norm.scale must have shape"):
      converted.describe(found, Weights(**how, **weights))


def test_what_is_no_file_of_weights_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"--from must name a file of weights; got .*: no such file"):
    convert.read_state(tmp_path / "none.pt")
  (tmp_path / "w.txt").write_text("no weights")
  with pytest.raises(ValueError, match=r"--from must end in .safetensors, .pt, .pth, .ckpt"):
    convert.read_state(tmp_path / "w.txt")
  (tmp_path / "w.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0damaged!")
  with pytest.raises(ValueError, match=r"w.safetensors must be a safetensors file"):
    convert.read_state(tmp_path / "w.safetensors")
  for call, message in (
    (lambda: Weights(kind="adm"), "--kind must be one of mfm, dmf, sit, repa; got 'adm'"),
    (lambda: Weights(kind="sit", guidance_scales=(2.0,)), "--guidance_scales must be absent for sit weights"),
    (lambda: Weights(kind="mfm", guidance_scales=(4.0, 2.0)), "--guidance_scales must ascend from above 1"),
  ):
    with pytest.raises(ValueError, match=message):
      call()


def test_checkpoints_of_pytorch_without_unpickling(tmp_path):
  torch = pytest.importorskip("torch", reason="needs PyTorch, the extra `torch`")
  state = flow_state()
  tensors = {name: torch.from_numpy(value.copy()) for name, value in state.items()}
  half = {name: value.to(torch.bfloat16) for name, value in tensors.items()}
  both = {"model": half, "ema": tensors, "args": argparse.Namespace(lr=1.0), "opt": {"step": 3}}
  torch.save(both, tmp_path / "w.pt")
  equal(convert.read_state(tmp_path / "w.pt"), state)
  rounded = convert.read_state(tmp_path / "w.pt", entry="model")
  assert rounded["pos_embed"].dtype == np.float32
  convert.to_params(rounded, "sit", DiTConfig(learn_sigma=True))
  with pytest.raises(ValueError, match=r"--entry must be one of model, ema of .*; got 'none'"):
    convert.read_state(tmp_path / "w.pt", entry="none")
  torch.save({"model": tensors, "code": print}, tmp_path / "bad.pt")
  with pytest.raises(ValueError, match=r"bad.pt must be a checkpoint of tensors alone"):
    convert.read_state(tmp_path / "bad.pt")
