"""The steering part of the demonstration: a classifier, the methods compared, sections of the report."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax.data.sources import to_pixels
from mfm_jax.metrics import classes
from mfm_jax.steering import value
from mfm_jax.training import comparison, steer_report
from mfm_jax.training import subject as subjects
from mfm_jax.training.classifier import ClassifierConfig, train_classifier
from mfm_jax.training.comparison import Assessor
from mfm_jax.training.run import Run
from mfm_jax.training.steer_config import SteerConfig
from mfm_jax.training.steered import Outcome
from mfm_jax.training.subject import Subject
from mfm_jax.types import Reward
from mfm_jax.viz import grids, report, steering, style

COLUMNS = 8  # times of a path that are shown
SHOWN = 3  # samples of each method whose paths are shown
VALUE_SAMPLES, VALUE_DRAWS = 48, 64  # for the value along the way


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Steered:
  """Everything that the steering part found."""

  config: SteerConfig
  classifier: dict[str, Any]  # the summary of its training
  subject: Subject
  reward: Reward
  assess: Assessor
  rows: list[dict[str, Any]]
  outcomes: Mapping[str, Outcome]


def run_steering(
  run: Run, config: SteerConfig, classifier: ClassifierConfig, workdir: str | pathlib.Path
) -> Steered:
  """Trains the classifier in <workdir>/classifier, steers the run without a label by every method.

  Args:
    run: a trained map of labelled images.
    config: the comparison; its reward's classifier is the one that is trained here.
    classifier: of the run's data.
    workdir: the demonstration's folder.
  """
  folder = pathlib.Path(workdir) / "classifier"
  summary = train_classifier(dataclasses.replace(classifier, data=run.config.data), folder)
  config = dataclasses.replace(config, reward=dataclasses.replace(config.reward, classifier=str(folder)))
  subject, reward = subjects.from_run(run), config.build_reward()
  subjects.check(subject, reward, config)
  assess = comparison.assessor(subject, config, reward)
  rows, outcomes = [], {}
  for row, outcome in comparison.compare(subject, reward, config, assess, keep=True):
    rows.append(row)
    outcomes[row["method"]] = outcome
  print(steer_report.text(config, rows), flush=True)
  return Steered(
    config=config,
    classifier=summary,
    subject=subject,
    reward=reward,
    assess=assess,
    rows=rows,
    outcomes=outcomes,
  )


def figures(found: Steered) -> dict[str, Any]:
  """What the demonstration's JSON says of it."""
  return {
    "classifier_accuracy_test": found.classifier["accuracy"],
    "steering": found.rows,
  }


def sections(found: Steered) -> list[report.Section]:
  """The report's sections on steering."""
  return [
    report.Section(
      "Steered to a mixture of classes", _explanation(found), table=steer_report.table(found.rows)
    ),
    report.Section(
      "Class proportions",
      "Best-of-N drifts to the reward's maximum, which one class alone reaches.",
      image=style.figure_png(_bars(found)),
      alt="Judged class proportions of each method beside the target",
    ),
    report.Section(
      "Quality against cost",
      "Distance to the target proportions (less is better) against passes for a sample; bars are two "
      "standard errors.",
      image=style.figure_png(_cost(found)),
      alt="Distance to the target proportions against cost for each method",
    ),
    report.Section(
      "Value along the way",
      f"V_t(x_t) = log E[exp r(X_1) | x_t] along the paths of {_count(found.config)} samples of each method, "
      f"estimated by {VALUE_DRAWS} posterior draws at each state; bands are two standard errors.",
      image=style.figure_png(_values(found)),
      alt="Mean value along the way from noise to data for each method",
    ),
    report.Section(
      "Paths from noise to data",
      f"{SHOWN} samples of each method from the same starting noise. Best-of-N chooses among paths of base.",
      image=style.figure_png(_paths(found)),
      alt="States at several times for each method",
    ),
    *[
      report.Section(
        f"Samples: {method}",
        "",
        image=grids.png_bytes(grids.image_grid(to_pixels(outcome.x1[:40]), columns=10, scale=6)),
        alt=f"Forty samples of {method}",
      )
      for method, outcome in found.outcomes.items()
    ],
  ]


