"""Checkpoints: asynchronous, atomic, verified, with all that resuming needs. All use of orbax is here."""

import concurrent.futures
import contextlib
import copy
import dataclasses
import os
import pathlib
import shutil
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mfm_jax.training import distributed, integrity
from mfm_jax.training.state import TrainState

# orbax writes the last two files when it commits a step, so their hashes come later, in the second of ours.
HASHES, SEAL = "sha256.json", "seal.json"
_AT_COMMIT = {"_CHECKPOINT_METADATA", "commit_success.txt"}
_NONE, _ABSENT, _DAMAGED = -1, -2, -3  # in place of a step
NICENESS = 15  # of the writing threads: on a CPU the step comes first, and a save takes some steps more


class SaveError(OSError):
  """Something could not be written; its message names the last good checkpoint."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
  """One checkpoint."""

  step: int
  state: TrainState
  data: dict[str, Any]  # state of the data iterator
  meta: dict[str, Any]


class Checkpoints:
  """The folder `checkpoints/` of a run. Use as a context manager: leaving it waits for the last save.

  Every step has the hashes of its files: a damaged one is never restored. With several processes all call
  the same methods.

  Args:
    folder: need not exist.
    keep: number of checkpoints that are kept, the newest; None for all.
    keep_every: those of its multiples are kept as well; 0 for none.
    writable: whether steps will be saved; folders of incomplete and damaged steps are then set aside.
    beside: the checkpoints that a run goes on from, where these are not; errors name the last good one there.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    keep: int | None = 3,
    keep_every: int = 0,
    writable: bool = False,
    beside: "Checkpoints | None" = None,
  ):
    self.folder, self._writable, self._beside = folder.absolute(), writable, beside
    self._saving: int | None = None  # the step on its way
    # Saves start in a thread of their own, as the threads that write inherit their priority from the one that
    # starts them.
    self._starter = concurrent.futures.ThreadPoolExecutor(1, "checkpoint", initializer=_step_back)
    if writable:
      distributed.on_primary(lambda: _set_aside_incomplete(self.folder))
    self._manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        keep_period=keep_every or None,
        create=writable,
        cleanup_tmp_directories=writable,
        async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_hashes),
      ),
      item_handlers={
        # Parameters hardly compress, and trying takes half of a save's time.
        "state": ocp.PyTreeCheckpointHandler(use_compression=False),
        "data": ocp.JsonCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
      },
    )

  def __enter__(self):
    return self

  def __exit__(self, kind, *exc):
    try:
      self.wait()
      self._manager.close()
    except OSError:
      if kind is None:
        raise
    finally:
      self._starter.shutdown()

  @contextlib.contextmanager
  def named(self) -> Iterator[None]:
    """An OSError inside, such as that of a full disk, becomes a SaveError."""
    try:
      yield
    except SaveError:
      raise
    except OSError as error:
      with contextlib.suppress(SaveError):
        self.wait()  # for the one that is on its way
      raise SaveError(f"{error}; last good checkpoint: {self.last_good}") from error

  @property
  def last_good(self) -> str:
    """In words, where the newest complete checkpoint is."""
    if self._beside is not None:
      return self._beside.last_good
    steps = _complete_steps(self.folder)
    return f"step {steps[-1]} in {self.folder}" if steps else "none was saved yet"

  def steps(self) -> list[int]:
    """Steps of the complete checkpoints, ascending. A folder that a killed save left is not one."""
    self.wait()
    return _complete_steps(self.folder)

  def newest(self) -> int | None:
    """The last of `steps`; what the primary process finds, as file systems do not show all hosts the same."""
    steps = self.steps()
    step = distributed.agreed(steps[-1] if steps else _NONE)
    return None if step == _NONE else step

  def save(self, state: TrainState, data: dict[str, Any], meta: dict[str, Any]) -> None:
    """Starts saving; returns when the arrays are copied. A step that exists already is left alone.

    Raises:
      ValueError: the folder has a later step.
      SaveError: this save, or the one before, cannot be written.
    """
    step = int(state.step)
    if distributed.agreed(step in self.steps()):
      return
    self._saving = step
    try:
      args = ocp.args.Composite(
        state=ocp.args.PyTreeSave(state),
        # Copies: orbax writes them later, when the caller may have gone on changing its own.
        data=ocp.args.JsonSave(copy.deepcopy(data)),
        meta=ocp.args.JsonSave(copy.deepcopy(meta)),
      )
      saved = self._starter.submit(self._manager.save, step, args=args).result()
    except Exception as error:  # orbax and its writers have errors of many kinds
      raise self._failed(error) from error
    if not saved:  # orbax skips a step before the latest one without a word
      self._saving = None
      raise ValueError(f"checkpoints must be saved in order; got step {step} after {self.steps()[-1:]}")

  def check(self) -> None:
    """Raises the SaveError of a save that has failed; does not wait for one that is on its way."""
    # orbax's own check takes the error from the thread that ends the save, which then drops older checkpoints
    # to make room for one that is not there.
    if self._saving is not None and not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Blocks until the last save is complete; raises its SaveError."""
    if self._saving is None:
      return
    try:
      self._manager.wait_until_finished()
      folder = self.folder / str(self._saving)
      if distributed.is_primary() and folder.exists():
        integrity.write_hashes(folder, SEAL, {HASHES, *_AT_COMMIT} & integrity.files_of(folder))
    except Exception as error:
      raise self._failed(error) from error
    self._saving = None

  def forget_after(self, step: int) -> None:
    """Sets aside, as <step>.abandoned, what is later: a run goes on from `step`, and may go another way."""
    self.wait()
    later = [found for found in _complete_steps(self.folder) if found > step]
    distributed.on_primary(lambda: _set_aside(self.folder, later, "abandoned"))
    self._manager.reload()

  def restore(self, like: TrainState, step: int | None = None, *, only: str = "") -> Restored | None:
    """The newest checkpoint that is whole (or that of `step`), placed as `like`; None where there is none.

    A damaged one is passed over with a warning that names it, and set aside as <step>.damaged by a writer.

    Args:
      like: the state, or `jax.ShapeDtypeStruct`s: with shardings, of any mesh and number of processes, or
        without, for NumPy arrays.
      step: of the checkpoint; None for the newest.
      only: how the paths of the arrays begin that are read, such as "ema/0.999/"; the rest is ... .

    Raises:
      ValueError: `step` has no checkpoint, or a damaged one; all are damaged; the stored arrays differ in
        shape or dtype from `like`.
    """
    steps = self.steps()
    found = distributed.agreed(self._choose(steps, step) if distributed.is_primary() else 0)
    if found == _NONE:
      return None
    if found == _ABSENT:
      raise ValueError(f"step must be one of the checkpoints {steps} in {self.folder}; got {step}")
    if found == _DAMAGED:
      wanted = steps[::-1] if step is None else [step]
      raise ValueError(f"a checkpoint must be whole; got damaged ones alone in {self.folder}: {wanted}")
    if self._writable and step is None:
      distributed.on_primary(
        lambda: _set_aside(self.folder, [later for later in steps if later > found], "damaged")
      )
      self._manager.reload()
    _check_same(self._manager.item_metadata(found)["state"], like)
    wanted = jax.tree_util.tree_map_with_path(
      lambda path, leaf: leaf if _name(path).startswith(only) else ocp.PLACEHOLDER, like
    )
    items = self._manager.restore(
      found,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(wanted, jax.tree.map(_how, wanted)),
        data=ocp.args.JsonRestore(),
        meta=ocp.args.JsonRestore(),
      ),
    )
    return Restored(step=found, state=items["state"], data=items["data"], meta=items["meta"])

  def _choose(self, steps: list[int], step: int | None) -> int:
    """The step to restore, with a warning for damaged ones before it; or why there is none."""
    if step is None and not steps:
      return _NONE
    if step is not None and step not in steps:
      return _ABSENT
    for candidate in steps[::-1] if step is None else [step]:
      folder = self.folder / str(candidate)
      found = [integrity.damage(folder, name) for name in (HASHES, SEAL) if (folder / name).exists()]
      if not any(found):
        if not found:
          warnings.warn(f"checkpoint {folder} is older than hashes: not verified", stacklevel=3)
        return candidate
      warnings.warn(f"checkpoint {folder} is damaged, passed over: {max(found)}", stacklevel=3)
    return _DAMAGED

  def _write_hashes(self) -> None:
    """Called by orbax before it commits a step, so that no complete step is without hashes."""
    for folder in self.folder.glob(f"{self._saving}.*-tmp*"):
      integrity.write_hashes(folder, HASHES, integrity.files_of(folder) - {HASHES, *_AT_COMMIT})

  def _failed(self, error: Exception) -> SaveError:
    step, self._saving = self._saving, None
    return SaveError(f"step {step} could not be saved: {error}; last good checkpoint: {self.last_good}")


def _step_back() -> None:
  """Lowers the priority of this thread, where a thread has one of its own."""
  if sys.platform == "linux":
    with contextlib.suppress(OSError):  # in a container that forbids it
      os.setpriority(os.PRIO_PROCESS, 0, min(os.getpriority(os.PRIO_PROCESS, 0) + NICENESS, 19))


def _how(leaf):
  """How orbax reads an array: where it is wanted, or into NumPy; it takes anything for what it leaves out."""
  sharding = getattr(leaf, "sharding", None)
  if sharding is None:
    return ocp.RestoreArgs(restore_type=np.ndarray)
  return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _complete(step_folder: pathlib.Path) -> bool:
  return (step_folder / "_CHECKPOINT_METADATA").exists()


def _complete_steps(folder: pathlib.Path) -> list[int]:
  found = [path for path in folder.glob("*") if path.name.isdigit()]
  return sorted(int(path.name) for path in found if _complete(path))


def _set_aside_incomplete(folder: pathlib.Path) -> None:
  """Renames step folders without a checkpoint to <step>.incomplete.

  orbax counts them: it would silently save nothing up to the highest of them, and drop good
  checkpoints to make room for them.
  """
  for path in list(folder.glob("*")):
    if path.name.isdigit() and not _complete(path):
      _rename(path, "incomplete")


def _set_aside(folder: pathlib.Path, steps: list[int], why: str) -> None:
  for step in steps:
    _rename(folder / str(step), why)


def _rename(path: pathlib.Path, why: str) -> None:
  aside = path.with_name(f"{path.name}.{why}")
  shutil.rmtree(aside, ignore_errors=True)
  path.rename(aside)


def _check_same(stored, like: TrainState) -> None:
  """orbax casts dtypes without a word; a checkpoint of another network must not come to life."""

  def describe(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_name(path): (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in leaves}

  old, new = describe(stored), describe(like)
  for name in sorted({*old, *new}):
    if old.get(name) != new.get(name):
      raise ValueError(
        "a checkpoint must have the arrays of the configured network; "
        f"{name} is {old.get(name)} in the checkpoint and {new.get(name)} here"
      )
