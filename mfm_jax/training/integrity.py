"""Hashes of the files of a folder, written beside them and compared when they are read."""

import concurrent.futures
import hashlib
import json
import pathlib
from collections.abc import Iterable

from mfm_jax.viz.files import write_atomically


def write_hashes(folder: pathlib.Path, name: str, files: Iterable[str]) -> None:
  """Writes SHA-256 of these files of a folder, by their paths in it, to its file `name`."""
  files = sorted(files)
  hashes = dict(zip(files, _digests(folder, files), strict=True))
  write_atomically(folder / name, (json.dumps(hashes, indent=0) + "\n").encode())


def damage(folder: pathlib.Path, name: str) -> str:
  """What is wrong with the files that the hashes in `name` are of; "" for nothing."""
  try:
    hashes = json.loads((folder / name).read_bytes())
    files = sorted(hashes)
    wanted = [hashes[file] for file in files]
  except (OSError, ValueError, TypeError, KeyError) as error:
    return f"{name} is no list of hashes: {error}"
  missing = [file for file in files if not (folder / file).is_file()]
  if missing:
    return f"{missing[0]} is missing"
  try:
    found = _digests(folder, files)
  except OSError as error:  # a disk that fails
    return f"a file cannot be read: {error}"
  changed = [file for file, ours, theirs in zip(files, found, wanted, strict=True) if ours != theirs]
  return f"{changed[0]} is not what was written" if changed else ""


def files_of(folder: pathlib.Path) -> set[str]:
  """The paths, in a folder, of all its files."""
  return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _digests(folder: pathlib.Path, files: list[str]) -> list[str]:
  def digest(file: str) -> str:
    with (folder / file).open("rb") as stream:
      return hashlib.file_digest(stream, "sha256").hexdigest()

  with concurrent.futures.ThreadPoolExecutor() as pool:
    return list(pool.map(digest, files))
