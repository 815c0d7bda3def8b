#!/usr/bin/env bash
# A training on a TPU slice of Google Cloud, through queued resources. Every command may be repeated.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: launch/gcloud_tpu.sh [--dry-run] COMMAND [-- PROGRAM...]

  create   ask for the slice, unless it is asked for or there already
  wait     until the slice is there
  copy     the committed files of this checkout to all workers
  setup    on all workers: the shared folder, Python, the requirements, JAX for TPU
  run      PROGRAM on all workers, unless it runs already; it goes on when this terminal is closed
  logs     follow the output of worker 0
  status   state of the slice; of the program: running, finished, failed or absent
  resume   all of the above up to run, after a preemption on a new slice; PROGRAM as before
  delete   the slice, where there is one

PROGRAM starts at `-m`, and is given --distributed:
  launch/gcloud_tpu.sh resume -- -m experiments.train --config=imagenet_xl2_distill --workdir=/mnt/mfm/xl2 ...

--dry-run prints every command in place of calling it. Environment:
  NAME         of the slice (required)
  ZONE         e.g. us-west4-a (required)
  PROJECT      default: that of gcloud
  ACCELERATOR  default v5litepod-16
  RUNTIME      default v2-alpha-tpuv5-lite
  SPOT         1: a slice that may be preempted
  NFS          <server>:/<share> to be mounted at /mnt/mfm, for run folders: with several workers they must
               share one file system, and a run resumes from what lies there
  POLL         seconds between two looks of `wait`, default 30
USAGE
}

fail() {
  echo "error: $*" >&2
  exit 2
}

# Calls a command, or prints it.
act() {
  if [ "$dry_run" = 1 ]; then
    printf '+%s\n' "$(printf ' %q' "$@")" >&3
  else
    "$@" 3>&-
  fi
}

# queued <verb> <flags>: of the queued resource. tpu <verb> <arguments>: of its machines.
queued() { act gcloud compute tpus queued-resources "$1" "$NAME" "${where[@]}" "${@:2}"; }
tpu() { act gcloud compute tpus tpu-vm "$1" "${@:2}" "${where[@]}"; }
on_all() { tpu ssh "$NAME" --worker=all --command="$1"; }

# state <of a dry run>: ABSENT, or what gcloud says: ACCEPTED, WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE,
# SUSPENDING, SUSPENDED, FAILED, DELETING. A failure other than the absence of the slice stops the script.
state() {
  local said
  if [ "$dry_run" = 1 ]; then
    queued describe --format='value(state.state)'
    echo "$1"
  elif said="$(queued describe --format='value(state.state)' 2>&1)"; then
    tail -n 1 <<<"$said" # warnings of gcloud come first
  elif grep -q NOT_FOUND <<<"$said"; then
    echo ABSENT
  else
    fail "gcloud cannot say in which state $NAME is: $said"
  fi
}

create() {
  local now
  now="$(state ABSENT)"
  case "$now" in
    ABSENT)
      queued create --node-id="$NAME" --accelerator-type="${ACCELERATOR:-v5litepod-16}" \
        --runtime-version="${RUNTIME:-v2-alpha-tpuv5-lite}" "${spot[@]}"
      ;;
    FAILED | SUSPEND*) fail "$NAME is $now and will not come back by itself; resume makes a new one" ;;
    DELETING) fail "$NAME is being deleted; try again when it is gone" ;;
    *) echo "$NAME is asked for already: $now" ;;
  esac
}

wait_for() {
  local now
  while true; do
    now="$(state ACTIVE)"
    case "$now" in
      ACTIVE) return ;;
      ABSENT | FAILED | SUSPEND* | DELETING) fail "$NAME is $now; it will not become active" ;;
    esac
    echo "$NAME: $now"
    sleep "${POLL:-30}"
  done
}

copy() {
  local archive
  archive="$(mktemp -d)"
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$archive'" EXIT
  [ -z "$(git -C "$root" status --porcelain)" ] || echo "Changes that are not committed stay here." >&2
  act git -C "$root" archive --format=tar.gz --output="$archive/mfm.tar.gz" HEAD
  tpu scp "$archive/mfm.tar.gz" "$NAME:mfm.tar.gz" --worker=all
  on_all 'mkdir -p mfm && tar -xzf mfm.tar.gz -C mfm'
}

