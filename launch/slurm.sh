#!/usr/bin/env bash
# A training on SLURM: sbatch launch/slurm.sh --config=imagenet_xl2_distill --workdir=runs/xl2 ...
# (from the root of the checkout, which all nodes see). Other sizes: sbatch --nodes=1 --gpus-per-node=4
# --ntasks-per-node=4 launch/slurm.sh ...
#SBATCH --job-name=mfm
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#
# One task a GPU, as JAX takes it on SLURM. Five minutes before its time is up, and when it is preempted, a
# training gets SIGTERM: it saves, and the job queues again and goes on.
set -euo pipefail
if [ $# -eq 0 ]; then
  sed -n 's/^# //p' "$0"
  exit 2
fi
PYTHON="${PYTHON:-.venv/bin/python}"

export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-8}" # which srun has not taken from the job since SLURM 22.05
status=0
srun "$PYTHON" -m experiments.train "$@" --distributed || status=$?
if [ "$status" -eq 143 ]; then # ended by SIGTERM
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
