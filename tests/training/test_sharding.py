"""Rules say where arrays live; meshes and numbers of processes change nothing but that."""

import json
import os
import re
import socket
import subprocess
import sys

import fid_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_case
import sharding_case
from jax.sharding import PartitionSpec as P

from mfm_jax.training import evaluation, sharding, shares
from mfm_jax.training.config import RunConfig, from_dict, to_dict
from mfm_jax.training.sharding import MeshConfig

# The rules split every array that can be split.
SPLIT = {"mesh.min_size": 0, "batch_size": 32, "log_every": 1}
MESHES = {"data8": {}, "fsdp8": {"mesh.fsdp": 8}, "both": {"mesh.fsdp": 2}, "parts": {"accumulate": 2}}


def _environment(devices, **changes):
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
  return run_case.environment(XLA_FLAGS=flags.strip(), **changes)


def _program(folder, cases):
  cases = {name: {**SPLIT, **changes} for name, changes in cases.items()}
  return [sys.executable, sharding_case.__file__, str(folder), json.dumps(cases)]


def _run(*args, **kwargs):
  done = subprocess.run(*args, capture_output=True, text=True, check=False, **kwargs)
  assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
  folder = tmp_path_factory.mktemp("one")
  sharding_case.train(folder, {"run": SPLIT})
  return folder / "run"


def _assert_same(ours, theirs):
  """The same losses at every step, the same parameters and images, but for the order of float32 sums."""
  one, two = run_case.metrics(theirs), run_case.metrics(ours)
  assert one.keys() == two.keys()
  for name in one:
    assert two[name] == pytest.approx(one[name], rel=1e-5), name
  one, two = np.load(f"{theirs}.npz"), np.load(f"{ours}.npz")
  for name in one.files:
    assert np.abs(two[name] - one[name]).max() <= 1e-5 * np.abs(one[name]).max(), name


@pytest.mark.parametrize(
  "mesh", [name if name == "both" else pytest.param(name, marks=pytest.mark.slow) for name in MESHES]
)
def test_eight_devices_train_the_same_network_on_any_mesh(mesh, one_device, tmp_path):
  _run(_program(tmp_path, {"run": MESHES[mesh]}), env=_environment(8))
  _assert_same(tmp_path / "run", one_device)


def start_two(command, *, devices=2):
  """Two processes that join on a free port."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"

  def start(index):
    own = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)}
    return subprocess.Popen(
      command,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env=_environment(devices, **own),
      cwd=run_case.ROOT,
    )

  return [start(index) for index in range(2)]


@pytest.mark.parametrize("fsdp", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_two_processes_train_the_same_network(fsdp, one_device, tmp_path):
  processes = start_two(_program(tmp_path, {"run": {"mesh.fsdp": fsdp}}))
  said = [process.communicate(timeout=240)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], said
  assert "step 20/20" in said[0], "the primary says how it goes"
  assert "step 20/20" not in said[1], "and nobody else"
  # What fails in the primary fails in all: nobody waits for ever.
  assert "failed: division by zero" in said[0]
  assert "failed: process 0 must do its part; got an error there" in said[1]
  _assert_same(tmp_path / "run", one_device)


# ---- where a step computes ----

PROGRAM_TEXT = """
import sys
import run_case
from mfm_jax.training import dry_run, sharding, step

config = run_case.smoke({"mesh.fsdp": 8, "mesh.min_size": 0, "batch_size": 40})
mesh = sharding.make_mesh(config.mesh)
train_step, shapes = dry_run.abstract_step(config, dry_run.info_of(config), mesh)
print(step.compile_step(train_step, *shapes, mesh, config.mesh).as_text())
"""


def test_parameters_are_gathered_and_activations_stay_split_by_the_batch():
  """The compiler's own choice would be the opposite: all examples on every device, sums in every layer."""
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM_TEXT], env=_environment(8), capture_output=True, text=True, check=True
  )
  assert "all-gather" in done.stdout
  assert re.search(r"f32\[5,16\]", done.stdout), "activations of an eighth of the batch"
  assert not re.search(r"f32\[40,16\]", done.stdout), "and none of the whole batch"


# ---- one mesh to another ----

RESTORE = """
import sys, pathlib
import jax, jax.numpy as jnp, numpy as np, optax
from mfm_jax.training import evaluation, sharding, shares
from mfm_jax.training.checkpoint import Checkpoints
from mfm_jax.training.sharding import MeshConfig
from mfm_jax.training.state import create

def state_on(count):
  config = MeshConfig(fsdp=count, min_size=0)
  mesh = sharding._mesh((1, count), jax.devices()[:count])
  params = {"kernel": jax.random.normal(jax.random.key(0), (16, 64)), "bias": jnp.arange(3.0)}
  state = create(params, optax.adam(0.1), ("0.9",))
  return jax.device_put(state, sharding.by_rules(state, mesh, config))

folder = pathlib.Path(sys.argv[1])
saved = state_on(8)
assert len(saved.params["kernel"].sharding.device_set) == 8
assert saved.params["kernel"].addressable_shards[0].data.shape == (16, 8)
with Checkpoints(folder, writable=True) as checkpoints:
  checkpoints.save(saved, {}, {})
for count in (8, 4, 2, 1):
  like = state_on(count)
  with Checkpoints(folder) as checkpoints:
    found = checkpoints.restore(like).state
  for a, b, place in zip(*map(jax.tree.leaves, (found, saved, like))):
    assert a.sharding == place.sharding
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
"""


