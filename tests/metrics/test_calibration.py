"""Coverage, ranks and errors of posterior samples: exact laws, cases by hand, refusals."""

import numpy as np
import pytest
from scipy import stats

from mfm_jax.metrics import calibration


def gaussian(n, count, scale=1.0, shape=()):
  """Truths and samples of n Gaussian posteriors with random means; the samples' spread is off by `scale`."""
  rng = np.random.default_rng(1)
  mean = rng.normal(size=(n, *shape))
  truth = mean + rng.normal(size=mean.shape)
  return mean[:, None] + scale * rng.normal(size=(n, count, *shape)), truth


@pytest.mark.parametrize(("level", "count"), [(0.9, 19), (0.9, 39), (0.5, 7), (0.8, 29)])
def test_exact_samples_have_exactly_the_nominal_coverage(level, count):
  n = 20_000
  inside = calibration.covered(*gaussian(n, count), level=level)
  assert abs(inside.mean() - level) < 4 * np.sqrt(level * (1 - level) / n)


def test_coverage_is_close_where_positions_are_no_whole_numbers():
  inside = calibration.covered(*gaussian(20_000, 32))
  assert abs(inside.mean() - 0.9) < 0.012
  # What the module's text says of ordinary quantiles.
  samples, truth = gaussian(20_000, 39)
  low, high = np.quantile(samples, [0.05, 0.95], axis=1)
  assert abs(((low <= truth) & (truth <= high)).mean() - 0.8575) < 0.01


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_spread_that_is_off_shows(scale):
  """The second smallest of 39 uniforms is Beta(2, 38); the truth lies below scale times its normal score."""
  u = (np.arange(100_000) + 0.5) / 100_000
  below = stats.norm.cdf(scale * stats.norm.ppf(stats.beta.ppf(u, 2, 38))).mean()
  inside = calibration.covered(*gaussian(20_000, 39, scale))
  assert abs(inside.mean() - (1 - 2 * below)) < 4 * np.sqrt(below / 20_000)


def test_intervals_by_hand():
  """S = 3, level .5: positions 1 and 3 of the sorted samples; S = 4: 1.25 and 3.75, interpolated."""
  three = np.array([[3.0, 1.0, 2.0]])
  for truth, expected in ((0.9, False), (1.0, True), (3.0, True), (3.1, False)):
    assert calibration.covered(three, [truth], level=0.5)[0] == expected
  four = np.array([[0.0, 10.0, 20.0, 30.0]])
  for truth, expected in ((2.4, False), (2.6, True), (27.4, True), (27.6, False)):
    assert calibration.covered(four, [truth], level=0.5)[0] == expected


def test_ranks_are_uniform_for_exact_samples_and_split_ties():
  samples, truth = gaussian(20_000, 4)
  share = np.bincount(calibration.ranks(samples, truth), minlength=5) / 20_000
  assert np.abs(share - 0.2).max() < 4 * np.sqrt(0.2 * 0.8 / 20_000)
  assert calibration.ranks(np.array([[1.0, 2.0, 2.0, 5.0]]), [2.0])[0] == 2


