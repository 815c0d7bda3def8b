"""Steered particles against Best-of-N: which rows there are, their cost, what is concluded."""

import pytest

from mfm_jax.training import against_best_of_n, benchmark_cases
from mfm_jax.training.benchmark_config import BenchmarkConfig, Published
from mfm_jax.training.steer_config import MethodConfig, SearchConfig, SteerConfig

CONFIG = BenchmarkConfig(
  steer=SteerConfig(
    methods=("base", "best_of_n", "dps", "mfm_gf", "mfm_g", "search"),
    search=SearchConfig(draws=4),
    mfm_gf=MethodConfig(draws=16),
  ),
  samplers=("ode",),
  draws=(1, 4, 16),
  draws_best=(1, 1000),
  particles=(2, 8),
  strengths=(1.0, 5.0),
  published=(Published(method="mfm_g", draws=4, cost_ratio=59.0),),
)


def row(method, reward, error=0.1, **more):
  more = {"sampler": "ode", "draws": 0, "steps": 250, "strength": None, "error": None, **more}
  return {"method": method, "reward": reward, "reward_se": error, "nfe": 250, **more}


def test_each_method_has_its_own_axis():
  found = benchmark_cases.cases(CONFIG)
  of = {name: [case for case in found if case.method == name] for name in CONFIG.steer.methods}
  assert [case.draws for case in of["best_of_n"]] == [(1, 1000)]
  assert [(case.particles, case.draws) for case in of["search"]] == [(2, (4,)), (8, (4,))]
  assert [(case.strength, case.draws[0]) for case in of["mfm_gf"]] == [(1, 4), (1, 16), (5, 4), (5, 16)]
  assert [case.strength for case in of["dps"]] == [1.0, 5.0]
  assert {case.strength for name in ("base", "best_of_n", "search") for case in of[name]} == {0.0}
  keys = [tuple(sorted(case.key.items(), key=str)) for case in found]
  assert len(set(keys)) == len(keys)
  settings = benchmark_cases.settings(CONFIG.steer, of["search"][1])
  assert (settings.search.particles, settings.search.draws, settings.methods) == (8, 4, ("search",))


def test_the_cost_against_best_of_1000_is_the_published_one():
  """The paper's counts at 250 steps."""
  assert benchmark_cases.largest_best_of_n(CONFIG) == 251_000
  for method, draws, ratio in (("mfm_g", 1, 201), ("mfm_g", 4, 59), ("mfm_g", 16, 15), ("mfm_gf", 16, 30)):
    nfe = CONFIG.steer.cost(method, draws).nfe
    found = against_best_of_n.with_costs(row(method, 1.0, draws=draws, nfe=nfe), CONFIG)
    assert round(found["cost_ratio"]) == ratio
    assert found["cost_ratio_published"] == (59.0 if (method, draws) == ("mfm_g", 4) else None)


def test_rewards_are_without_the_factor():
  found = against_best_of_n.with_costs(row("mfm_g", 3.0, 0.5, strength=5.0, judge_clip=2.0), CONFIG)
  assert (found["reward"], found["reward_se"], found["judge_clip"]) == (0.6, 0.1, 2.0)


def test_a_row_beats_best_of_n_by_two_standard_errors():
  rows = [
    row("base", 9.0),
    row("best_of_n", 0.5, draws=10),
    row("best_of_n", 1.0, draws=1000),
    row("mfm_g", 1.2, strength=1.0, cost_ratio=59.0),
    row("mfm_gf", 1.5, strength=1.0, cost_ratio=30.0),
    row("dps", 1.5, None, cost_ratio=251.0),
    {"method": "dps", "sampler": "ode", "error": "diverged"},
  ]
  found = against_best_of_n.verdicts(rows, "it wins")
  assert (found["candidates"], found["published"]) == (1000, "it wins")
  assert [(r["method"], r["beats"]) for r in found["rows"]] == [
    ("mfm_g", False),
    ("mfm_gf", True),
    ("dps", None),
  ]
  assert found["rows"][1]["difference"] == pytest.approx(0.5)
  assert found["rows"][1]["difference_se"] == pytest.approx(0.02**0.5)
  text = against_best_of_n.text(found)
  assert "1 of 2 rows of single particles beat Best-of-1000" in text
  assert "it wins" in text
  assert against_best_of_n.verdicts(rows[:1]) is None
  assert against_best_of_n.text(None) == ""
  assert len(against_best_of_n.figure(rows).axes) == 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"draws_best": (0,)}, "draws must be at least 1; got 0"),
    ({"particles": (0,)}, "particles must be at least 1; got 0"),
    ({"strengths": (0.0,)}, "strengths must be positive numbers; got 0.0"),
  ],
)
def test_mistakes(changes, message):
  with pytest.raises(ValueError, match=message):
    BenchmarkConfig(**changes)


def test_published_figures_are_checked():
  with pytest.raises(ValueError, match=r"published.method must be one of base, .*; got 'gf'"):
    Published(method="gf", draws=1, cost_ratio=1.0)
  with pytest.raises(ValueError, match=r"published.cost_ratio must be positive; got 0.0"):
    Published(method="dps", draws=0, cost_ratio=0.0)