def test_a_checkpoint_of_eight_devices_is_restored_on_fewer_bit_by_bit(tmp_path):
  _run([sys.executable, "-c", RESTORE, str(tmp_path)], env=_environment(8))


# ---- rules ----


def _specs(tree, fsdp=8, **config):
  mesh = jax.sharding.AbstractMesh((1, fsdp), sharding.AXES)
  shapes = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), tree, is_leaf=lambda x: type(x) is tuple
  )
  return jax.tree.map(
    lambda place: place.spec, sharding.by_rules(shapes, mesh, MeshConfig(fsdp=fsdp, **config))
  )


def test_the_largest_axis_is_split_and_never_that_of_the_layers():
  tree = {
    "step": (),
    "blocks": {"kernel": (64, 8, 24), "bias": (64, 7)},
    "kernel": (12, 64),
    "odd": (9, 7),
    "tie": (16, 16),
  }
  assert _specs(tree, min_size=0) == {
    "step": P(),
    "blocks": {"kernel": P(None, None, "fsdp"), "bias": P()},
    "kernel": P(None, "fsdp"),
    "odd": P(),
    "tie": P("fsdp"),
  }
  assert _specs(tree, min_size=1000)["kernel"] == P()


def test_the_first_pattern_that_matches_decides():
  rules = (("kernel", "", "fsdp"), ("bias", "whole"), ("", "largest"))
  tree = {"kernel": (16, 8), "bias": (8,), "table": (8, 4)}
  expected = {"kernel": P(None, "fsdp"), "bias": P(), "table": P("fsdp")}
  assert _specs(tree, rules=rules, min_size=0) == expected


@pytest.mark.parametrize(
  ("rules", "message"),
  [
    ((("bias", "whole"),), "mesh.rules must have a pattern for every array; got none for net/kernel (16, 6)"),
    (
      (("", "", "fsdp"),),
      "must fit the arrays that they match; got ['', 'fsdp'] for net/kernel (16, 6) on {'data': 1, ",
    ),
    ((("", "fsdp"),), "must fit the arrays that they match; got ['fsdp'] for net/kernel"),
    ((("(", "whole"),), "mesh.rules must begin with a regular expression; got '('"),
    ((("kernel",),), "mesh.rules must say how after the pattern; got 'kernel' alone"),
    (
      (("", "largest", ""),),
      "largest or whole alone, or each axis of the mesh once; got ['largest', ''] after ''",
    ),
    ((("", "fsdp", "fsdp"),), "each axis of the mesh once; got ['fsdp', 'fsdp'] after ''"),
    (
      (("kernel", "model"),),
      "mesh.rules after the pattern must be one of data, fsdp, , largest, whole; got 'model'",
    ),
  ],
)
def test_rules_that_do_not_fit_are_refused(rules, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    _specs({"net": {"kernel": (16, 6)}}, rules=rules)


def test_the_mesh_must_fit_the_devices():
  with pytest.raises(ValueError, match=r"mesh\.fsdp must divide the number of devices; got 3 of"):
    sharding.make_mesh(MeshConfig(fsdp=3))
  with pytest.raises(ValueError, match="got 6 in 4 parts on 1"):
    sharding.check_batch_size(6, sharding.local_mesh(), 4)


def test_a_process_alone_has_all_rows():
  np.testing.assert_array_equal(sharding.rows_of_process(6, sharding.local_mesh()), np.arange(6))


def test_rules_survive_the_way_through_json():
  config = run_case.smoke({"mesh.rules": (("bias", "whole"), ("", "largest"))})
  assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(tmp_path, monkeypatch):
  """Every metric of pictures; the statistics are merged in float64, so figures agree to its rounding."""
  processes = start_two([sys.executable, fid_case.__file__, str(tmp_path)], devices=1)
  said = [process.communicate(timeout=240)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], said
  two = json.loads(said[0].splitlines()[-1])
  (tmp_path / "one").mkdir()
  monkeypatch.setattr(shares, "CHUNK", fid_case.CHUNK)
  monkeypatch.setattr(evaluation, "extractor", fid_case.extractor)
  one = fid_case.evaluate(tmp_path / "one")
  for name in ("images", "posterior_fid"):
    assert two[name][0] == pytest.approx(one[name][0], rel=1e-6)
  for name in ("samples", "reference"):
    with np.load(tmp_path / f"{name}.npz") as ours, np.load(tmp_path / "one" / f"{name}.npz") as theirs:
      for array in theirs.files:
        if theirs[array].dtype.kind in "fiu":
          np.testing.assert_allclose(ours[array], theirs[array], rtol=1e-12, atol=1e-15)
