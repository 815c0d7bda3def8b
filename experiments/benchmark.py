"""One experiment of the paper, or of our own, from training to table and figure; the same command goes on.

python -m experiments.benchmark --suite=gmm --workdir=runs/benchmark_gmm
python -m experiments.benchmark --suite=gmm --oracle --workdir=runs/benchmark_gmm_oracle
python -m experiments.benchmark --suite=mnist_cpu --workdir=runs/benchmark_mnist
python -m experiments.benchmark --suite=imagenet_fid --run=runs/imagenet_xl2 --workdir=runs/benchmark_fid
python -m experiments.benchmark --suite=throughput --config=experiments/configs/imagenet_b2.py --out=b.json

The last times the train step of any configuration, with --methods steering by its network too.
"""

import itertools

from absl import flags

from experiments import cli, speed
from experiments.config_names import CONFIGS
from mfm_jax.training import benchmark, distributed
from mfm_jax.training.benchmark_config import BenchmarkConfig
from mfm_jax.training.config import RunConfig

SUITES = sorted(path.stem.removeprefix("benchmark_") for path in CONFIGS.glob("benchmark_*.py"))
THROUGHPUT = "throughput"  # has a configuration of a training

_CONFIG = cli.define_config(kind=BenchmarkConfig)
_SUITE = flags.DEFINE_string(
  "suite", "", f"Short for --config=experiments/configs/benchmark_<suite>.py[:smoke]: {', '.join(SUITES)}."
)
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the benchmark: new, empty, or to be gone on with.")
_RUN = flags.DEFINE_string("run", "", "Folder of a trained run, in place of training one.")
_ORACLE = flags.DEFINE_bool("oracle", False, "Closed-form posteriors of the mixture in place of a run.")
_PART = flags.DEFINE_string(
  "part", "", "i/n: every n-th row of kind=steering alone, from the i-th (0 to n - 1), for several machines."
)
_EMA = flags.DEFINE_string("ema", "", "Decay of the average of --run, raw for none; default the longest.")


def main():
  """Trains, measures, writes; returns what benchmark.json holds but for the configuration."""
  if _SUITE.value == THROUGHPUT:
    distributed.require_one("this benchmark")
    return speed.main(cli.config(_CONFIG))
  config = cli.config(_CONFIG)
  if not _WORKDIR.value:
    raise ValueError("--workdir must name a folder; got none")
  named = {"run": _RUN.value, "ema": _EMA.value, "part": _PART.value}
  result = benchmark.benchmark(config, _WORKDIR.value, oracle=_ORACLE.value, **named)
  return {name: value for name, value in result.items() if name != "config"}


def with_config(argv: list[str]) -> list[str]:
  """The arguments with the --config that --suite stands for, in front of the overrides of its keys.

  Raises:
    ValueError: an unknown suite, or --config as well.
  """
  for arg, after in itertools.pairwise([*argv[1:], ""]):
    name, equals, value = arg.lstrip("-").partition("=")
    if name == "suite" and arg.startswith("-"):
      suite, colon, mode = (value if equals else after).partition(":")
      if suite == THROUGHPUT:
        cli.expect(RunConfig)
        return argv
      if suite not in SUITES:
        raise ValueError(f"--suite must be one of {', '.join([*SUITES, THROUGHPUT])}; got {suite!r}")
      if any(other.lstrip("-").partition("=")[0] == "config" for other in argv):
        raise ValueError("--suite and --config exclude each other; got both")
      return [argv[0], f"--config=benchmark_{suite}{colon}{mode}", *argv[1:]]
  return argv


if __name__ == "__main__":
  cli.run(main, expand=with_config, processes=True)
