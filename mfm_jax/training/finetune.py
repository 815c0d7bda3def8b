"""Fine-tunes a trained map to a reward (MFM-FT; MATH 7): the loss, the panel that watches it, the run."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import times
from mfm_jax.data import datasets
from mfm_jax.finetuning.divergence import path_kl
from mfm_jax.finetuning.draws import FTDrawConfig, draw
from mfm_jax.finetuning.objective import FTObjective
from mfm_jax.training import (
  comparison,
  distributed,
  folder,
  generate,
  hoisted,
  loop,
  run,
  sharding,
  showcase,
  subject,
)
from mfm_jax.training.comparison import Assessor
from mfm_jax.training.config import RESUMABLE
from mfm_jax.training.decoding import Blocks
from mfm_jax.training.finetune_config import FinetuneConfig
from mfm_jax.training.logging import MetricWriter
from mfm_jax.training.run import Run
from mfm_jax.training.state import TrainState
from mfm_jax.training.steered import INVALID_LIMIT
from mfm_jax.training.step import Loss
from mfm_jax.types import Array, Cond, Decode, PyTree, Reward
from mfm_jax.viz.files import write_atomically

KL_STEPS = 250  # of the fine-tuned SDE
KL_PATHS = 1024  # at most
# Keys of a run that fine-tuning has of its own; all others are its base's.
OWN = ("optimizer", "seed", "batch_size", "ema", "ema_lengths", "ema_every", *RESUMABLE)


def finetune(config: FinetuneConfig, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Fine-tunes config.base until config.steps; the same call resumes, as `loop.train` does.

  The folder becomes that of a marginal-only run, which needs its base no more.

  Returns:
    The summary, also written to summary.json: params_sha256, steps, seconds, seconds_compile, the panel of
    the longest average (`eval/<figure>`) and that of the base (`base/<figure>`).

  Raises:
    ValueError: before anything is trained or written, a base without one-step posterior draws, a guidance
      scale that it was not trained with, a reward or judge that does not fit, another base or configuration
      than the folder's; later as `loop.train`, and where more than INVALID_LIMIT of the rewards are not
      finite.
  """
  workdir = pathlib.Path(workdir)
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch_size(config.batch_size, mesh, config.accumulate)
  base = run.load_run(config.base)
  base.require_map()
  base.check_guidance(config.draws.guidance)
  what, reward = subject.from_run(base, decoder=config.decoder), config.build_reward()
  subject.check(what, reward, config.steering)
  folder.check_workdir(workdir, config, base.info, folder.FINETUNED)
  guided = bool(base.config.draws.guidance_scales)
  draws = dataclasses.replace(config.draws, num_classes=base.info.num_classes, guided=guided)
  mixture = base.config.mixture.build() if base.config.data.name == "mixture" else None
  dataset = datasets.load(base.config.data, mixture)
  tuned = start(base, config, workdir)
  label = None
  if base.info.num_classes and draws.label_dropout < 1:
    # Labels, and the guidance scale that goes with them, are what is trained most; their law is not the whole
    # mixture's tilt.
    label, what = showcase.labels(base, config.eval_num), dataclasses.replace(what, mixture=None)
  scored = on_samples(reward, what.decode)
  arrays, lifted = hoisted.lift(scored, *example(base))
  assess = comparison.assessor(what, config.steering, reward)

  def evaluation(writer: MetricWriter, frozen: PyTree) -> Panel:
    del frozen
    return Panel(
      base=base,
      tuned=tuned,
      config=config,
      reward=Blocks(scored),
      assess=assess,
      label=label,
      writer=writer,
    )

  distributed.on_primary(
    lambda: folder.write_config(workdir, config, base.info, folder.FINETUNED, run=tuned.config)
  )
  return loop.fit(
    config,
    workdir,
    mesh=mesh,
    init=lambda params: params,
    given=base.params,
    loss=make_loss(base, tuned, config.loss, draws, lifted),
    frozen={"base": base.params, "reward": arrays},
    batches=loop.batches_of(dataset.train, config, config.seed, mesh),
    evaluation=evaluation,
    sources={"base": base.sha256, "reward": config.steering.classifiers},
    limits={"invalid": INVALID_LIMIT},
  )


def on_samples(reward: Reward, decode: Decode | None) -> Reward:
  """The reward of samples in model space."""
  return lambda x, cond=None: reward(x if decode is None else decode(x), cond)


def example(run: Run) -> tuple[jax.ShapeDtypeStruct, Cond]:
  """Two samples of a run, as shapes, and their conditioning."""
  return jax.ShapeDtypeStruct((2, *run.info.shape), jnp.float32), run.cond(None, None, 2)


