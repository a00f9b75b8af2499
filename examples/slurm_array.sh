#!/usr/bin/env bash
# A grid of methods, targets and seeds by the jobs of a slurm array: each is a worker, all fill one run folder.
#
#     sbatch examples/slurm_array.sh                              # the demo
#     RECIPE=my.yaml OUTPUT=/shared/runs/mine sbatch --array=0-31 examples/slurm_array.sh
#
# Workers may start late, end early or be killed; more may be added to a run that is going on. What one leaves, another
# takes over; a job that is queued again goes on from the last checkpoint.
#SBATCH --job-name=prompttransfer
#SBATCH --array=0-7
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --output=slurm-%A_%a.log
set -euo pipefail

# Both on a file system that all nodes share; finished stages of a node's own disk would be trained by every node.
OUTPUT=${OUTPUT:-$PWD/runs/array}
export PROMPTTRANSFER_CACHE=${PROMPTTRANSFER_CACHE:-$PWD/runs/cache}
# The same number of threads everywhere, so that it does not matter to the last bit who makes a row.
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

exec "${PYTHON:-python}" -m prompttransfer compare --recipe "${RECIPE:-demo}" --output "$OUTPUT" --quiet
