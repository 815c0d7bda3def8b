"""Sampling, steering and fine-tuning a loaded run on several devices: no different from one."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import run_case

from mfm_jax.rewards import likelihoods
from mfm_jax.training import generate, steered, subject
from mfm_jax.training.run import load_run
from mfm_jax.training.steer_config import MethodConfig, SteerConfig

NAMES = ("mfm_gf",)
_PROGRAM = """
import sys
import jax
import numpy as np
import test_steered_devices
from mfm_jax.training.finetune import finetune
from mfm_jax.training.finetune_config import FinetuneConfig

assert jax.device_count() == 4
base, out = sys.argv[1:]
np.savez(f"{out}/x1.npz", **test_steered_devices.steer(base))
finetune(FinetuneConfig(base=base, steps=2, batch_size=16, eval_num=32), f"{out}/tuned")
"""


def steer(folder):
  run = load_run(folder)
  config = SteerConfig(steps=4, num=8, rows=16, mfm_gf=MethodConfig(draws=4))
  what, reward = subject.from_run(run), likelihoods.broad_quadratic()
  out = {name: steered.Method(what, reward, config, name, num=8)(jax.random.key(0)).x1 for name in NAMES}
  context = {"t": np.full(8, 0.4), "x_t": np.linspace(-1.0, 1.0, 16).reshape(8, 2)}
  out["marginal"] = generate.marginal_samples(run, jax.random.key(1), num=8)
  out["posterior"] = generate.posterior_samples(run, jax.random.key(2), **context, num=3)
  return out


@pytest.mark.slow
def test_several_devices(finished, tmp_path):
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
  environment = run_case.environment(XLA_FLAGS=flags)
  environment["PYTHONPATH"] += f":{run_case.ROOT / 'tests' / 'training'}"
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM, str(finished), str(tmp_path)],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "tuned" / "summary.json").exists()
  alone = steer(finished)
  with np.load(tmp_path / "x1.npz") as found:
    for name, x1 in alone.items():
      np.testing.assert_allclose(found[name], x1, rtol=1e-3, atol=1e-3)