def make_loss(
  base: Run,
  tuned: Run,
  objective: FTObjective,
  draws: FTDrawConfig,
  reward: Callable[[PyTree, Array, Cond], Array],
) -> Loss:
  """The loss and its terms, each a mean over the batch.

  Its frozen parameters are {"base": the base's, "reward": those that `reward`, of samples in model space,
  takes first}.
  """

  def loss(params, frozen, drawn, step):
    del step
    per_example, terms = objective(
      tuned.marginal_of(params),
      base.parts.model.velocity(frozen["base"]),
      base.interpolant,
      drawn,
      functools.partial(reward, frozen["reward"]),
    )
    return jnp.mean(per_example), jax.tree.map(jnp.mean, terms)

  return Loss(draw=lambda key, batch, step: draw(key, batch, draws), of=loss)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
  """state -> what became of the longest average's samples: the reward, and what it may have cost.

  Figures: "reward", the mean without the multiplier; "judge_<name>", that of each reward that judges; "kl"
  (`path_kl`); those of `comparison.Assessor`.

  Attributes:
    base, tuned: the base, and the fine-tuned run before its first step.
    config: of the fine-tuning.
    reward: (samples in model space, cond) -> rewards, with the multiplier.
    assess: what is measured beside it.
    label: (eval_num,) of the samples, None for the null label.
    writer: of the figures.
  """

  base: Run
  tuned: Run
  config: FinetuneConfig
  reward: Blocks
  assess: Assessor
  label: np.ndarray | None
  writer: MetricWriter

  def __call__(self, state: TrainState) -> dict[str, float]:
    """The figures of the average (`eval/...`), which it writes, and of the base (`base/...`)."""
    now, params = int(state.step), run.on_own_devices(state.ema[self.tuned.ema])
    tuned = dataclasses.replace(self.tuned, params=params)
    key_x1, key_kl = jax.random.split(jax.random.key(loop.EVAL_SEED))
    reference, of_base = self._base
    x1 = self._sample(tuned, key_x1)
    figures = {**self._figures(x1, reference), "kl": self._kl(key_kl, tuned)}
    figures = {f"eval/{name}": value for name, value in figures.items()}
    self.writer.write(now, figures)
    picture = showcase.picture({"x1": x1}, tuned)
    if picture is not None and distributed.is_primary():
      write_atomically(self.tuned.workdir / "samples" / f"samples_{now:07d}.png", picture)
    return {**figures, **{f"base/{name}": value for name, value in of_base.items()}}

  @functools.cached_property
  def _base(self) -> tuple[np.ndarray, dict[str, float]]:
    """Samples of the base, and the figures of others of its samples."""
    keys = jax.random.split(jax.random.key(loop.EVAL_SEED + 1))
    reference, other = (self._sample(self.base, key) for key in keys)
    return reference, self._figures(other, reference)

  def _sample(self, of: Run, key: Array) -> np.ndarray:
    num, guidance = self.config.eval_num, self.config.draws.guidance
    return generate.marginal_samples(of, key, sampler="ode", num=num, label=self.label, guidance=guidance)

  def _figures(self, x1: np.ndarray, base: np.ndarray) -> dict[str, float]:
    cond = self.tuned.cond(self.label, None, len(x1))
    judged = self.assess.scores(x1, cond) if self.assess.scores else {}
    return {
      "reward": comparison.mean_of_finite(self.reward(x1, cond)) / self.config.multiplier,
      **{f"judge_{name}": comparison.mean_of_finite(scores) for name, scores in judged.items()},
      **self.assess(x1, base, loop.EVAL_SEED),
    }

  def _kl(self, key: Array, tuned: Run) -> float:
    n = min(self.config.eval_num, KL_PATHS)
    cond = self.tuned.cond(None if self.label is None else self.label[:n], None, n)
    # Power 2: near t = 0 the steps must be short against t (`integrators.sde`).
    grid = times.grid(KL_STEPS, start=generate.SDE_START, power=2.0)

    @jax.jit
    def kl(key, tuned_params, base_params):
      key_start, key_path = jax.random.split(key)
      x = jax.random.normal(key_start, (n, *tuned.info.shape))
      flows = tuned.marginal_of(tuned_params), self.base.marginal_of(base_params)
      return path_kl(key_path, x, grid, *flows, tuned.interpolant, cond)[1].mean()

    return float(kl(key, tuned.params, self.base.params))


def start(base: Run, config: FinetuneConfig, workdir: pathlib.Path) -> Run:
  """The fine-tuned run before its first step: its base at one guidance scale, marginal-only."""
  used = dataclasses.replace(
    base.config,
    loss=dataclasses.replace(base.config.loss, diagonal="data", consistency="none"),
    teacher="",
    init="",
    **{name: getattr(config, name) for name in OWN},
  )
  return dataclasses.replace(
    base,
    workdir=workdir,
    config=used,
    parts=run.parts(used, base.info),
    step=0,
    ema=str(max(config.ema)),
    finetuned=True,
    only_scale=config.draws.guidance,
  )
