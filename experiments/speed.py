"""The part of `experiments.benchmark` that times: --suite=throughput with the --config of a training.

python -m experiments.benchmark --suite=throughput --config=experiments/configs/digits.py --out=a.json
python -m experiments.benchmark --suite=throughput --config=experiments/configs/digits.py --compare=a.json
"""

import json
from typing import Any

from absl import flags

from mfm_jax.training import throughput
from mfm_jax.training.config import RunConfig
from mfm_jax.training.throughput import ThroughputConfig
from mfm_jax.viz.files import write_atomically
from mfm_jax.viz.tables import text_table

_OUT = flags.DEFINE_string("out", "", "JSON file for the figures of --suite=throughput.")
_COMPARE = flags.DEFINE_string("compare", "", "JSON file of an earlier --suite=throughput: prints ratios.")
_REPEATS = flags.DEFINE_integer("repeats", 20, "Timed calls of each program.")
_CONSISTENCY = flags.DEFINE_list("consistency", [], "Forms to train with; default the configuration's own.")
_METHODS = flags.DEFINE_list("methods", [], "Steering methods to time: base, dps, mfm_gf, mfm_g, hybrid.")
_DRAWS = flags.DEFINE_list("draws", ["4", "16"], "N of the steering methods.")
_ROWS = flags.DEFINE_integer("rows", 0, "Samples steered at once; 0: the batch size.")
_PEAK = flags.DEFINE_float("peak_tflops", 0.0, "Of one device; 0: from its name.")


def main(config: RunConfig) -> dict[str, Any]:
  """Times training and steering; returns the figures."""
  what = ThroughputConfig(
    repeats=_REPEATS.value,
    consistency=tuple(_CONSISTENCY.value),
    methods=tuple(_METHODS.value),
    draws=tuple(map(int, _DRAWS.value)),
    rows=_ROWS.value,
    peak=_PEAK.value,
  )
  found = throughput.throughput(config, what)
  columns = ("name", "seconds_compile", "seconds", "images", "tflops")
  print(
    text_table(found["device"], [{name: row[name] for name in columns} for row in found["rows"]]), flush=True
  )
  if _COMPARE.value:
    found["compared"] = throughput.compare(found, _COMPARE.value)
  if _OUT.value:
    write_atomically(_OUT.value, (json.dumps(found, indent=2) + "\n").encode())
  return found
