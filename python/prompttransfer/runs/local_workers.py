"""More processes on this machine for one run: each is the same command, and shares the rows through the run folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from prompttransfer.distributed import processes
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.settings.run import RunConfig


@contextmanager
def local_workers(config: RunConfig, count: int, progress: ProgressReporter) -> Iterator[None]:
    """`count` workers while the block runs, which is one of them; the others end with it.

    Workers take the GPUs in turn, or an equal share of the processors.

    Args:
        progress: told how a worker failed; its rows are then made by the others.

    Raises:
        ValueError: this is one of several processes of a launcher, which share every batch already.
    """
    if count == 1:
        yield
        return
    if processes.count() > 1:
        raise ValueError(f"workers: got {count} in one of {processes.count()} processes of a launcher; want 1 there")
    threads = max(1, (os.cpu_count() or 1) // count)
    shares = [_environment(place, threads) for place in range(count)]
    torch.set_num_threads(threads)
    os.environ.update(shares[0])  # before this process asks for a GPU
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.json"
        recipe.write_text(config.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "prompttransfer", "compare", "--recipe", str(recipe), "--quiet"]
        logs = [Path(folder) / f"worker{place}.log" for place in range(1, count)]
        children = []
        try:
            for log, share in zip(logs, shares[1:], strict=True):
                with log.open("wb") as file:
                    environment = {**os.environ, **share}
                    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=environment)
                    children.append(child)
            yield
            for child in children:
                child.wait()
        finally:
            for child in children:
                if child.poll() is None:
                    child.send_signal(signal.SIGINT)  # it frees what it holds
                    child.wait()
        for place, (child, log) in enumerate(zip(children, logs, strict=True), 2):
            if child.returncode:
                said = log.read_text(encoding="utf-8", errors="replace").strip()
                progress.warn(f"worker {place} ended with code {child.returncode}: {said}")


def _environment(place: int, threads: int) -> dict[str, str]:
    """Variables of a worker: its GPU, or its number of threads."""
    gpus = torch.cuda.device_count()
    if not gpus:
        return {"OMP_NUM_THREADS": str(threads)}
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else [str(gpu) for gpu in range(gpus)]
    return {"CUDA_VISIBLE_DEVICES": visible[place % len(visible)]}
