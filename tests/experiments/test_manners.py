"""Manners: help that explains, configurations by name, colours for terminals alone; the doctor."""

import io
import json

import pytest
import run_case
from test_cli_docs import COMMANDS, _table

from experiments import config_names
from mfm_jax.training import logging, terminal

FOLDER = run_case.ROOT / "experiments"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_the_command_and_all_its_flags(command, commands):
  done = commands(command, "--help")
  assert (done.status, done.err) == (0, "")
  assert done.out.strip().startswith((FOLDER / f"{command}.py").read_text().partition('"""')[2][:40])
  for flag in [*_table(command, "Flag"), "--debug"]:
    if flag != "--config.<key>":
      name = flag.removeprefix("--")
      assert f"--{name}:" in done.out or f"--[no]{name}:" in done.out, flag


def test_the_list_of_configurations(commands):
  done = commands("train", "--config=list")
  files = {path.stem for path in (FOLDER / "configs").glob("*.py")} - {"__init__", "common"}
  listed = done.json["configs"]
  assert set(listed) == files
  assert all(listed.values()), "every configuration says what it is"
  assert dict(line.split(maxsplit=1) for line in done.out.splitlines()[:-1]) == listed
  assert commands("steer", "--config", "list").json == done.json


def test_a_configuration_by_name_is_ours(tmp_path, monkeypatch):
  ours = FOLDER / "configs" / "gmm.py"
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine.py").write_text("")
  assert config_names.resolve("gmm") == str(ours)
  assert config_names.resolve("gmm:smoke") == f"{ours}:smoke"
  assert config_names.resolve("mine.py:smoke") == "mine.py:smoke"


def test_training_by_name(trained, commands, tmp_path):
  flags = ["--config", "gmm:smoke", *run_case.FLAGS[1:]]
  done = commands("train", *flags, f"--workdir={tmp_path}")
  assert done.json["params_sha256"] == trained[1].json["params_sha256"]


class _Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize(
  ("stream", "environment", "coloured"),
  [
    (_Terminal(), {}, True),
    (_Terminal(), {"NO_COLOR": "1"}, False),
    (_Terminal(), {"TERM": "dumb"}, False),
    (io.StringIO(), {}, False),
  ],
)
def test_colours_are_for_terminals(stream, environment, coloured, monkeypatch):
  monkeypatch.delenv("NO_COLOR", raising=False)
  monkeypatch.setenv("TERM", "xterm")
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert terminal.coloured("x", "red", stream) == ("\033[31mx\033[0m" if coloured else "x")


def test_the_time_left():
  times = {0: "0:00", 65.9: "1:05", 3599: "59:59", 3605: "1:00:05", 90_000: "25:00:00"}
  assert {seconds: logging.clock(seconds) for seconds in times} == times


def test_the_doctor_of_a_sound_machine(commands):
  done = commands("doctor")
  assert set(done.json) == set(_table("doctor", "JSON key"))
  assert done.json["problems"] == []
  assert "all that is required works" in done.out
  assert "\033" not in done.out


def test_the_doctor_of_a_broken_one(monkeypatch, commands):
  from mfm_jax.training import doctor

  monkeypatch.setenv("MFM_DATA_DIR", "/nowhere")
  monkeypatch.setattr(doctor, "_version", lambda name: {"jax": "0.9.0", "flax": None}.get(name, "99"))
  monkeypatch.setattr(
    doctor.importlib.metadata,
    "requires",
    lambda name: ["jax>=0.10,<0.12", "flax>=0.12", 'torch>=2.5; extra == "torch"'],
  )
  monkeypatch.setattr(
    doctor.np, "broadcast_to", lambda x, shape: x + 1
  )  # another gradient than the right one
  found = doctor.examine()
  assert found["extras"] == {"torch": {"torch": "99"}}
  wrong = [text for text in found["problems"] if text.startswith("computation: a gradient must be right to")]
  assert sorted(set(found["problems"]) - set(wrong)) == [
    "MFM_DATA_DIR must name a folder; got '/nowhere'",
    "flax must be installed; got none",
    "jax must be <0.12,>=0.10; got 0.9.0",
  ]
  assert len(wrong) == 1
  assert json.loads(json.dumps(found)) == found
  assert "flax" in doctor.text(found)


def test_a_broken_machine_is_status_2_after_the_figures(tmp_path):
  import subprocess
  import sys

  done = subprocess.run(
    [sys.executable, "-m", "experiments.doctor"],
    env=run_case.environment(MFM_DATA_DIR="/nowhere"),
    capture_output=True,
    text=True,
    check=False,
    cwd=tmp_path,
  )
  assert done.returncode == 2
  assert json.loads(done.stdout.splitlines()[-1])["problems"] == [
    "MFM_DATA_DIR must name a folder; got '/nowhere'"
  ]
  assert done.stderr == "error: broken: MFM_DATA_DIR must name a folder; got '/nowhere'\n"
