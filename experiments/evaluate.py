"""Posterior and value fidelity of a trained map, and its use of every input, as tables.

python -m experiments.evaluate --workdir=runs/gmm --metrics=posterior,value
"""

import json

from absl import flags

from experiments import cli
from mfm_jax.training import fidelity
from mfm_jax.training.run import load_run
from mfm_jax.viz.tables import text_table

_WORKDIR = flags.DEFINE_string("workdir", "", "Run folder.")
_METRICS = flags.DEFINE_list("metrics", ["posterior"], "Of posterior, value, conditioning.")
_CONTEXTS = flags.DEFINE_integer("contexts", 0, "Noisy states at each t; 0: default.", lower_bound=0)
_DRAWS = flags.DEFINE_integer("draws", 0, "Posterior draws a context; 0: default.", lower_bound=0)
_STEPS = flags.DEFINE_integer("steps", 1, "Jumps of the map.", lower_bound=1)
_TIMES = flags.DEFINE_list("times", [], "Values of t; default those of the paper's tables.")
_EMA = flags.DEFINE_string("ema", "", "Decay of the average, raw for none; default the longest.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed.")


def main():
  """Evaluates, prints tables, writes evaluation.json into the run folder."""
  run = load_run(_WORKDIR.value, ema=_EMA.value)
  tables = fidelity.evaluate(
    run,
    _METRICS.value,
    seed=_SEED.value,
    contexts=_CONTEXTS.value,
    draws=_DRAWS.value,
    steps=_STEPS.value,
    times=[float(t) for t in _TIMES.value],
  )
  for name, rows in tables.items():
    print(text_table(name, rows))
  result = {"step": run.step, "ema": run.ema, **tables}
  (run.workdir / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
  return result


if __name__ == "__main__":
  cli.run(main)
