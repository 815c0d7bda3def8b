"""Checkpoints: asynchronous, atomic, with everything that resuming needs. All use of orbax is here."""

import copy
import dataclasses
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp

from mfm_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
  """One checkpoint."""

  step: int
  state: TrainState
  data: dict[str, Any]  # state of the data iterator
  meta: dict[str, Any]


class Checkpoints:
  """The folder `checkpoints/` of a run. Use as a context manager: leaving it waits for the last save.

  Args:
    folder: need not exist.
    keep: number of checkpoints that are kept, the newest.
    writable: whether steps will be saved; folders of incomplete steps are then set aside.
  """

  def __init__(self, folder: pathlib.Path, *, keep: int = 3, writable: bool = False):
    self.folder = folder.absolute()
    if writable and jax.process_index() == 0:
      _set_aside_incomplete(self.folder)
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    self._manager = ocp.CheckpointManager(
      self.folder,
      options=options,
      item_handlers={
        "state": ocp.StandardCheckpointHandler(),
        "data": ocp.JsonCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
      },
    )

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self._manager.close()

  def steps(self) -> list[int]:
    """Steps of the complete checkpoints, ascending. A folder that a killed save left is not one."""
    # Reading the folder anew while a save is on its way would make orbax forget that save, and keep
    # its checkpoint for ever.
    self._manager.wait_until_finished()
    self._manager.reload()
    return sorted(step for step in self._manager.all_steps() if _complete(self.folder / str(step)))

  def save(self, state: TrainState, data: dict[str, Any], meta: dict[str, Any]) -> None:
    """Starts saving; returns when the arrays are copied. A step that exists already is left alone.

    Raises:
      ValueError: the folder has a later step.
    """
    step = int(state.step)
    if step in self.steps():
      return
    saved = self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        # Copies: orbax writes them later, when the caller may have gone on changing its own.
        data=ocp.args.JsonSave(copy.deepcopy(data)),
        meta=ocp.args.JsonSave(copy.deepcopy(meta)),
      ),
    )
    if not saved:  # orbax skips a step before the latest one without a word
      raise ValueError(f"checkpoints must be saved in order; got step {step} after {self.steps()[-1:]}")

  def wait(self) -> None:
    """Blocks until the last save is complete; raises its error."""
    self._manager.wait_until_finished()

  def restore(self, like: TrainState, step: int | None = None) -> Restored | None:
    """The newest checkpoint (or that of `step`), with the shapes and shardings of `like`; None if none.

    Raises:
      ValueError: `step` has no checkpoint, or the stored arrays differ in shape or dtype from `like`.
    """
    steps = self.steps()
    if step is None:
      if not steps:
        return None
      step = steps[-1]
    if step not in steps:
      raise ValueError(f"step must be one of the checkpoints {steps} in {self.folder}; got {step}")
    stored = self._manager.item_metadata(step)["state"]
    _check_same(stored, like)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    items = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract),
        data=ocp.args.JsonRestore(),
        meta=ocp.args.JsonRestore(),
      ),
    )
    return Restored(step=step, state=items["state"], data=items["data"], meta=items["meta"])


def _complete(step_folder: pathlib.Path) -> bool:
  return (step_folder / "_CHECKPOINT_METADATA").exists()


def _set_aside_incomplete(folder: pathlib.Path) -> None:
  """Renames step folders without a checkpoint to <step>.incomplete.

  orbax counts them: it would silently save nothing up to the highest of them, and drop good
  checkpoints to make room for them.
  """
  for path in list(folder.glob("*")):
    if path.name.isdigit() and not _complete(path):
      aside = path.with_name(f"{path.name}.incomplete")
      shutil.rmtree(aside, ignore_errors=True)
      path.rename(aside)


def _check_same(stored, like: TrainState) -> None:
  """orbax casts dtypes without a word; a checkpoint of another network must not come to life."""

  def describe(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
      jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), str(leaf.dtype))
      for path, leaf in leaves
    }

  old, new = describe(stored), describe(like)
  for name in sorted({*old, *new}):
    if old.get(name) != new.get(name):
      raise ValueError(
        "a checkpoint must have the arrays of the configured network; "
        f"{name} is {old.get(name)} in the checkpoint and {new.get(name)} here"
      )
