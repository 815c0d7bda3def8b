"""The configuration of one reward."""

import dataclasses

import numpy as np

from mfm_jax import checks
from mfm_jax.rewards import callback, classes, composition, likelihoods, published
from mfm_jax.rewards.published import PreferenceConfig
from mfm_jax.training.classifier import load_classifier
from mfm_jax.types import Reward

JOINS = ("sum", "minimum", "constraint")
REWARDS = ("likelihood", "quadratic", "classes", "python", *published.NAMES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
  """One reward on data space.

  Attributes:
    name: "likelihood", -|A x - y|^2 / (2 sigma^2); "quadratic", -|x - centre|^2 / (2 sigma^2); "classes",
      log sum_c classes_c p(c | x) by a trained classifier; "python", a function of NumPy arrays, without
      gradient; "clip", "pickscore", "hpsv2", "imagereward", "aesthetic", human preference of pictures.
    weight: multiplies it: lambda.
    matrix, observed: A and y of a likelihood; without them those of the paper's mixture.
    centre: of a quadratic.
    sigma: of both.
    classifier: folder of a run of experiments.classifier.
    classes: weights of its classes.
    function: "package.module:function", see `rewards.callback`.
    timeout: seconds that a call of it may take; 0 waits for ever.
    preference: files and prompts of a reward of human preference.
    join: how it joins the rewards before it: "sum", it is added; "minimum", the smaller counts; "constraint",
      they are subject to it being at least `bound` (`composition.constrained`; then its weight is 1).
    bound, strength, width: of a constraint: strength in units of theirs a unit of its own.
  """

  name: str = "likelihood"
  weight: float = 1.0
  matrix: tuple[tuple[float, ...], ...] = ()
  observed: tuple[float, ...] = ()
  centre: tuple[float, ...] = ()
  sigma: float = 0.2
  classifier: str = ""
  classes: tuple[float, ...] = ()
  function: str = ""
  timeout: float = 600.0
  preference: PreferenceConfig = dataclasses.field(default_factory=PreferenceConfig)
  join: str = "sum"
  bound: float = 0.0
  strength: float = 1.0
  width: float = 1.0

  def __post_init__(self):
    checks.one_of("reward.join", self.join, JOINS)
    own = {"bound": self.bound, "strength": self.strength, "width": self.width}
    if self.join == "constraint":
      composition.check_constraint(**own)
      if self.weight != 1.0:
        raise ValueError(f"reward.weight must be 1 with reward.join=constraint; got {self.weight}")
    elif own != {"bound": 0.0, "strength": 1.0, "width": 1.0}:
      raise ValueError(
        f"reward.bound, strength and width must be left alone without reward.join=constraint; got {own}"
      )
    checks.at_least("reward.timeout", self.timeout, 0)
    checks.one_of("reward.name", self.name, REWARDS)
    if (self.name == "python") != bool(self.function):
      raise ValueError(
        "reward.function must be given with reward.name=python, and with no other; got "
        f"{self.function!r} with {self.name}"
      )
    if self.name not in published.NAMES and self.preference != PreferenceConfig():
      raise ValueError(
        f"reward.preference must be left alone for a reward.name not of {', '.join(published.NAMES)}; got "
        f"{self.preference} with {self.name}"
      )
    if bool(self.matrix) != bool(self.observed):
      raise ValueError(
        "reward.matrix and reward.observed must be given together, or neither; got "
        f"{self.matrix} and {self.observed}"
      )

  def scaled(self, factor: float) -> "RewardConfig":
    """Its share of `factor` times the rewards that it is joined with."""
    if self.join == "constraint":
      return dataclasses.replace(self, strength=factor * self.strength)
    return dataclasses.replace(self, weight=factor * self.weight)

  def build(self) -> Reward:
    """The reward itself, without its weight.

    Raises:
      ValueError: values that the reward refuses, a folder that holds no classifier, files of weights or of a
        tokenizer that are not there or do not fit.
    """
    if self.name in published.NAMES:
      return self.preference.build(self.name)
    if self.name == "classes":
      if not self.classifier:
        raise ValueError("reward.classifier must name a trained classifier for reward.name=classes; got ''")
      try:
        classifier = load_classifier(self.classifier)
      except ValueError as error:
        raise ValueError(f"reward.classifier must be a folder of experiments.classifier; {error}") from None
      checks.shape("reward.classes", self.classes, (classifier.info.num_classes,))
      return classes.class_mixture(classifier.log_probs, self.classes)
    if self.name == "python":
      function = callback.load_callable(self.function)
      return callback.callback(function, name=self.function, timeout=self.timeout)
    if self.name == "quadratic":
      return likelihoods.quadratic(self.centre, self.sigma)
    if not self.matrix:
      return dataclasses.replace(likelihoods.paper_likelihood(), sigma=self.sigma)
    return likelihoods.GaussianLikelihood(
      matrix=np.asarray(self.matrix), observed=np.asarray(self.observed), sigma=self.sigma
    )


def scaled(reward: Reward, factor: float) -> Reward:
  """`factor` times a reward; a Gaussian likelihood stays one, with the factor in sigma."""
  if isinstance(reward, likelihoods.GaussianLikelihood) and factor > 0:
    return dataclasses.replace(reward, sigma=reward.sigma / factor**0.5)
  return composition.weighted_sum([reward], [factor])
