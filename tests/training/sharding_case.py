"""The same trainings by one device, many, and several processes: a function, and a program for tests."""

import json
import sys

import jax
import numpy as np
import run_case

from mfm_jax.training import distributed, generate, loop, run


def train(folder, cases) -> None:
  """Trains `run_case.smoke(changes)` for each name in <folder>/<name>, and samples."""
  for name, changes in cases.items():
    loop.train(run_case.smoke(changes), f"{folder}/{name}")
    trained = run.load_run(f"{folder}/{name}", ema="raw")
    images = generate.marginal_samples(trained, jax.random.key(0), num=2500, steps=2)
    if distributed.is_primary():
      leaves = {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(trained.params))}
      np.savez(f"{folder}/{name}.npz", images=images, **leaves)


def _apart(sizes, axes, *, devices, **kwargs):
  """A mesh of all processes as on a TPU pod, where one along the wires has the devices of a host apart."""
  every = jax.local_device_count() if len(devices) > jax.local_device_count() else 1
  return _make_mesh(sizes, axes, devices=[d for i in range(every) for d in devices[i::every]], **kwargs)


if __name__ == "__main__":
  distributed.join()
  if jax.process_count() > 1:
    _make_mesh, jax.make_mesh = jax.make_mesh, _apart
    try:
      distributed.on_primary(lambda: 1 / 0)
    except (ZeroDivisionError, OSError) as error:
      print(f"failed: {error}", flush=True)
  train(sys.argv[1], json.loads(sys.argv[2]))
