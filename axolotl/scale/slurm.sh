#!/bin/bash
# One run on several machines under Slurm; the project's folder must lie on a file system that all of them share.
#
#   MODEL=mistral-nemo sbatch --nodes=2 axolotl/scale/slurm.sh
#   MODEL=mistral-nemo ABLATION=full SCALE=zero3 sbatch --nodes=4 --gres=gpu:8 axolotl/scale/slurm.sh
#
# The first machine composes the run for all GPUs together; then every machine starts its part, and the first draws the figures. Requeued
# or sent again after the job's end, it goes on from the last checkpoint.
#SBATCH --job-name=human-like
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --requeue
set -eu -o pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

MODEL=${MODEL:?the name of a base, such as mistral-nemo}
per_machine=${SLURM_GPUS_ON_NODE:?this job has no GPU; give --gres=gpu:N}
set -- MODEL="$MODEL" ABLATION="${ABLATION:-}" SCALE="${SCALE:-}" PAIRS="${PAIRS:-}" GPUS=$((SLURM_JOB_NUM_NODES * per_machine))
# What make calls the folder of this run: the same names, asked of make itself.
run=$(make --no-print-directory "$@" where | cut -d ' ' -f 1)

make --no-print-directory "$@" "$run/run.yaml"
if [ ! "$run/done" -nt "$run/run.yaml" ]; then
  export NODES=$SLURM_JOB_NUM_NODES MAIN_PORT=$((20000 + SLURM_JOB_ID % 20000)) per_machine run
  MAIN_ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  export MAIN_ADDRESS
  srun --kill-on-bad-exit=1 bash -c 'NODE_RANK=$SLURM_NODEID exec .venv/bin/python -m train.launch "$run" --gpus "$per_machine"'
fi
make --no-print-directory "$@" train
