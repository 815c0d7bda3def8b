"""launch/gcloud_tpu.sh against a `gcloud` of our own, which has a state and runs what workers are told."""

import os
import pathlib
import subprocess
import tarfile
import time

import pytest
import run_case

SCRIPT = run_case.ROOT / "launch" / "gcloud_tpu.sh"
# The state of the slice is the file `state`; every call is a line of `calls`. A worker's home is `worker`.
GCLOUD = r"""#!/usr/bin/env bash
set -eu
printf '%q ' "$@" >>calls; echo >>calls
case "$3 $4" in
  "queued-resources describe")
    if [ -f broken ]; then echo "ERROR: PERMISSION_DENIED" >&2; exit 1; fi
    if [ ! -f state ]; then echo "ERROR: NOT_FOUND: Resource 'x' was not found" >&2; exit 1; fi
    cat state
    # What is asked for is there at the next look.
    if [ "$(cat state)" = ACCEPTED ]; then echo ACTIVE >state; fi ;;
  "queued-resources create") [ ! -f state ]; echo ACCEPTED >state ;;
  "queued-resources delete") rm state; rm -rf worker; mkdir worker ;;
  "tpu-vm scp") cp "$5" worker/mfm.tar.gz ;;
  "tpu-vm ssh")
    for arg in "$@"; do case "$arg" in --command=*) command="${arg#--command=}" ;; esac; done
    case "$command" in *apt-get*) exit ;; esac  # the set-up of a real machine
    cd worker && bash -c "$command" ;;
esac
"""


