"""The commands and two runs that they trained, shared by the tests of the entry points."""

import pathlib

import cli_case
import pytest
import run_case

LABELLED = ["--config.data.labelled=True", "--config.draws.guidance_scales=(2.0,)"]


@pytest.fixture(scope="session")
def commands():
  """Runs `python -m experiments.<name>`: see `cli_case.Commands`."""
  with cli_case.Commands() as commands:
    yield commands


@pytest.fixture(scope="session")
def trained(commands, tmp_path_factory) -> tuple[pathlib.Path, cli_case.Done]:
  """A finished run of the smoke configuration, and what its command printed."""
  folder = tmp_path_factory.mktemp("trained") / "run"
  return folder, commands("train", *run_case.FLAGS, f"--workdir={folder}")


@pytest.fixture(scope="session")
def classifier(commands, tmp_path_factory) -> tuple[pathlib.Path, cli_case.Done]:
  """A classifier of the mixture's components, and what its command printed."""
  folder = tmp_path_factory.mktemp("classifier") / "run"
  config = f"--config={run_case.ROOT / 'experiments/configs/classifier_digits.py'}:smoke"
  data = {"data.name": "mixture", "batch_size": 64}
  sizes = {"steps": 300, "log_every": 100, "optimizer.learning_rate": 1e-2}
  flags = [f"--config.{key}={value}" for key, value in {**data, **sizes}.items()]
  return folder, commands("classifier", config, *flags, f"--workdir={folder}")


@pytest.fixture(scope="session")
def labelled(commands, tmp_path_factory) -> pathlib.Path:
  """A run with the mixture's components as labels, trained at guidance scales 1 and 2."""
  folder = tmp_path_factory.mktemp("labelled") / "run"
  assert commands("train", *run_case.FLAGS, *LABELLED, f"--workdir={folder}").status == 0
  return folder
