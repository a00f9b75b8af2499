#!/usr/bin/env bash
# One comparison on all GPUs of a machine: they share every batch, and the result is that of one process.
#
#     examples/multi_gpu.sh                                                # the demo
#     examples/multi_gpu.sh --recipe papers/mpt_t5_base --output runs/mpt
#     examples/multi_gpu.sh --model my/70b --shard-model                   # layers spread over the GPUs
#     PROCESSES=2 examples/multi_gpu.sh --limit 8                          # no GPU: two processes of the CPU
#
# On several machines, the same command on each with NODES (their number) and ENDPOINT (HOST:PORT of the first).
set -euo pipefail

gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c GPU || true)
processes=${PROCESSES:-$((gpus > 0 ? gpus : 1))}
# Threads of all processes together are no more than the processors.
share=$(($(nproc) / processes))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}

where=(--standalone)
if [ "${NODES:-1}" -gt 1 ]; then
  where=(--nnodes "$NODES" --rdzv-backend c10d --rdzv-endpoint "$ENDPOINT")
fi
# torchrun, as the module that it is.
exec "${PYTHON:-python}" -m torch.distributed.run "${where[@]}" --nproc-per-node "$processes" \
  -m prompttransfer compare "$@"
