"""Speed of a search in a library of prompts, compared with just reading the same files.

python -m bench.library --prompts 4000 [--length 100] [--hidden 768] [--rounds 5] [--folder DIR] [--json FILE]

Creates a library of random prompts, opens it twice (the second time from its index), and measures in turn

- similar: `Library.similar` of one prompt with all of them, the ten best;
- mapped: memory-map every file and sum its numbers;
- read: read every file into a reused buffer, and do nothing with it;

with the same number of threads. Warm: the files are in the page cache, and the ratio is the speed of similar over that
of mapped. Cold: they are dropped from the cache before each measurement (posix_fadvise), and the ratio is relative to
read. Ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from promptkernels.bench.machine import facts
from prompttransfer.interchange import Card, write_prompt
from prompttransfer.library import Library
from prompttransfer.library.reading import READERS
from prompttransfer.prompts import init_hash

TOP = 10


def make(folder: Path, prompts: int, length: int, hidden: int) -> tuple[torch.Tensor, Card]:
    """Write a library of prompts around one start; return a prompt to search for, and its card."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(length, hidden, generator=generator)
    card = Card(init_hash=init_hash(start), model_fingerprint="0" * 16, method="PT", metric="accuracy", score=80.0)
    noise = torch.randn(2 * length, hidden, generator=generator)
    for number in range(prompts):
        direction = noise[number % length : number % length + length]
        tensor = start + 0.01 * (1 + number) / prompts * direction
        write_prompt(folder / f"p{number:07d}.safetensors", tensor, {**card.metadata(), "task": f"task {number}"})
    library = Library(folder)
    write_prompt(folder / "start.tmp", start, {})
    library.add_start(folder / "start.tmp")
    (folder / "start.tmp").unlink()
    return start + 0.01 * torch.randn(length, hidden, generator=generator), card


def in_threads(work: Callable[[Sequence[Path]], None], paths: Sequence[Path]) -> None:
    """Process every file, with as many threads as `similar` uses."""
    shares = [paths[first : first + 64] for first in range(0, len(paths), 64)]
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(work, shares))


def mapped(paths: Sequence[Path]) -> None:
    for path in paths:
        with open(path, "rb", buffering=0) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            numbers = np.frombuffer(content, np.uint64)
            numbers.sum()
            del numbers  # otherwise the map cannot be closed


def read(paths: Sequence[Path]) -> None:
    buffer = bytearray(paths[0].stat().st_size + 4096)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            file.readinto(buffer)


def drop(paths: Sequence[Path]) -> None:
    """Drop files from the page cache."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(folder: Path, query: torch.Tensor, card: Card, rounds: int) -> dict[str, Any]:
    """Measure seconds and speeds, warm and cold."""
    opened = [timed(lambda: Library.open(folder)) for _ in range(2)]
    library = Library.open(folder)
    paths = [entry.path for entry in library.entries.values()]
    size = sum(path.stat().st_size for path in paths)
    calls: dict[str, Callable[[], object]] = {
        "similar": lambda: library.similar(query, card, top=TOP),
        "mapped": lambda: in_threads(mapped, paths),
        "read": lambda: in_threads(read, paths),
    }
    peak = _peak()
    calls["similar"]()
    grown = _peak() - peak
    result: dict[str, Any] = {
        "prompts": len(paths),
        "bytes": size,
        "readers": READERS,
        "seconds_to_index": opened[0],
        "seconds_to_open": opened[1],
        "search_memory_mib": grown / 2**20,
    }
    os.sync()  # data that is not on disk yet cannot be dropped
    for state in ("warm", "cold"):
        seconds_of: dict[str, list[float]] = {name: [] for name in calls}
        for index in range(rounds):
            for name in list(calls)[:: 1 if index % 2 == 0 else -1]:
                if state == "cold":
                    drop(paths)
                seconds_of[name].append(timed(calls[name]))
        plain = seconds_of["mapped" if state == "warm" else "read"]
        ratios = [a / b for a, b in zip(plain, seconds_of["similar"], strict=True)]
        paces = {f"{name}_gb_per_second": size / median(seconds) / 1e9 for name, seconds in seconds_of.items()}
        result[state] = {**paces, "ratio": median(ratios), "ratios": ratios}
    return result


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4000)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="folder for the library, which is deleted afterwards (default: a temporary one)"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="library-") as folder:
        query, card = make(Path(folder), options.prompts, options.length, options.hidden)
        result = {
            "length": options.length,
            "hidden": options.hidden,
            **measure(Path(folder), query, card, options.rounds),
        }
    print(
        f"{result['prompts']} prompts, {result['bytes'] / 1e6:.0f} MB: indexed in {result['seconds_to_index']:.2f} s, "
        f"opened in {result['seconds_to_open']:.2f} s; a search takes {result['search_memory_mib']:.0f} MiB"
    )
    for state in ("warm", "cold"):
        paces_of = result[state]
        paces = ", ".join(f"{name} {paces_of[f'{name}_gb_per_second']:.2f}" for name in ("similar", "mapped", "read"))
        print(f"{state}: {paces} GB/s; ratio {paces_of['ratio']:.2f}")
    if options.json:
        result["machine"] = facts(torch.device("cpu"))
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
