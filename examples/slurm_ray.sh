#!/usr/bin/env bash
# A grid of methods, targets and seeds on the nodes of one Slurm allocation, as a Ray cluster.
#
#     sbatch examples/slurm_ray.sh                                      # the demo on 4 nodes
#     RECIPE=my.yaml OUTPUT=runs/mine sbatch --nodes=16 examples/slurm_ray.sh
#
# Only the first node needs the run folder and the cache. A node that is lost costs the jobs it had; started again, the
# run resumes from the finished stages.
#SBATCH --job-name=prompttransfer
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --output=slurm-%j.log
set -euo pipefail

# Only who has the token may use the cluster. It is in the home folder, which the nodes share.
export RAY_AUTH_MODE=token
ray get-auth-token --generate >/dev/null

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$head:6379

# Starts Ray on every node, runs the command on the first one when all are there, and stops Ray at its end.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
  "${PYTHON:-python}" -m prompttransfer compare --recipe "${RECIPE:-demo}" --output "${OUTPUT:-runs/grid}" \
  --cluster "$address" --quiet