# The machines come with an older Python than is needed here; uv brings one.
setup() {
  local mount=''
  if [ -n "${NFS:-}" ]; then
    mount="sudo mkdir -p /mnt/mfm
mountpoint -q /mnt/mfm || sudo mount -t nfs $(printf %q "$NFS") /mnt/mfm
sudo chmod a+rwx /mnt/mfm"
  fi
  on_all "set -e
sudo apt-get -qq install -y make nfs-common
$mount
cd mfm
python3 -m pip install --quiet --user uv; export PATH=\"\$HOME/.local/bin:\$PATH\"
uv python install --quiet 3.12; make setup PYTHON=\"\$(uv python find 3.12)\"
uv pip install --quiet --python .venv 'jax[tpu]' -c requirements.txt"
}

# What a worker knows of the program: its process, its output, its exit status when it has ended.
run() {
  [ $# -gt 0 ] || fail "a program must come after --; got none"
  local program
  program="$(printf ' %q' .venv/bin/python "$@" --distributed)"
  on_all "cd mfm; if [ ! -f status ] && [ -f pid ] && kill -0 \"\$(cat pid)\" 2>/dev/null; then echo 'runs already'; exit; fi
rm -f status; nohup setsid sh -c $(printf %q "$program >>log 2>&1; echo \$? >status") >/dev/null 2>&1 </dev/null &
echo \$! >pid"
}

logs() { tpu ssh "$NAME" --worker=0 --command='tail -n 100 -F mfm/log'; }

program() {
  # shellcheck disable=SC2016  # expanded over there
  tpu ssh "$NAME" --worker=0 --command='cd mfm 2>/dev/null || { echo absent; exit; }
if [ -f status ]; then
  if [ "$(cat status)" = 0 ]; then echo finished; else echo "failed with status $(cat status)"; fi
elif [ -f pid ] && kill -0 "$(cat pid)" 2>/dev/null; then echo running; else echo absent; fi'
}

status() {
  local now
  now="$(state ACTIVE)"
  echo "slice: $now"
  if [ "$now" = ACTIVE ]; then
    echo "program: $(program)"
  fi
}

# A preempted slice does not come back: its queued resource is replaced.
resume() {
  [ $# -gt 0 ] || fail "a program must come after --; got none"
  local now
  now="$(state SUSPENDED)"
  case "$now" in
    FAILED | SUSPEND*) delete ;;
    ACTIVE)
      if [ "$(program)" = running ]; then
        echo "$NAME is active, and the program runs"
        return
      fi
      ;;
  esac
  create
  wait_for
  copy
  setup
  run "$@"
}

delete() {
  local now
  now="$(state ACTIVE)"
  case "$now" in
    ABSENT) echo "there is no $NAME" ;;
    DELETING) echo "$NAME is being deleted already" ;;
    *) queued delete --force --quiet ;; # with its machines; returns when they are gone
  esac
}

exec 3>&1 # where a dry run prints, in the midst of a substitution too
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
dry_run=0
if [ "${1:-}" = --dry-run ]; then
  dry_run=1
  shift
fi
command="${1:-}"
[ $# -eq 0 ] || shift
case "$command" in
  create | copy | setup | logs | status | delete) [ $# -eq 0 ] || fail "$command takes no arguments; got $*" ;;
  wait) command=wait_for ;;
  run | resume) [ "${1:-}" != -- ] || shift ;;
  -h | --help) usage && exit ;;
  *) usage >&2 && fail "COMMAND must be one of those above; got '$command'" ;;
esac
[ -n "${NAME:-}" ] || fail "NAME must be set in the environment: the name of the slice"
[ -n "${ZONE:-}" ] || fail "ZONE must be set in the environment, e.g. us-west4-a"
[ "$dry_run" = 1 ] || type gcloud >/dev/null 2>&1 || fail "gcloud must be on the PATH; got none"
where=(--zone="$ZONE")
[ -z "${PROJECT:-}" ] || where+=(--project="$PROJECT")
spot=()
[ "${SPOT:-0}" != 1 ] || spot=(--spot)
"$command" "$@"
