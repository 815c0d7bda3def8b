"""Files that are complete or absent: written beside their place, then renamed onto it."""

import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def write_npz(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a compressed .npz, as `write_atomically`."""
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **dict[str, Any](arrays))
  write_atomically(path, buffer.getvalue())


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
  """Writes `data` to `path`, making its folder; an interrupted write leaves what was there before.

  Raises:
    OSError: the folder cannot be written (the unfinished file is removed).
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # In the same folder, because a rename is atomic only within one file system.
  unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
  try:
    unfinished.write_bytes(data)
    os.replace(unfinished, path)
  finally:
    unfinished.unlink(missing_ok=True)
