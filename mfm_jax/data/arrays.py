"""A user's own examples, such as latents: a folder with train.npz and test.npz."""

import pathlib
import zipfile

import numpy as np

from mfm_jax import checks
from mfm_jax.data.sources import ArraySource


def array_folder(
  path: str | pathlib.Path, split: str, *, labelled: bool = True, num_classes: int = 10
) -> ArraySource:
  """One split, "train" or "test", of a folder of <split>.npz files with x1 (n, ...) and label (n,).

  Args:
    path: the folder.
    split: "train" or "test".
    labelled: False leaves the labels unread.
    num_classes: labels must lie in 0 .. num_classes - 1.

  Returns:
    x1 as it is in model space: floats, or bytes that are scaled to [-1, 1] when taken.

  Raises:
    ValueError: no such folder or file, a file that is not .npz or without x1 or label, arrays that
      `ArraySource` refuses.
  """
  checks.one_of("split", split, ("train", "test"))
  if not str(path):
    raise ValueError("data.path must name a folder with train.npz and test.npz for data.name=arrays; got ''")
  file = pathlib.Path(path) / f"{split}.npz"
  if not file.is_file():
    raise ValueError(f"data.path must be a folder with train.npz and test.npz; got no {file}")
  names = ("x1", "label") if labelled else ("x1",)
  try:
    with np.load(file, allow_pickle=False) as arrays:
      missing = [name for name in names if name not in arrays]
      if missing:
        raise ValueError(f"{file} must hold the arrays {', '.join(names)}; got {', '.join(arrays) or 'none'}")
      found = {name: arrays[name] for name in names}
  except (zipfile.BadZipFile, OSError) as error:
    raise ValueError(f"{file} must be a readable .npz file; got {error}") from None
  try:
    return ArraySource(**found, num_classes=num_classes if labelled else 0)
  except ValueError as error:
    raise ValueError(f"{error} in {file}") from error
