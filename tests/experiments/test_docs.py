"""README and guides: their links lead somewhere, their commands are accepted, their Python runs."""

import json
import re
import subprocess
import sys

import docs_case
import jax
import pytest
import run_case

from experiments import config_names
from mfm_jax.training.benchmark_config import BenchmarkConfig
from mfm_jax.training.classifier import ClassifierConfig
from mfm_jax.training.config import RunConfig, check_key
from mfm_jax.training.finetune_config import FinetuneConfig
from mfm_jax.training.steer_config import SteerConfig

CONFIGS = (RunConfig, SteerConfig, FinetuneConfig, BenchmarkConfig, ClassifierConfig)
pages = pytest.mark.parametrize("page", docs_case.PAGES, ids=docs_case.name)


@pages
def test_every_link_leads_somewhere(page):
  for link in docs_case.links(page):
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists(), link
    if anchor:
      assert anchor in docs_case.anchors(target), link


def test_every_command_is_accepted():
  """Up to where its work begins."""
  commands = sorted({command for page in docs_case.PAGES for command in docs_case.commands(page)})
  commands = [command for command in commands if command[1:]]
  done = subprocess.run(
    [sys.executable, "-m", "parse_only"],
    input=json.dumps(commands),
    env=run_case.environment(),
    cwd=run_case.ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  answers = [json.loads(line) for line in done.stdout.splitlines()]
  assert len(answers) == len(commands), done.stderr
  in_passing = "--config must name a configuration; got none"
  assert [answer for answer in answers if answer[1] and in_passing not in answer[1]] == []


def _exists(key: str) -> bool:
  for config in CONFIGS:
    try:
      check_key(config, key)
    except ValueError:
      continue
    return True
  return False


@pages
def test_what_is_named_is_there(page):
  """Keys, configurations, files and targets of make, wherever they stand in code."""
  targets = re.findall(r"^([a-z-]+):", (run_case.ROOT / "Makefile").read_text(), re.MULTILINE)
  for program, *_ in docs_case.commands(page):
    assert (run_case.ROOT / "experiments" / f"{program}.py").exists(), program
  for line in docs_case.code(page, anything="*"):
    for key in re.findall(r"\bconfig\.([a-z_.]+)=", line):
      assert _exists(key), line
    for given in re.findall(r"--config=([a-z_0-9]+)\b(?![./*])", line):
      assert given == "list" or given in config_names.shipped(), line
    for path in re.findall(
      r"(?:^|[\s=\"])((?:tests|docs|experiments|mfm_jax|launch|notebooks)/[\w./*-]+)", line
    ):
      assert list(run_case.ROOT.glob(path.rstrip("."))), line
    for target in re.findall(r"(?:^|\s)make ([a-z-]+)", line):
      assert target in targets, line


@pytest.mark.parametrize(
  "page", [page for page in docs_case.PAGES if docs_case.snippets(page)], ids=docs_case.name
)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
  """As a user has it, in an empty folder: the strictness of the tests is for the library."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  names = {"__name__": "page"}
  with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
    for snippet in docs_case.snippets(page):
      exec(compile(snippet, docs_case.name(page), "exec"), names)