def test_report_by_hand():
  """Two observations of two coordinates; the second one's spread is too small to be judged."""
  samples = np.zeros((2, 3, 2))
  samples[:, :, 0] = [[0.0, 0.2, 0.4], [0.2, 0.4, 0.6]]
  samples[:, :, 1] = [0.50, 0.51, 0.52]
  truth = np.array([[0.3, 0.0], [0.9, 0.0]])
  found = calibration.report(samples, truth, level=0.5)
  assert found["coverage"] == 0.5  # of the first coordinate: in [0, .4], not in [.2, .6]
  assert found["coverage_share"] == 0.5
  # Pairs (1, 1), (0, 1): residuals .5, -.5, so sqrt(.5 * 2 / 1) / 2.
  assert found["coverage_se"] == pytest.approx(0.5)
  rmse = np.sqrt((0.1**2 + 0.5**2 + 2 * 0.51**2) / 4)
  assert found["rmse"] == pytest.approx(rmse)
  assert found["spread"] == pytest.approx(np.sqrt((2 * 0.04 + 2 * 0.0001) / 4))
  assert found["psnr"] == pytest.approx(-20 * np.log10(rmse))
  alone = calibration.report(samples, truth, level=0.5, hidden=[True, False])
  assert alone["rmse"] == pytest.approx(np.sqrt((0.1**2 + 0.5**2) / 2))
  each = calibration.report(samples, truth, level=0.5, hidden=[[True, False], [False, True]])
  assert each["coverage"] == 1.0
  assert np.isnan(each["coverage_se"])
  assert each["rmse"] == pytest.approx(np.sqrt((0.1**2 + 0.51**2) / 2))


def test_what_cannot_be_said_is_nan():
  samples = np.full((2, 3, 1), 0.25)
  found = calibration.report(samples, np.full((2, 1), 0.25), level=0.5)
  assert np.isnan(found["coverage"])
  assert found["coverage_share"] == 0.0
  assert found["psnr"] == float("inf")


def test_standard_error_is_the_scatter_of_repetitions_and_groups_widen_it():
  """Coordinates of an observation share their error: 20 of them say hardly more than one."""
  coverages, errors = [], []
  for seed in range(200):
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(50, 19, 20))
    truth = np.repeat(rng.normal(size=(50, 1)), 20, axis=1)
    found = calibration.report(samples, truth, least_std=0.0)
    coverages.append(found["coverage"])
    errors.append(found["coverage_se"])
  assert np.mean(errors) == pytest.approx(np.std(coverages), rel=0.2)
  twice = calibration.report(np.tile(samples, (2, 1, 1)), np.tile(truth, (2, 1)), groups=[*range(50)] * 2)
  assert twice["coverage_se"] == pytest.approx(errors[-1])


def test_calibrated_samples_have_the_rmse_of_their_spread():
  found = calibration.report(*gaussian(5_000, 19, shape=(2,)))
  assert found["rmse"] == pytest.approx(found["spread"] * np.sqrt(1 + 1 / 19), rel=0.03)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: calibration.covered(np.zeros((2, 18)), np.zeros(2)),
      "an interval of level 0.9 needs at least 19 samples; got 18",
    ),
    (
      lambda: calibration.covered(np.zeros((2, 3)), np.zeros(2), level=1.0),
      r"level must lie in \(0, 1\); got 1.0",
    ),
    (
      lambda: calibration.covered(np.zeros((2, 3)), np.zeros(3)),
      r"samples must have shape \(3, any\); got \(2, 3\)",
    ),
    (
      lambda: calibration.ranks(np.zeros((2, 3, 4)), np.zeros((2, 5))),
      r"samples must have shape \(2, any, 5\); got \(2, 3, 4\)",
    ),
    (
      lambda: calibration.moments(np.zeros((2, 1))),
      "the number of samples must be at least 2; got 1",
    ),
    (
      lambda: calibration.report(np.zeros((2, 19, 3)), np.zeros((2, 3)), hidden=np.zeros(3)),
      "hidden must hold at least one coordinate; got none",
    ),
    (
      lambda: calibration.report(np.zeros((2, 19, 3)), np.zeros((2, 3)), hidden=np.ones(2)),
      r"hidden must have shape \(3,\); got \(2,\)",
    ),
    (
      lambda: calibration.report(np.zeros((2, 19, 3)), np.zeros((2, 3)), hidden=np.ones((3, 3))),
      r"hidden must have shape \(2, 3\); got \(3, 3\)",
    ),
    (
      lambda: calibration.report(np.zeros((2, 19, 3)), np.zeros((2, 3)), groups=[0]),
      r"groups must have shape \(2,\); got \(1,\)",
    ),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()
