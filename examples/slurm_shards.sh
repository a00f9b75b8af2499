#!/usr/bin/env bash
# A grid of methods, targets and seeds as a Slurm array, without Ray: every job does a fixed part.
#
#     bash examples/slurm_shards.sh                                     # the demo, in 8 parts
#     RECIPE=my.yaml OUTPUT=/shared/runs/mine PARTS=32 bash examples/slurm_shards.sh
#
# Submits three steps: the sources, then all parts side by side, then the report. A job that is queued again resumes
# from its last checkpoint.
set -euo pipefail

# Both on a file system that all nodes share: the parts take the sources' prompts from the cache.
export OUTPUT=${OUTPUT:-$PWD/runs/grid}
export PROMPTTRANSFER_CACHE=${PROMPTTRANSFER_CACHE:-$PWD/runs/cache}
export RECIPE=${RECIPE:-demo} PARTS=${PARTS:-8}
RUN="${PYTHON:-python} -m prompttransfer"
RESOURCES=(--gpus-per-task=1 --cpus-per-task=8 --mem=32G --time=12:00:00 --requeue)

sources=$(sbatch --parsable "${RESOURCES[@]}" --job-name=sources \
  --wrap="$RUN compare --recipe \$RECIPE --output \$OUTPUT --shard sources --quiet")
parts=$(sbatch --parsable "${RESOURCES[@]}" --job-name=parts --array="1-$PARTS" --dependency="afterok:$sources" \
  --wrap="$RUN compare --recipe \$RECIPE --output \$OUTPUT --shard \$SLURM_ARRAY_TASK_ID/\$PARTS --quiet")
sbatch --job-name=report --dependency="afterany:$parts" --wrap="$RUN collect \$OUTPUT"
