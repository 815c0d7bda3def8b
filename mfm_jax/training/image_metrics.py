"""The FID suite on a trained run, or on a file of samples: generate, decode, extract, compare."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.data import datasets
from mfm_jax.data.sources import Source
from mfm_jax.interpolants import interpolate
from mfm_jax.metrics import features as metrics_of
from mfm_jax.metrics import reference as files
from mfm_jax.metrics import samples, statistics
from mfm_jax.metrics.reference import Fingerprint
from mfm_jax.metrics.statistics import Gaussian
from mfm_jax.models.inception import POOL, SPATIAL
from mfm_jax.training import distributed, generate, shares
from mfm_jax.training.features import Collected, Extract, collect, of_all_processes
from mfm_jax.training.run import Run
from mfm_jax.types import Decode

METRICS = ("fid", "sfid", "is", "precision_recall", "kid", "class_fid", "posterior_fid")
POSTERIOR_TIMES = (0.0, 0.1, 0.2, 0.5)
_SPATIAL = "spatial statistics (mu_s, sigma_s) in the reference"
_PICTURES = "pictures of the reference, not its statistics alone"
_COMPARING = ("precision_recall", "kid", "class_fid")  # need features of the reference, not only statistics
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Suite:
  """What is measured, and how.

  Attributes:
    metrics: of METRICS.
    extract, fingerprint: see `features.extractor`.
    num: samples; KID, precision and recall take at most as many of the reference, class_fid takes all.
    few: allows fewer samples than dimensions.
    splits: parts of the Inception Score.
    subset: size of a subset of KID.
    seed: of labels, samples, noise and subsets.
  """

  metrics: tuple[str, ...]
  extract: Extract
  fingerprint: Fingerprint
  num: int = 50_000
  few: bool = False
  splits: int = 10
  subset: int = 1000
  seed: int = 0

  def __post_init__(self):
    checks.at_least("number of metrics", len(self.metrics), 1)
    for metric in self.metrics:
      checks.one_of("metrics", metric, METRICS)
    checks.at_least("num", self.num, 2)
    if {"fid", "posterior_fid"} & set(self.metrics):
      statistics.check_count(self.num, POOL, few=self.few)
    if "sfid" in self.metrics:
      statistics.check_count(self.num, SPATIAL, few=self.few)
    for metric, least in (("is", self.splits), ("kid", self.subset)):
      if metric in self.metrics:
        checks.at_least(f"num (for {metric})", self.num, least)

  def collect(self, pictures: Iterator[np.ndarray], num: int, *, of_reference: bool = False) -> Collected:
    """Features of samples, or of a reference, as far as the metrics need them.

    Args:
      pictures: of this process: its `shares` of `num`.
      num: pictures of all processes.
      of_reference: what is to be held.

    Returns:
      What all processes found, in every one.
    """
    hold = {"pool": self.num} if needs_pictures(self) else {}
    if of_reference and "class_fid" in self.metrics:
      hold["pool"] = num  # all: the first ones may lack a class
    if "is" in self.metrics and not of_reference:
      hold["logits"] = self.num
    places = functools.partial(shares.places, num)
    ours = places(jax.process_index())
    found = None
    if len(ours) or jax.process_count() == 1:
      hold = {name: int(np.sum(ours < most)) for name, most in hold.items()}
      found = collect(self.extract, pictures, spatial="sfid" in self.metrics, hold=hold)
    return of_all_processes(found, places, tuple(hold))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
  """What samples are compared with.

  Attributes:
    pool, spatial: statistics; spatial None where they are not known or not needed.
    features, labels: of single pictures, None where only statistics are known.
  """

  pool: Gaussian
  spatial: Gaussian | None = None
  features: np.ndarray | None = None
  labels: np.ndarray | None = None


def needs_pictures(suite: Suite) -> bool:
  """Whether a metric needs pictures of the reference: statistics do not do."""
  return bool(set(_COMPARING) & set(suite.metrics))


def of_file(suite: Suite, path: str | pathlib.Path) -> Reference:
  """A reference from statistics (own, ADM's, pytorch-fid's), from pictures (arr_0), or from both in one file.

  Raises:
    ValueError: a file that is none of them or of another fingerprint, too few pictures, pictures missing
      that a metric needs.
  """
  known = files.read_statistics(path, suite.fingerprint)
  comparing = [metric for metric in suite.metrics if metric in _COMPARING]
  if known is not None:
    pool, spatial = known
    if pool.count:
      statistics.check_count(pool.count, len(pool.mean), few=suite.few)
    if not comparing:
      return Reference(pool=pool, spatial=spatial)
  try:
    batch = samples.open_samples(path)
  except ValueError as error:
    need = f"; {', '.join(comparing)} need pictures (arr_0)" if comparing else ""
    raise ValueError(f"a reference must hold statistics (mu, sigma) or pictures{need}: {error}") from error
  if known is None:
    return _reference(suite, shares.of_batch(batch, len(batch)), len(batch), batch.labels)
  few = dataclasses.replace(suite, few=True)  # for single features alone: the statistics are known
  own = _reference(few, shares.of_batch(batch, len(batch)), len(batch), batch.labels)
  return dataclasses.replace(own, pool=pool, spatial=spatial)


def of_source(suite: Suite, source: Source, decode: Decode) -> Reference:
  """All pictures of a split as the reference, in random order.

  Raises:
    ValueError: too few pictures.
  """
  order = np.random.Generator(np.random.Philox([suite.seed, 1])).permutation(len(source))
  labels = np.zeros(len(order), np.int32) if source.num_classes else None

  def pictures():
    for _, rows in shares.ours(len(order)):
      batch = source.take(order[rows])
      if labels is not None:
        labels[rows] = batch["label"]
      yield _bytes(suite, decode, batch["x1"])

  found = _reference(suite, pictures(), len(order), None)
  if labels is None or found.features is None:
    return found
  labels = np.sum(distributed.from_each(labels), axis=0)  # a process has zeros where it took none
  return dataclasses.replace(found, labels=labels[: len(found.features)])


def _reference(suite, pictures, num, labels) -> Reference:
  found = suite.collect(pictures, num, of_reference=True)
  few = suite.few or not {"fid", "sfid", "posterior_fid"} & set(suite.metrics)
  pool = found.held.get("pool")
  return Reference(
    pool=found.pool.gaussian(few=few),
    spatial=found.spatial and found.spatial.gaussian(few=few),
    features=pool,
    labels=labels if labels is None or pool is None else labels[: len(pool)],
  )


def of_run(
  run: Run,
  suite: Suite,
  reference: Reference,
  decode: Decode,
  *,
  steps: int = 0,
  guidance: float | None = None,
  keep: str = "",
) -> dict[str, float]:
  """A row of figures of samples of a run, of balanced labels where it has labels.

  Args:
    run: a trained run.
    suite: see `Suite`.
    reference: see `of_file`, `of_source`.
    decode: model space -> pictures in [0, 1].
    steps: of its sampler; 0 for the default.
    guidance: a trained scale.
    keep: .npz to write the samples to, see `write_samples`.

  Raises:
    ValueError: a guidance scale that it does not have, what `row` refuses.
  """
  classes = run.info.num_classes
  labels = samples.balanced_labels(suite.num, classes, seed=suite.seed) if classes else None
  _check(suite, labels, reference)
  drawn = sample_pictures(run, suite, decode, labels, steps=steps, guidance=guidance)
  if keep:
    shares.write(keep, drawn, suite.num, labels)
    drawn = shares.of_batch(samples.open_samples(keep), suite.num)
  return row(suite, suite.collect(drawn, suite.num), labels, reference)


def sample_pictures(
  run: Run,
  suite: Suite,
  decode: Decode,
  labels: np.ndarray | None,
  *,
  steps: int = 0,
  guidance: float | None = None,
) -> Iterator[np.ndarray]:
  """uint8 pictures of samples, a part at a time, those of this process's `shares`; arguments as `of_run`.

  A picture depends on the seed and its place alone.
  """
  sample = generate.marginal_sampler(run, steps=steps)
  key = jax.random.key(suite.seed)
  for i, rows in shares.ours(suite.num):
    label = None if labels is None else labels[rows]
    n = rows.stop - rows.start
    yield _bytes(suite, decode, sample(jax.random.fold_in(key, i), n, run.cond(label, guidance, n)))


def of_samples(suite: Suite, path: str | pathlib.Path, reference: Reference) -> dict[str, float]:
  """A row of figures of a sample batch (arr_0, perhaps arr_1); its first `suite.num` pictures.

  Raises:
    ValueError: fewer pictures, what `open_samples` and `row` refuse; posterior_fid, which needs a run.
  """
  if "posterior_fid" in suite.metrics:
    raise ValueError("posterior_fid needs a run, to draw from; got a file of samples")
  batch = samples.open_samples(path)
  checks.at_least(f"the number of samples in {path}", len(batch), suite.num)
  labels = None if batch.labels is None else batch.labels[: suite.num]
  _check(suite, labels, reference)
  return row(suite, suite.collect(shares.of_batch(batch, suite.num), suite.num), labels, reference)


def _check(suite: Suite, labels: np.ndarray | None, reference: Reference) -> None:
  """Raises for what the reference lacks, before hours of sampling."""
  if "sfid" in suite.metrics:
    _needed(reference.spatial, "sfid", _SPATIAL)
  if "kid" in suite.metrics:
    pictures = _needed(reference.features, "kid", _PICTURES)
    checks.at_least("the number of pictures of the reference (for kid)", len(pictures), suite.subset)
  if "class_fid" in suite.metrics:
    if labels is None or reference.labels is None:
      raise ValueError("class_fid needs labels of the samples and of the reference; got none of one of them")
    for name, given in (("samples", labels), ("the reference", reference.labels)):
      found, counts = np.unique(given, return_counts=True)
      rare = found[counts < 2].tolist() + np.setdiff1d(labels, found).tolist()
      if rare:
        raise ValueError(f"class_fid needs 2 pictures of every class in {name}; got fewer of {rare[0]}")


def _needed(value: T | None, metric: str, what: str) -> T:
  if value is None:
    raise ValueError(f"{metric} needs {what}; got none")
  return value


def row(suite: Suite, found: Collected, labels: np.ndarray | None, reference: Reference) -> dict[str, float]:
  """The figures of `suite.metrics`, posterior_fid apart.

  Raises:
    ValueError: what a metric refuses.
  """
  out: dict[str, float] = {"num": found.pool.count, "num_reference": reference.pool.count}
  if "fid" in suite.metrics:
    own = found.pool.gaussian(few=suite.few)
    out["fid"] = statistics.frechet_distance(own, reference.pool)
  if "sfid" in suite.metrics:
    own = _needed(found.spatial, "sfid", _SPATIAL).gaussian(few=suite.few)
    out["sfid"] = statistics.frechet_distance(own, _needed(reference.spatial, "sfid", _SPATIAL))
  if "is" in suite.metrics:
    score = metrics_of.inception_score(found.held["logits"], splits=suite.splits)
    out |= {"inception_score": score.mean, "inception_score_std": score.std}
  if "precision_recall" in suite.metrics:
    pictures = _needed(reference.features, "precision_recall", _PICTURES)
    out |= metrics_of.precision_recall(pictures[: suite.num], found.held["pool"])._asdict()
  if "kid" in suite.metrics:
    kid = functools.partial(metrics_of.kid, size=suite.subset, seed=suite.seed)
    distance = kid(_needed(reference.features, "kid", _PICTURES)[: suite.num], found.held["pool"])
    out |= {"kid": distance.mean, "kid_std": distance.std}
  if "class_fid" in suite.metrics:
    within = statistics.class_frechet_distances(
      _needed(reference.features, "class_fid", _PICTURES),
      _needed(reference.labels, "class_fid", "labels of the reference"),
      found.held["pool"],
      _needed(labels, "class_fid", "labels of the samples"),
      few=suite.few,
    )
    out["class_fid"] = float(np.mean(list(within.values())))
  return out


def posterior_rows(
  run: Run,
  suite: Suite,
  reference: Reference,
  source: Source,
  decode: Decode,
  *,
  times: Sequence[float] = POSTERIOR_TIMES,
  steps: int = 1,
  guidance: float | None = None,
) -> list[dict[str, float]]:
  """FID of posterior draws, one for each of `suite.num` noised pictures, to the clean ones, for each t.

  Averaged over noised pictures the posterior is the law of the data, so an exact sampler's figure is that of
  fresh pictures at every t. Draws have their picture's own label where the run has labels.

  Args:
    run: a trained map, or a flow by its GLASS draws.
    suite, reference, decode, guidance: as `of_run`.
    source: the clean pictures; where it has fewer than `suite.num`, each gets several noises.
    times: values of t.
    steps: jumps of the map; of GLASS, 0 for the default.

  Returns:
    Rows {"t", "num", "posterior_fid"}.

  Raises:
    ValueError: t outside [0, 1].
  """
  for t in times:
    checks.in_interval("times", t)
  sample = generate.posterior_sampler(run, num=1, steps=steps)
  key = jax.random.key(suite.seed)
  order = np.random.Generator(np.random.Philox([suite.seed, 2])).permutation(len(source))

  @jax.jit
  def noised(key, t, x1):
    return interpolate(run.interpolant, t, jax.random.normal(key, x1.shape), x1)

  def drawn(key, t: float):
    for i, rows in shares.ours(suite.num):
      key_noise, key_draw = jax.random.split(jax.random.fold_in(key, i))
      batch = source.take(order[np.arange(rows.start, rows.stop) % len(order)])
      t_B = jnp.full(len(batch["x1"]), t, jnp.float32)
      label = batch["label"] if run.info.num_classes else None
      cond = run.cond(label, guidance, len(t_B))
      yield _bytes(suite, decode, sample(key_draw, t_B, noised(key_noise, t_B, batch["x1"]), cond)[:, 0])

  out = []
  for i, t in enumerate(times):
    own = dataclasses.replace(suite, metrics=("posterior_fid",))
    found = own.collect(drawn(jax.random.fold_in(key, i), t), suite.num).pool
    distance = statistics.frechet_distance(found.gaussian(few=suite.few), reference.pool)
    out.append({"t": t, "num": found.count, "posterior_fid": distance})
  return out


def split_of(run: Run, split: str) -> Source:
  """A split of the run's data."""
  checks.one_of("split", split, ("train", "test"))
  return getattr(datasets.load(run.config.data), split)


def _bytes(suite: Suite, decode: Decode, x) -> np.ndarray:
  """uint8 (n, H, W, 3); one channel stands for all three."""
  pixels = np.asarray(samples.to_bytes(decode(x), suite.fingerprint.rounding))
  return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
