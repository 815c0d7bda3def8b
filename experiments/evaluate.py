"""Posterior and value fidelity of a trained map, its use of every input, and the FID suite, as tables.

python -m experiments.evaluate --workdir=runs/gmm --metrics=posterior,value
python -m experiments.evaluate --workdir=runs/cifar10 --metrics=fid,is --inception=<weights>
python -m experiments.evaluate --samples=batch.npz --reference=VIRTUAL_imagenet256_labeled.npz --metrics=fid \
  --inception=<weights>
"""

import dataclasses
import json
from typing import Any

from absl import flags

from experiments import cli
from mfm_jax.metrics.reference import CROPS
from mfm_jax.metrics.samples import ROUNDINGS
from mfm_jax.models.inception import CONVENTIONS
from mfm_jax.training import decoding, distributed, evaluation
from mfm_jax.training.evaluation import ImageConfig
from mfm_jax.training.run import load_run
from mfm_jax.viz.files import write_atomically
from mfm_jax.viz.tables import text_table

_WORKDIR = flags.DEFINE_string("workdir", "", "Run folder.")
_METRICS = flags.DEFINE_list("metrics", ["posterior"], f"Of {', '.join(evaluation.METRICS)}.")
_CONTEXTS = flags.DEFINE_integer("contexts", 0, "Noisy states at each t; 0: default.", lower_bound=0)
_DRAWS = flags.DEFINE_integer("draws", 0, "Posterior draws a context; 0: default.", lower_bound=0)
_STEPS = flags.DEFINE_integer("steps", 0, "Jumps of the map, or steps of a flow; 0: default.", lower_bound=0)
_TIMES = flags.DEFINE_list("times", [], "Values of t; default those of the paper's tables.")
_EMA = flags.DEFINE_string("ema", "", "Decay of the average, raw for none; default the longest.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed.")
_GUIDANCE = flags.DEFINE_float("guidance", None, "FID suite: guidance scale of the samples, a trained one.")
_VAE = flags.DEFINE_string("vae", "", "Of a run on latents: folder or .safetensors file of the autoencoder.")
_SAMPLES = flags.DEFINE_string("samples", "", "FID suite: .npz of pictures (arr_0) in place of a run.")
# The fields of ImageConfig, by name.
flags.DEFINE_string("inception", "", "FID suite: weights of the Inception network, .pth or .safetensors.")
flags.DEFINE_string("reference", "data", "FID suite: .npz of statistics or pictures; data: the run's own.")
flags.DEFINE_enum("split", "train", ["train", "test"], "FID suite: of the run's data.")
flags.DEFINE_enum("convention", "adm", CONVENTIONS, "FID suite: whose resize and scaling of pictures.")
flags.DEFINE_enum("rounding", "nearest", ROUNDINGS, "FID suite: of samples to bytes.")
flags.DEFINE_enum("crop", "", ["", *CROPS], "FID suite: of the source pictures; default the data's.")
flags.DEFINE_integer("num", 50_000, "FID suite: samples.", lower_bound=2)
flags.DEFINE_bool("few", False, "FID suite: allow fewer samples than dimensions of the features.")
flags.DEFINE_integer("splits", 10, "FID suite: parts of the Inception Score.", lower_bound=1)
flags.DEFINE_integer("subset", 1000, "FID suite: size of a subset of KID.", lower_bound=2)
flags.DEFINE_string("write_samples", "", "FID suite: .npz to write the samples to, for ADM's evaluator.")
flags.DEFINE_string("write_reference", "", "FID suite: .npz to write the reference's statistics to.")


def main():
  """Evaluates, prints tables, writes evaluation.json into the run folder."""
  run = None if _SAMPLES.value and not _WORKDIR.value else load_run(_WORKDIR.value, ema=_EMA.value)
  own: dict[str, Any] = {f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(ImageConfig)}
  found = evaluation.evaluate(
    run,
    _METRICS.value,
    ImageConfig(**own),
    sample_file=_SAMPLES.value,
    guidance=_GUIDANCE.value,
    decode=decoding.decoder(decoding.read_vae(_VAE.value), run.info) if run and _VAE.value else None,
    seed=_SEED.value,
    contexts=_CONTEXTS.value,
    draws=_DRAWS.value,
    steps=_STEPS.value,
    times=[float(t) for t in _TIMES.value],
  )
  for name, rows in found.items() if distributed.is_primary() else ():
    print(text_table(name, [rows] if isinstance(rows, dict) else rows))
  if run is None:
    return {"samples": _SAMPLES.value, **found}
  result = {"step": run.step, "ema": run.ema, **found}
  content = (json.dumps(result, indent=2) + "\n").encode()
  distributed.on_primary(lambda: write_atomically(run.workdir / "evaluation.json", content))
  return result


if __name__ == "__main__":
  cli.run(main, processes=True)
