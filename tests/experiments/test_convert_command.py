"""experiments.convert as a user starts it: there, in use, and back."""

import numpy as np
import pytest
from test_cli_docs import _table

from mfm_jax import convert


@pytest.fixture(scope="module")
def weights(golden, tmp_path_factory):
  """(file, flags that tell what it does not say) of a published map."""
  path = tmp_path_factory.mktemp("weights") / "w.safetensors"
  convert.write_state(path, golden("A_base_weights"), {})
  sizes = golden.json("configs")["base"]["dit"]
  scales = ",".join(map(str, sizes["model_guidance_class_ws"]))
  flags = [f"--heads={sizes['num_heads']}", f"--encoder_depth={sizes['encoder_depth']}"]
  return path, [*flags, "--kind=mfm", f"--guidance_scales={scales}"]


def test_a_converted_run_is_sampled_steered_and_converted_back(weights, golden, commands, tmp_path):
  path, flags = weights
  checked = commands("convert", f"--from={path}", *flags, "--check")
  assert "blocks.0.attn.qkv.weight (and " in checked.out
  run = tmp_path / "run"
  done = commands("convert", f"--from={path}", f"--to={run}", *flags)
  assert set(done.json) == set(_table("convert", "JSON key"))
  assert set(checked.json) - set(done.json) == {"sample_mean", "sample_rms"}
  sampled = commands("sample", f"--workdir={run}", "--num=4", "--steps=2").json
  assert sampled["shape"][0] == 4
  wrong = commands("sample", f"--workdir={run}", "--num=4", "--guidance=1.7")
  assert wrong.status == 2
  assert "guidance must be a scale the run was trained with" in wrong.err
  back = tmp_path / "back.safetensors"
  commands("convert", f"--from={run}", f"--to={back}", "--kind=mfm").json  # noqa: B018
  found, _ = convert.strip_prefix(golden("A_base_weights"), "mfm")
  returned = convert.read_state(back)
  assert set(returned) == set(found)
  for name, value in returned.items():
    np.testing.assert_array_equal(value, found[name])


def test_mistakes_are_one_line(weights, commands, tmp_path):
  path, flags = weights
  for arguments, message in (
    (["--kind=mfm"], "--from must be given"),
    ([f"--from={path}", *flags], "--to must name a run folder or a .safetensors file"),
    ([f"--from={path}", "--kind=sit", "--heads=4", "--check"], "must hold nothing but its"),
  ):
    done = commands("convert", *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: ") and message in done.err  # noqa: PT018
