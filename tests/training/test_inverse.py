"""Posteriors of inverse problems: against a Gaussian law's closed form; figures, pictures, refusals."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from mfm_jax import oracles
from mfm_jax.data.datasets import DataConfig
from mfm_jax.data.sources import to_pixels
from mfm_jax.interpolants import Linear
from mfm_jax.metrics import calibration
from mfm_jax.training import inverse
from mfm_jax.training import subject as subjects
from mfm_jax.training.inverse import InverseConfig
from mfm_jax.training.steered import NotFiniteError

# Images of 2 x 2 pixels, whose right column follows the left one.
COV = 0.3 * np.array([[1.0, 0.8, 0, 0], [0.8, 1.0, 0, 0], [0, 0, 1.0, -0.8], [0, 0, -0.8, 1.0]])
LAW = oracles.gaussian_mixture([1.0], [[0.0, 0.2, -0.2, 0.0]], [COV])
CONFIG = InverseConfig(operators=("half:right",), sigma=0.2, samples=19, draws=16, steps=40, rows=19 * 40)


def vectors(velocity):
  """A velocity of vectors, for images; as built networks it refuses keys that are no inputs."""

  def of_images(*args):
    *args, cond = args
    assert cond is None, cond
    flat = [a.reshape(a.shape[0], -1) if a.ndim == 4 else a for a in args]
    return velocity(*flat, None).reshape(args[-1].shape)

  return of_images


SUBJECT = subjects.Subject(
  shape=(2, 2, 1),
  interpolant=Linear(),
  decode=to_pixels,
  cond=lambda n: None,
  params=(),
  marginal=lambda params: vectors(oracles.as_marginal(LAW, Linear())),
  draws=lambda params: vectors(oracles.as_sampler(LAW, Linear())),
  differentiable=None,
  run=None,
  mixture=None,
)


def truths(n):
  return to_pixels(np.asarray(oracles.sample(jax.random.key(5), LAW, n)).reshape(n, 2, 2, 1))


@pytest.fixture(scope="module")
def solved():
  return inverse.solve(SUBJECT, "half:right", truths(100), CONFIG)


def exact(y, sigma):
  """Mean and standard deviation of the posterior, (2, 2, 1), in data space."""
  seen = np.eye(4)[[0, 2]]
  law, _ = oracles.tilt(LAW, 0.5 * seen, y - 0.5, sigma)
  mean, std = np.asarray(law.means[0]), np.sqrt(np.diag(np.asarray(law.covs[0])))
  return to_pixels(mean).reshape(2, 2, 1), 0.5 * std.reshape(2, 2, 1)


def test_samples_are_those_of_the_closed_form_posterior(solved):
  pairs = [exact(y, CONFIG.sigma) for y in solved.observed]
  mean, std = (np.stack(part) for part in zip(*pairs, strict=True))
  z = (solved.samples - mean[:, None]) / std[:, None]
  count = z.size / 4
  # Each pixel: standard normal over observations and samples, up to the error of 40 steps and 16 draws.
  assert np.abs(z.mean((0, 1))).max() < 4 / np.sqrt(count) + 0.05
  assert np.abs(z.std((0, 1)) - 1).max() < 4 / np.sqrt(2 * count) + 0.08
  # They follow each observation, not only on average.
  assert calibration.moments(z)[0].std() < 1.15 / np.sqrt(19) + 0.1


def test_figures_of_calibrated_posteriors(solved):
  found = inverse.figures([solved], np.full((2, 2, 1), 0.5), CONFIG)
  assert abs(found["coverage"] - 0.9) < 4 * found["coverage_se"] + 0.02
  assert found["coverage_share"] == 1.0
  assert found["observations"] == 100
  assert found["nfe"] == 40 + 2 * 16 * 40
  hidden = np.array([[False, True]] * 2)[..., None]
  np.testing.assert_array_equal(solved.hidden, hidden)
  assert found["rmse_prior"] == pytest.approx(np.sqrt(((solved.truth - 0.5)[:, :, 1] ** 2).mean()), rel=1e-5)
  assert found["rmse"] < 0.8 * found["rmse_prior"]
  residual = (solved.samples[:, :, :, 0, 0] - solved.observed[:, None]) / CONFIG.sigma
  assert found["residual"] == pytest.approx(np.sqrt((residual**2).mean()), rel=1e-4)
  mean = residual.mean(1)
  assert found["mean_residual"] == pytest.approx(np.sqrt((mean**2).mean()), rel=1e-4)
  assert 1 < found["ess"] <= 16


def test_observations_are_the_truth_with_noise(solved):
  noise = solved.observed - solved.truth[:, :, 0, 0]
  assert abs(noise.std() - 0.2) < 4 * 0.2 / np.sqrt(2 * noise.size)
  assert solved.shown.shape == (100, 2, 2, 1)
  np.testing.assert_array_equal(solved.shown[:, :, 0, 0], solved.observed)
  assert np.isnan(solved.shown[:, :, 1]).all()


def test_blocks_bound_memory_and_cut_what_is_filled_up():
  """5 observations, 2 in a block: the last block has one of its own."""
  config = dataclasses.replace(CONFIG, steps=6, draws=2, rows=45)
  found = inverse.solve(SUBJECT, "half:right", truths(5), config)
  assert found.samples.shape == (5, 19, 2, 2, 1)
  assert found.ess.shape == (6,)
  assert len(np.unique(found.samples[:, :, 0, 0, 0])) == 5 * 19


def test_operators_without_hidden_pixels_count_all():
  config = dataclasses.replace(CONFIG, steps=6, draws=2)
  found = inverse.solve(SUBJECT, "pool:2", truths(3), config)
  assert found.hidden.all()
  assert found.shown.shape == found.observed.shape == (3, 1, 1, 1)


def test_posteriors_survive_their_file(solved, tmp_path):
  path = tmp_path / "half.npz"
  solved.save(path)
  read = inverse.Solved.load(path)
  for field in dataclasses.fields(inverse.Solved):
    np.testing.assert_array_equal(getattr(read, field.name), getattr(solved, field.name))
  assert (type(read.operator), type(read.seconds)) == (str, float)
  np.testing.assert_allclose(np.load(path)["mean"], solved.samples.mean(1), rtol=1e-4, atol=1e-6)
  assert np.load(path)["std"].shape == (100, 2, 2, 1)


def test_pooled_figures_weigh_by_pixels_and_share_images(solved):
  other = dataclasses.replace(solved, hidden=~solved.hidden, residual=2 * solved.residual)
  prior = np.full((2, 2, 1), 0.5)
  first, second = (inverse.figures([one], prior, CONFIG) for one in (solved, other))
  both = inverse.figures([solved, other], prior, CONFIG)
  assert both["observations"] == 200
  assert both["coverage"] == pytest.approx((first["coverage"] + second["coverage"]) / 2)
  assert both["residual"] == pytest.approx(first["residual"] * np.sqrt(2.5))
  twice = inverse.figures([solved, solved], prior, CONFIG)  # the same images say no more the second time
  assert twice["coverage_se"] == pytest.approx(first["coverage_se"])


# ---- a run of digits ----


def digits(**changes):
  """Steered digits without a network: draws around x_t."""
  run = types.SimpleNamespace(
    info=types.SimpleNamespace(image=True), config=types.SimpleNamespace(data=DataConfig(name="digits"))
  )
  options = {
    "shape": (8, 8, 1),
    "run": run,
    "marginal": lambda params: lambda t, x, cond: -x,
    "draws": lambda params: lambda s, u, x_s, t, x_t, cond: x_t - x_s + 0.3 * x_s,
  }
  return dataclasses.replace(SUBJECT, **{**options, **changes})


def test_all_operators_of_a_configuration():
  config = InverseConfig(operators=("half:right", "pool:2"), num=4, samples=19, draws=2, steps=3)
  found = list(inverse.inverse_problems(digits(), config))
  assert [name for name, _, _ in found] == ["half:right", "pool:2", "all"]
  assert [one.operator for one in found[-1][2]] == ["half:right", "pool:2"]
  assert found[-1][1]["observations"] == 8
  first, second = found[-1][2]
  assert first.picture(rows=3).axes
  # Other noise for each operator.
  assert (first.observed.ravel()[:4] != second.observed.ravel()[:4]).all()
  # What is known is not sampled again, and the rest comes out as before.
  marked = dataclasses.replace(first, seconds=-1.0)
  again = list(inverse.inverse_problems(digits(), config, {"half:right": marked}))
  assert again[-1][2][0] is marked
  np.testing.assert_array_equal(again[-1][2][1].samples, second.samples)


def test_images_are_spread_over_the_split():
  truth, mean = inverse.images(digits(), InverseConfig(num=4))
  assert truth.shape == (4, 8, 8, 1)
  assert 0 <= truth.min() <= truth.max() <= 1
  assert len(np.unique(truth.reshape(4, -1), axis=0)) == 4
  assert mean.shape == (8, 8, 1)
  assert len(inverse.images(digits(), InverseConfig())[0]) == 360


# ---- refusals ----


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"operators": ()}, "number of operators must be at least 1; got 0"),
    ({"split": "valid"}, "split must be one of train, test; got 'valid'"),
    ({"sampler": "heun"}, "sampler must be one of ode, sde; got 'heun'"),
    ({"num": -1}, "num must be at least 0; got -1"),
    ({"samples": 18}, "an interval of level 0.9 needs at least 19 samples; got 18"),
    ({"draws": 1}, "draws must be at least 2; got 1"),
    ({"jackknife": 3}, "jackknife must divide draws; got jackknife=3, draws=16"),
    ({"steps": 0}, "steps must be at least 1; got 0"),
    ({"rows": -1}, "rows must be at least 0; got -1"),
    ({"seed": -1}, "seed must be at least 0; got -1"),
    ({"start": 0.0}, r"start must lie in \(0, 1\); got 0.0"),
  ],
)
def test_bad_settings(changes, message):
  with pytest.raises(ValueError, match=message):
    InverseConfig(**changes)


def test_what_cannot_be_solved_is_refused_before_sampling():
  with pytest.raises(ValueError, match=r"inverse problems need a run of images; got examples of shape \(2,"):
    inverse.images(SUBJECT, CONFIG)
  with pytest.raises(ValueError, match="num must be at most 360, the size of the test split; got 361"):
    inverse.images(digits(), InverseConfig(num=361))
  with pytest.raises(ValueError, match=r"truth must have shape \(any, 2, 2, 1\)"):
    inverse.solve(SUBJECT, "half:right", np.zeros((1, 3, 2, 1)), CONFIG)
  plain = digits(draws=None)
  plain.run.workdir = "runs/flow"
  with pytest.raises(
    ValueError, match="MFM-GF needs a run trained as a map; got the marginal-only run runs/flow"
  ):
    inverse.solve(plain, "half:right", np.zeros((1, 8, 8, 1)), CONFIG)
  with pytest.raises(ValueError, match="factor must divide the sides"):
    next(inverse.inverse_problems(digits(), dataclasses.replace(CONFIG, operators=("half:right", "pool:3"))))


def test_samples_that_are_not_finite_are_named():
  nan = digits(marginal=lambda params: lambda t, x, cond: x * np.nan)
  with pytest.raises(NotFiniteError, match="got others for observation 0 of half:right"):
    inverse.solve(nan, "half:right", np.zeros((1, 8, 8, 1)), dataclasses.replace(CONFIG, steps=2))
