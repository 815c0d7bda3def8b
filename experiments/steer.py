"""Steers a trained run to a reward: one method, or all of them at the cost of MFM-GF or below, as a table.

python -m experiments.steer --config=experiments/configs/steer_gmm.py --workdir=runs/gmm
python -m experiments.steer --config=experiments/configs/steer_digits.py --workdir=runs/digits --method=mfm_gf
"""

import dataclasses

from absl import flags

from experiments import cli
from mfm_jax.training import steer_report
from mfm_jax.training import subject as subjects
from mfm_jax.training.run import load_run
from mfm_jax.training.steer_config import SteerConfig

_CONFIG = cli.define_config(kind=SteerConfig)
_WORKDIR = flags.DEFINE_string("workdir", "", "Run folder; with teacher=oracle any folder, to write to.")
_METHOD = flags.DEFINE_list("method", ["all"], "all, or some of the methods of the configuration.")
_NUM = flags.DEFINE_integer("num", 0, "Samples of a seed; 0: config.num.", lower_bound=0)
_LABEL = flags.DEFINE_integer("label", -1, "Class to be steered within; -1: config.label.", lower_bound=-1)
_GUIDANCE = flags.DEFINE_float("guidance", None, "Guidance scale, one the run was trained with.")
_EMA = flags.DEFINE_string("ema", "", "Decay of the average, raw for none; default the longest.")
_SEED = flags.DEFINE_integer("seed", -1, "First sampling seed; -1: config.seed.", lower_bound=-1)
_OUT = flags.DEFINE_string("out", "", "The .npz; default steer/<method>.npz in the run folder.")


def main():
  """Steers, prints the table, writes samples and the report; returns the table."""
  config = _settings()
  if not _WORKDIR.value:
    raise ValueError("--workdir must name a run folder; got none")
  files = steer_report.files(_WORKDIR.value, _OUT.value, config.methods)
  if config.teacher == "oracle":
    subject = subjects.from_oracle(config)
  else:
    run = load_run(_WORKDIR.value, ema=_EMA.value)
    subject = subjects.from_run(
      run,
      label=config.label,
      guidance=config.guidance or None,
      glass_steps=config.glass_steps,
      oracle_drift=config.oracle_drift,
      decoder=config.decoder,
    )
  reward = config.build_reward()
  subjects.check(subject, reward, config)
  result = steer_report.steer(subject, reward, config, files)
  if not _OUT.value:  # else the samples are not in the run folder
    cli.report(_WORKDIR.value, "steer")
  return result


def _settings() -> SteerConfig:
  """The configuration, with what the other flags change of it."""
  config = cli.config(_CONFIG)
  if config.teacher == "oracle" and (_LABEL.value >= 0 or _GUIDANCE.value is not None or _EMA.value):
    raise ValueError(
      "--label, --guidance and --ema must be absent with teacher=oracle: closed forms have none"
    )
  changes = {"num": _NUM.value or config.num}
  if _LABEL.value >= 0:
    changes["label"] = _LABEL.value
  if _GUIDANCE.value is not None:
    changes["guidance"] = _GUIDANCE.value
  if _SEED.value >= 0:
    changes["seed"] = _SEED.value
  if _METHOD.value != ["all"]:
    changes["methods"] = tuple(_METHOD.value)
  return dataclasses.replace(config, **changes)


if __name__ == "__main__":
  cli.run(main)
