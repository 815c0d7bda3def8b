"""SIGTERM, Ctrl-C and the notice of preemption: a training saves, and then ends."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None  # as `signal.signal` has it


class Interruption:
  """While it is entered a signal is kept for the loop to ask for.

  Ctrl-C after it acts at once. SIGTERM does not: launchers send it more than once, and SIGKILL follows.

  Of several processes JAX itself notices SIGTERM, the notice of preemption, in any of them, and says at which
  step all stop together.
  """

  def __init__(self):
    self._signal: int | None = None
    self._before: dict[int, Handler] = {}

  def __enter__(self):
    if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
      self._before = {number: signal.signal(number, self._keep) for number in SIGNALS}
    return self

  def __exit__(self, *exc):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _keep(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._signal = self._signal or number
    signal.signal(signal.SIGINT, self._before[signal.SIGINT])

  def reached(self, step: int) -> bool:
    """Whether the training must end after this step; to be asked at every one, in every process."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._signal is not None

  def leave(self, said: str) -> None:
    """Ends the program as its signal would have, with a line that says what was saved."""
    number = signal.SIGTERM if self._signal is None else self._signal
    print(f"{signal.Signals(number).name}: {said}", flush=True)
    raise SystemExit(128 + number)
