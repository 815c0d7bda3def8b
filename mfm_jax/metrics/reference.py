"""Files of statistics: our own, with a fingerprint, and those of ADM and pytorch-fid, which have none."""

import dataclasses
import json
import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

from mfm_jax import checks
from mfm_jax.metrics.samples import ROUNDINGS, replacing
from mfm_jax.metrics.statistics import Gaussian
from mfm_jax.models.inception import CONVENTIONS

RESIZE = {  # for the reader of a file; the convention says the same
  "adm": "bilinear, no antialias, 299x299, at i H / 299 (TensorFlow 1)",
  "pytorch_fid": "bilinear, no antialias, 299x299, at pixel centres",
}
CROPS = ("none", "center")
_ARRAYS = ("mu", "sigma", "mu_s", "sigma_s")
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fingerprint:
  """How features came about. Statistics compare only where all of it agrees.

  Attributes:
    convention: "adm" or "pytorch_fid".
    weights_sha256: of the extractor's parameters.
    rounding: of floats to bytes, "nearest" or "truncate".
    crop: of the source pictures, "none" or "center" (ADM's centre crop).
  """

  convention: str
  weights_sha256: str
  rounding: str = "nearest"
  crop: str = "none"

  def __post_init__(self):
    checks.one_of("convention", self.convention, CONVENTIONS)
    checks.one_of("rounding", self.rounding, ROUNDINGS)
    checks.one_of("crop", self.crop, CROPS)

  def described(self) -> dict[str, str]:
    """With the resize, which the convention determines."""
    return {**dataclasses.asdict(self), "resize": RESIZE[self.convention]}


def write_statistics(
  path: str | pathlib.Path,
  pool: Gaussian,
  spatial: Gaussian | None = None,
  fingerprint: Fingerprint | None = None,
) -> None:
  """Writes mu, sigma, of the spatial features mu_s, sigma_s, and with a fingerprint that and the count.

  ADM's evaluator reads the file, with or without a fingerprint, where it has spatial statistics.

  Raises:
    ValueError: another ending than .npz.
  """
  path = pathlib.Path(path)
  if path.suffix != ".npz":
    raise ValueError(f"statistics must end in .npz; got {path}")
  arrays: dict[str, Any] = {"mu": pool.mean, "sigma": pool.covariance}
  if spatial is not None:
    arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
  if fingerprint is not None:
    arrays |= {"fingerprint": np.array(json.dumps(fingerprint.described())), "count": np.array(pool.count)}
  with replacing(path) as unfinished:
    np.savez(unfinished, **arrays)


def read_statistics(
  path: str | pathlib.Path, fingerprint: Fingerprint
) -> tuple[Gaussian, Gaussian | None] | None:
  """Statistics of the pooled and, where the file has them, of the spatial features.

  Of a file without a fingerprint the arrays tell the program: mu, sigma, mu_s, sigma_s are ADM's, mu and
  sigma alone pytorch-fid's. Weights, rounding and crop of these are the reader's trust.

  Args:
    path: .npz.
    fingerprint: of the features that the statistics are compared with.

  Returns:
    None for a file without statistics, such as a batch of pictures.

  Raises:
    ValueError: no such file, one that cannot be read, one of another fingerprint, arrays that do not fit.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"a reference must be an .npz file; got no file {path}")
  try:
    with np.load(path, allow_pickle=False) as file:
      found = {name: file[name] for name in (*_ARRAYS, "fingerprint", "count") if name in file}
  except (*_DAMAGED, AttributeError, TypeError) as error:  # an .npy has no members
    raise ValueError(f"{path} must be a readable .npz file of arrays; got {error}") from None
  if "mu" not in found:
    return None
  for name in ("sigma", *(("sigma_s",) if "mu_s" in found else ())):
    if name not in found:
      raise ValueError(f"{path} must hold {name} beside the means; got {', '.join(found)}")
  _check_fingerprint(path, found, fingerprint)
  count = int(found.get("count", 0))
  try:
    pool = Gaussian(mean=found["mu"], covariance=found["sigma"], count=count)
    if "mu_s" not in found:
      return pool, None
    return pool, Gaussian(mean=found["mu_s"], covariance=found["sigma_s"], count=count)
  except ValueError as error:
    raise ValueError(f"{error} in {path}") from error


def _check_fingerprint(path: pathlib.Path, found: dict, own: Fingerprint) -> None:
  if "fingerprint" not in found:
    convention = "adm" if "mu_s" in found else "pytorch_fid"
    if own.convention != convention:
      raise ValueError(
        f"{path} has the arrays of {convention}'s statistics and no fingerprint; got convention "
        f"{own.convention}, whose figures do not compare: use --convention={convention}"
      )
    return
  try:
    theirs = json.loads(str(found["fingerprint"]))
    differences = [
      f"{name} {theirs.get(name)!r} there, {value!r} here"
      for name, value in own.described().items()
      if theirs.get(name) != value
    ]
  except (ValueError, AttributeError) as error:
    raise ValueError(f"{path} must hold a fingerprint that can be read; got {error}") from None
  if differences:
    raise ValueError(
      f"{path} must be of the features that it is compared with; got {', '.join(differences)}: compute the "
      "reference anew, or evaluate as it was made"
    )
