#!/bin/bash
# One comparison on the nodes of a SLURM cluster: every task of the array runs the same command, and the tasks share the
# trials by a journal file on the shared disk. Submit from the folder of your task file:
#
#     sbatch slurm_array.sh my_task.py:task --optimizers sgd,adamw,lion --trials 8
#
# A task that is killed (time limit, preemption) loses the trial that it runs; the other tasks run that trial again.
# Submit the same command again to continue. Each runs/node-N/report.html has the whole comparison.
#SBATCH --job-name=compare
#SBATCH --array=0-7
#SBATCH --cpus-per-task=4
#SBATCH --time=02:00:00
set -eu
cd "${SLURM_SUBMIT_DIR:-.}"
exec stepwell compare "$@" \
    --jobs 1 --threads "${SLURM_CPUS_PER_TASK:-1}" \
    --storage "journal://$PWD/comparison.log" \
    --out "runs/node-${SLURM_ARRAY_TASK_ID:-0}"
