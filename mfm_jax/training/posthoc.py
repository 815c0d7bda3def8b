"""Power averages that are kept while a run trains, and any other that is made of them afterwards."""

import pathlib

import jax
import numpy as np

from mfm_jax.training import averages
from mfm_jax.training.checkpoint import Checkpoints
from mfm_jax.training.state import TrainState
from mfm_jax.types import PyTree

FOLDER = "averages"  # in the run folder
TOLERANCE = 0.1  # largest relative error of a profile that is put together


def keep(kept: Checkpoints, state: TrainState) -> None:
  """Saves the power averages of a step, which may be there already."""
  newest = kept.newest()
  if newest is None or newest < int(state.step):
    kept.save(_of(state.step, state.ema), {}, {})


def _of(step, ema: dict[str, PyTree]) -> TrainState:
  own = {name: average for name, average in ema.items() if averages.power_length(name) is not None}
  return TrainState(step=step, params={}, opt_state=(), ema=own)


def put_together(workdir: pathlib.Path, like: TrainState, length: float) -> tuple[PyTree, int]:
  """The power average of a relative length at the last step that was kept: (parameters, step).

  Args:
    workdir: run folder.
    like: the run's state, as shapes without places.
    length: in (0, averages.LONGEST].

  Raises:
    ValueError: a run that kept none, or none from which this one can be made.
  """
  folder, own = workdir / FOLDER, _of(like.step, like.ema)
  none = f"a power average needs a run with ema_lengths and ema_every; got {workdir}, which kept none"
  if not own.ema or not folder.exists():
    raise ValueError(none)
  with Checkpoints(folder, keep=None) as kept:
    steps = kept.steps()
    if not steps:
      raise ValueError(f"{none} yet")
    lengths = [kept_length for name in own.ema if (kept_length := averages.power_length(name)) is not None]
    each = [step for step in steps for _ in lengths], [*lengths] * len(steps)
    weights, error = averages.combination(*each, at=steps[-1], length=length)
    if error > TOLERANCE:
      raise ValueError(
        f"the power average of length {length} must be near those kept ({lengths}, every "
        f"{steps[0]} steps); got one that misses its weights by {error:.0%}"
      )
    total = None
    for i, step in enumerate(steps):
      found = kept.restore(own, step).state.ema
      for name, weight in zip(own.ema, weights[i * len(lengths) :], strict=False):
        part = jax.tree.map(lambda x, w=weight: w * np.asarray(x, np.float64), found[name])
        total = part if total is None else jax.tree.map(np.add, total, part)
  return jax.tree.map(lambda x: x.astype(np.float32), total), steps[-1]