def _explanation(found: Steered) -> str:
  config = found.config
  wanted = " and ".join(f"{share:.0%} of class {k}" for k, share in enumerate(found.assess.weights) if share)
  scales = ", ".join(f"{scale:g}" for scale in config.dps.scales)
  return f"""The same map, without a label, steered to {wanted}. The reward is log sum w_c p(c | x) by a
small convolutional classifier (accuracy {found.classifier["accuracy"]:.3f} on test images); the judge is the
support-vector classifier, which the reward does not know. All methods integrate the same
{config.sampler.upper()} in {config.steps} steps, all but Best-of-N from the same noise. Best-of-N and MFM-G
have as many draws as the cost of MFM-GF buys; DPS, which cannot spend more, has the best scale of {scales} on
a held-out seed.

Means over {config.seeds} seeds of {config.num} samples. class_l2: distance of the judged class proportions to
the target, with its standard error (_se). judge_score: mean target share of the judged class. diversity: mean
distance of two samples of one class. distance_to_base: energy distance to samples of the model without
steering. nfe: forward and backward passes of network and reward for a sample, as the paper counts them.
seconds: of a seed, without compilation."""


def _bars(found: Steered):
  judge, classes_ = found.assess.judge, len(found.assess.weights)
  frequencies = {
    method: classes.class_frequencies(judge.predict(outcome.x1), classes_)
    for method, outcome in found.outcomes.items()
  }
  return steering.class_bars(frequencies, found.assess.weights)


def _cost(found: Steered):
  points = [(steer_report.name(row), row["nfe"], row["class_l2"], row["class_l2_se"]) for row in found.rows]
  return steering.cost_chart(points, x_label="passes for a sample (NFE)", y_label="L2 to target proportions")


def _paths(found: Steered):
  at, times = _shown_times(found.config)
  paths = {
    method: to_pixels(outcome.path[at, :SHOWN])
    for method, outcome in found.outcomes.items()
    if _has_path(outcome)
  }
  return steering.path_panel(paths, times)


def _values(found: Steered):
  """V of every method's states by the same estimate, whatever the method itself knew."""
  subject = found.subject
  at, times = _shown_times(found.config)
  n = _count(found.config)
  t = jnp.repeat(jnp.asarray(times, jnp.float32), n)

  @jax.jit
  def estimate(params, key, x):
    options = {"draws": VALUE_DRAWS, "chunk": 1, "decode": subject.decode}
    cond = subject.cond(len(t))
    return value.estimate_value(key, subject.draws(params), t, x, found.reward, cond, **options).value

  values = {}
  for method, outcome in found.outcomes.items():
    if _has_path(outcome):
      x = jnp.asarray(outcome.path[at, :n]).reshape(-1, *subject.shape)
      values[method] = np.asarray(estimate(subject.params, jax.random.key(0), x)).reshape(len(times), n)
  return steering.value_curves(times, values, y_label="V, nats", order=list(found.outcomes))


def _count(config: SteerConfig) -> int:
  """Samples whose values are shown."""
  return min(VALUE_SAMPLES, config.num)


def _has_path(outcome: Outcome) -> bool:
  """All but Best-of-N, whose paths are the base model's."""
  return outcome.path is not None


def _shown_times(config: SteerConfig) -> tuple[np.ndarray, np.ndarray]:
  """Indices into the states of a path, and their times, from the first to the last."""
  grid = np.asarray(config.times("base"))
  wanted = np.linspace(grid[0], grid[-1], COLUMNS)
  at = np.unique(np.abs(grid[None] - wanted[:, None]).argmin(1))
  return at, grid[at]
