"""How steered samples fare against Best-of-N: by cost, by reward, and beside what is published."""

from collections.abc import Mapping, Sequence
from typing import Any

from mfm_jax.steering import cost
from mfm_jax.training.benchmark_cases import largest_best_of_n
from mfm_jax.training.benchmark_config import BenchmarkConfig
from mfm_jax.viz.benchmark import reward_curves

Row = dict[str, Any]


def with_costs(row: Row, config: BenchmarkConfig) -> Row:
  """A row of `comparison.run_method`, its rewards without the factor, with its cost against Best-of-N's."""
  factor, largest = row["strength"] or 1.0, largest_best_of_n(config)
  known = {(own.method, own.draws): own.cost_ratio for own in config.published}
  rewards = {name: row[name] and row[name] / factor for name in ("reward", "reward_se")}
  return {
    **row,
    **rewards,
    "cost_ratio": largest / row["nfe"] if largest else None,
    "cost_ratio_published": known.get((row["method"], row["draws"])),
  }


def verdicts(rows: Sequence[Row], claim: str = "") -> dict[str, Any] | None:
  """Whether single particles reach a higher reward than Best-of-N with the largest N that was measured.

  Args:
    rows: of `with_costs`, or of cases that failed.
    claim: what is published of it.

  Returns:
    None without rows to compare; else "published", the claim; "candidates", N; "rows", one a single particle:
    what tells it apart, "difference" of the mean rewards and "difference_se", "beats", whether it is above
    two standard errors (None where these are not known).
  """
  sound = [row for row in rows if not row["error"] and row["reward"] is not None]
  best: dict[str, dict[str, Any]] = {}
  for row in sound:
    if row["method"] == "best_of_n" and row["draws"] > best.get(row["sampler"], {"draws": 0})["draws"]:
      best[row["sampler"]] = row
  out = []
  for row in sound:
    if row["method"] in cost.GUIDES and row["sampler"] in best:
      other = best[row["sampler"]]
      difference, errors = row["reward"] - other["reward"], (row["reward_se"], other["reward_se"])
      error = None if None in errors else (errors[0] ** 2 + errors[1] ** 2) ** 0.5
      names = ("sampler", "method", "draws", "steps", "strength", "cost_ratio")
      beats = None if error is None else difference > 2 * error
      verdict = {"difference": difference, "difference_se": error, "beats": beats}
      out.append({**{name: row[name] for name in names}, **verdict})
  if not out:
    return None
  return {"published": claim, "candidates": max(row["draws"] for row in best.values()), "rows": out}


def text(found: Mapping[str, Any] | None) -> str:
  """One line of it for people; "" for None."""
  if not found:
    return ""
  known = [row for row in found["rows"] if row["beats"] is not None]
  count = sum(row["beats"] for row in known)
  published = f"; published: {found['published']}" if found["published"] else ""
  return (
    f"{count} of {len(known)} rows of single particles beat Best-of-{found['candidates']} by more than two "
    f"standard errors{published}"
  )


def figure(rows: Sequence[Row], *, order: Sequence[str] = ()):
  """Reward against cost, a chart a sampler and factor; methods without one of these are in all charts."""
  sound = [row for row in rows if not row["error"]]
  strengths = list(dict.fromkeys(row["strength"] for row in sound if row["strength"])) or [None]
  samplers = list(dict.fromkeys(row["sampler"] for row in sound if row["sampler"])) or [""]
  panels: dict[str, dict[str, list]] = {}
  for sampler in samplers:
    for strength in strengths:
      title = sampler.upper() + (f", λ = {strength:g}" if strength else "")
      for row in sound:
        if row["sampler"] in (sampler, "") and row["strength"] in (strength, None):
          point = row["nfe"], row["reward"], row["reward_se"]
          panels.setdefault(title, {}).setdefault(row["method"], []).append(point)
  return reward_curves(panels, order=order)
