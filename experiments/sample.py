"""Samples from a trained run: the data law, or posteriors of noisy states; writes .npz and a picture.

python -m experiments.sample --workdir=runs/digits --steps=4 --num=80
python -m experiments.sample --workdir=runs/digits --mode=posterior --t=0.4 --num=16
python -m experiments.sample --workdir=runs/digits --mode=posterior --contexts=my_states.npz
"""

import pathlib
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import cli
from mfm_jax.training import decoding, distributed, generate, showcase
from mfm_jax.training.run import load_run

_WORKDIR = flags.DEFINE_string("workdir", "", "Run folder.")
_MODE = flags.DEFINE_enum("mode", "marginal", ["marginal", "posterior"], "What to sample.")
_SAMPLER = flags.DEFINE_enum(
  "sampler", "", ["", "map", "ode", "sde", "glass"], "Marginal: map, ode, sde; posterior: map, glass."
)
_STEPS = flags.DEFINE_integer("steps", 0, "Steps of the sampler; 0 for its default.")
_NUM = flags.DEFINE_integer("num", 64, "Samples, or draws a context.")
_T = flags.DEFINE_float("t", 0.4, "Time of the contexts made from held-out examples.")
_CONTEXTS = flags.DEFINE_string("contexts", "", ".npz with x_t (n, ...), t (n,), optional label.")
_NUM_CONTEXTS = flags.DEFINE_integer(
  "num_contexts", 8, "Held-out contexts without --contexts.", lower_bound=1
)
_LABEL = flags.DEFINE_integer("label", -1, "Class; -1: all in turn, or none (posterior).", lower_bound=-1)
_GUIDANCE = flags.DEFINE_float("guidance", None, "Guidance scale, one the run was trained with.")
_EMA = flags.DEFINE_string("ema", "", "Average: its decay, raw or power:<length>; default the longest.")
_VAE = flags.DEFINE_string("vae", "", "Autoencoder of a run on latents, to write samples as pictures too.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed.")
_OUT = flags.DEFINE_string("out", "", "The .npz; default samples/<mode>.npz in the run folder.")


def main():
  """Samples, writes, returns counts and seconds."""
  run = load_run(_WORKDIR.value, ema=_EMA.value)
  decode = decoding.decoder(decoding.read_vae(_VAE.value), run.info) if _VAE.value else None
  out = pathlib.Path(_OUT.value or run.workdir / "samples" / f"{_MODE.value}.npz")
  if out.suffix != ".npz":
    raise ValueError(f"--out must end in .npz; got {out}")
  key, key_context = jax.random.split(jax.random.key(_SEED.value))
  how: dict[str, Any] = {"sampler": _SAMPLER.value, "steps": _STEPS.value, "guidance": _GUIDANCE.value}
  start = time.monotonic()
  if _MODE.value == "marginal":
    label = showcase.labels(run, _NUM.value, _LABEL.value)
    arrays = {"x1": generate.marginal_samples(run, key, num=_NUM.value, label=label, **how)}
  else:
    if _CONTEXTS.value:
      arrays = generate.read_contexts(_CONTEXTS.value, run)
    else:
      arrays = generate.test_contexts(run, key_context, _T.value, _NUM_CONTEXTS.value)
      arrays.pop("label")
    x_t, t, label = arrays["x_t"], arrays["t"], arrays.get("label")
    if _LABEL.value >= 0:
      label = np.full(len(t), _LABEL.value)
    x1 = generate.posterior_samples(run, key, t, x_t, num=_NUM.value, label=label, **how)
    arrays = {"x_t": x_t, "t": t, "x1": x1}
  if label is not None:
    arrays["label"] = label
  picture = showcase.write(out, arrays, run, decode) if distributed.is_primary() else None
  return {
    "out": str(out),
    "picture": str(picture or ""),
    "mode": _MODE.value,
    "shape": list(arrays["x1"].shape),
    "step": run.step,
    "ema": run.ema,
    "seconds": round(time.monotonic() - start, 2),
  }


if __name__ == "__main__":
  cli.run(main, processes=True)
