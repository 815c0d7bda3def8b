"""Which rows a benchmark has."""

import pytest

from mfm_jax.training import benchmark_cases
from mfm_jax.training.benchmark_config import BenchmarkConfig
from mfm_jax.training.steer_config import SteerConfig


def cases(**changes):
  methods = ("base", "best_of_n", "dps", "mfm_gf", "mfm_g", "hybrid")
  steer = SteerConfig(methods=methods)
  return benchmark_cases.cases(BenchmarkConfig(steer=steer, samplers=("ode",), draws=(1, 4), **changes))


def test_rows_of_every_method():
  found = cases(dps_steps=(0, 9))
  assert {case.sampler for case in found} == {"ode"}
  assert [(case.method, case.draws, case.steps) for case in found] == [
    ("base", (0,), 0),
    ("best_of_n", (1, 4), 0),
    ("dps", (0,), 0),
    ("dps", (0,), 9),
    ("mfm_gf", (4,), 0),
    ("mfm_g", (1,), 0),
    ("mfm_g", (4,), 0),
    ("hybrid", (4,), 0),
  ]


def test_methods_that_differentiate_every_draw_may_have_fewer():
  found = {case.method: case.draws for case in cases(draws_g=(2,))}
  assert (found["mfm_gf"], found["mfm_g"], found["hybrid"]) == ((4,), (2,), (2,))
  with pytest.raises(ValueError, match="draws must be at least 1; got 0"):
    cases(draws_g=(0,))
