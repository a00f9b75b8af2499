"""Many targets on many GPUs: every process takes a share of the targets and has a GPU of its own.

    torchrun --nproc-per-node 4 examples/multi_gpu.py
    accelerate launch --num-processes 4 examples/multi_gpu.py

A prompt is small and its model frozen, so targets side by side scale better than one prompt spread over GPUs. What the
processes share, the source stages, is trained by the first that needs it; the others wait for it and read it.
"""

import json
import os
from pathlib import Path

RANK, PROCESSES = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
# Before torch is imported: this process sees its own GPU, and is no part of a process group.
LOCAL, GPUS = int(os.environ.get("LOCAL_RANK", 0)), os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = GPUS.split(",")[LOCAL] if GPUS else str(LOCAL)
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(name, None)

from prompttransfer import RunConfig  # noqa: E402
from prompttransfer.compare import compare  # noqa: E402


def main(**changes: object) -> list[dict]:
    """The rows of this process's share; changes: other settings than these."""
    settings = {"sources": ("amazon", "tweets"), "targets": ("sst2", "nyt", "subjectivity"), "methods": ("PT", "MPT")}
    settings |= {"output": Path("runs/multi-gpu")} | changes
    settings["targets"] = settings["targets"][RANK::PROCESSES]
    if not settings["targets"]:
        return []
    settings["output"] = Path(settings["output"]) / str(RANK)
    folder = compare(RunConfig(**settings))
    rows = json.loads((folder / "results.json").read_text())["rows"]
    for row in rows:
        print(f"process {RANK}: {row['target']}, {row['method']}: {row['metric']} {row['score']:.1f}", flush=True)
    return rows


if __name__ == "__main__":
    # Settings as JSON may follow: examples/multi_gpu.py '{"methods": ["PT", "SPoT"]}'
    import sys

    main(**json.loads(sys.argv[1]) if len(sys.argv) > 1 else {})
