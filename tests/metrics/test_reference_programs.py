"""Figures from given features against pytorch-fid and torch-fidelity, 2048 features. Needs both packages."""

import numpy as np
import pytest

from mfm_jax.metrics import features, statistics
from mfm_jax.metrics.statistics import Statistics

torch = pytest.importorskip("torch", reason="needs PyTorch, the extra `torch`")
fid_score = pytest.importorskip("pytorch_fid.fid_score", reason="needs pytorch-fid")
metric_kid = pytest.importorskip("torch_fidelity.metric_kid", reason="needs torch-fidelity")
metric_prc = pytest.importorskip("torch_fidelity.metric_prc", reason="needs torch-fidelity")
metric_isc = pytest.importorskip("torch_fidelity.metric_isc", reason="needs torch-fidelity")


def sample(seed: int, n: int, d: int, scale: float = 1.0) -> np.ndarray:
  """Correlated features above 0 with a spectrum that falls, as Inception's do."""
  rng = np.random.default_rng(seed)
  mix = np.random.default_rng(0).normal(size=(d, d)) * (1.0 + np.arange(d)) ** -0.5
  return np.maximum(scale * rng.normal(size=(n, d)) @ mix.T + 0.4, 0.0).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(3000, 256), (600, 512), (1500, 2048)])
def test_distance_is_that_of_pytorch_fid(n, d):
  x, y = sample(1, n, d), sample(2, n, d, 1.2)
  moments = [
    value for z in (x, y) for value in (z.mean(0, np.float64), np.cov(z.astype(np.float64), rowvar=False))
  ]
  expected = fid_score.calculate_frechet_distance(*moments)
  ours = (Statistics.empty(d).add(z).gaussian(few=True) for z in (x, y))
  assert statistics.frechet_distance(*ours) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.slow
def test_other_figures_are_those_of_torch_fidelity():
  x, y = sample(1, 700, 128), sample(2, 600, 128, 1.1)
  pair = torch.from_numpy(x), torch.from_numpy(y)
  options = {"kid_subsets": 2, "kid_subset_size": 600, "verbose": False}
  kid = metric_kid.kid_features_to_metric(pair[1], torch.from_numpy(x[:600]), **options)
  found = features.kid(x[:600], y, subsets=2, size=600)
  assert found.mean == pytest.approx(kid[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-3)
  prc = metric_prc.prc_features_to_metric(pair[1], pair[0], save_cpu_ram=False, verbose=False)
  assert features.precision_recall(x, y) == pytest.approx(
    (prc["precision"], prc["recall"]), abs=1e-6
  )  # theirs is float32
  isc = metric_isc.isc_features_to_metric(pair[0], splits=7, shuffle=False)
  expected = isc[metric_isc.KEY_METRIC_ISC_MEAN], isc[metric_isc.KEY_METRIC_ISC_STD]
  assert features.inception_score(x, splits=7) == pytest.approx(expected, rel=1e-4)