class Cloud:
  """A folder with the false gcloud, and the script called in it."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    (folder / "bin").mkdir()
    (folder / "worker").mkdir()
    (folder / "bin" / "gcloud").write_text(GCLOUD)
    (folder / "bin" / "gcloud").chmod(0o755)

  def __call__(self, *args: str, status: int = 0, **environment: str) -> str:
    env = {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "NAME": "x", "ZONE": "z"}
    env = {**env, "POLL": "0", **environment}
    done = subprocess.run(
      [SCRIPT, *args], cwd=self.folder, env=env, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + (done.stderr if status else "")

  def put(self, state: str) -> None:
    (self.folder / "state").write_text(state + "\n")

  def calls(self) -> list[str]:
    """Verbs since the last call of this, such as `create`."""
    path = self.folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.write_text("")
    return [line.split()[3] for line in lines]

  def program(self) -> pathlib.Path:
    """A stand-in for Python on the worker, which runs until the file `end` has its status."""
    path = self.folder / "worker" / "mfm" / ".venv" / "bin" / "python"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
      '#!/usr/bin/env bash\necho "$@" >>started\nwhile [ ! -f end ]; do sleep .02; done\nexit $(cat end)\n'
    )
    path.chmod(0o755)
    return self.folder / "worker" / "mfm"

  def until(self, said: str) -> None:
    deadline = time.monotonic() + 20
    while f"program: {said}" not in (out := self("status")):
      assert time.monotonic() < deadline, out
      time.sleep(0.05)


@pytest.fixture
def cloud(tmp_path):
  return Cloud(tmp_path)


def test_creating_and_deleting_twice_do_it_once(cloud):
  cloud("create", SPOT="1", PROJECT="p")
  assert "--spot" in (cloud.folder / "calls").read_text()
  assert cloud.calls() == ["describe", "create"]
  assert "asked for already: ACCEPTED" in cloud("create")
  assert cloud.calls() == ["describe"]
  cloud("wait")
  assert "asked for already: ACTIVE" in cloud("create")
  cloud.calls()
  cloud("delete")
  assert "there is no x" in cloud("delete")
  assert cloud.calls() == ["describe", "delete", "describe"]


def test_a_program_runs_once_on_and_says_how_it_ended(cloud):
  cloud.put("ACTIVE")
  assert "program: absent" in cloud("status")
  folder = cloud.program()
  cloud("run", "--", "-m", "experiments.train", "--workdir=/a b")
  cloud.until("running")
  cloud("run", "--", "-m", "experiments.train", "--workdir=/a b")
  (folder / "end").write_text("3")
  cloud.until("failed with status 3")
  assert (folder / "started").read_text() == "-m experiments.train --workdir=/a b --distributed\n"
  (folder / "end").write_text("0")
  cloud("run", "--", "-m", "experiments.train")
  cloud.until("finished")
  assert len((folder / "started").read_text().splitlines()) == 2


def test_a_preempted_slice_is_replaced_and_the_program_started_again(cloud):
  cloud.put("SUSPENDED")
  assert "resume makes a new one" in cloud("create", status=2)
  assert "it will not become active" in cloud("wait", status=2)
  cloud.calls()
  out = cloud("resume", "--", "-m", "experiments.train")
  looks = ["describe", "describe", "delete", "describe", "create", "describe", "describe"]
  assert cloud.calls() == [*looks, "scp", "ssh", "ssh", "ssh"], out
  assert (cloud.folder / "worker" / "mfm" / "setup.cfg").is_file()  # the checkout came over
  with tarfile.open(cloud.folder / "worker" / "mfm.tar.gz") as archive:
    assert "Makefile" in archive.getnames()


def test_resuming_what_runs_touches_nothing(cloud):
  cloud.put("ACTIVE")
  folder = cloud.program()
  cloud("run", "--", "-m", "experiments.train")
  cloud.until("running")
  cloud.calls()
  assert "the program runs" in cloud("resume", "--", "-m", "experiments.train")
  assert cloud.calls() == ["describe", "ssh"]
  (folder / "end").write_text("0")
  cloud.until("finished")


def test_a_dry_run_prints_every_command_and_calls_none(cloud):
  out = cloud("--dry-run", "resume", "--", "-m", "experiments.train", NFS="10.0.0.2:/share", PROJECT="p")
  assert cloud.calls() == []
  printed = "\n".join(line.removeprefix("+ ") for line in out.splitlines() if line.startswith("+ gcloud"))
  show = "gcloud() { echo ${*//$'\\n'/ }; }\n"  # what the shell makes of a line
  done = subprocess.run(["bash", "-c", show + printed], capture_output=True, text=True, check=True)
  lines = [line.split() for line in done.stdout.splitlines()]
  verbs = [line[3] for line in lines]
  assert [verb for verb in verbs if verb != "describe"] == ["delete", "create", "scp", "ssh", "ssh", "ssh"]
  assert all("--zone=z" in line and "--project=p" in line for line in lines)
  assert "mount -t nfs 10.0.0.2:/share /mnt/mfm" in out
  for command in ("create", "wait", "copy", "setup", "status", "logs", "delete"):
    assert "+ gcloud compute tpus" in cloud("--dry-run", command)
  assert cloud.calls() == []


@pytest.mark.parametrize(
  ("args", "environment", "message"),
  [
    ([], {}, "COMMAND must be one of those above; got ''"),
    (["creat"], {}, "COMMAND must be one of those above; got 'creat'"),
    (["create", "now"], {}, "create takes no arguments; got now"),
    (["run"], {}, "a program must come after --; got none"),
    (["resume", "--"], {}, "a program must come after --; got none"),
    (["create"], {"NAME": ""}, "NAME must be set"),
    (["create"], {"ZONE": ""}, "ZONE must be set"),
  ],
)
def test_mistakes(cloud, args, environment, message):
  assert message in cloud(*args, status=2, **environment)
  assert cloud.calls() == []


@pytest.mark.parametrize("command", [["create"], ["wait"], ["delete"], ["status"], ["resume", "--", "x"]])
def test_a_state_that_gcloud_cannot_tell_stops_the_script(cloud, command):
  (cloud.folder / "broken").write_text("")
  assert "cannot say in which state x is: ERROR: PERMISSION_DENIED" in cloud(*command, status=2)
  assert cloud.calls() == ["describe"]
