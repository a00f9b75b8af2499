"""Run one target in a child process under atheris, so that a crash leaves its input behind and ends nothing else."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import mmap
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.fuzz.target import Target

# Module of each target. Importing one takes seconds.
TARGETS = {
    "operations": "operations",
    "raw-operations": "operations",
    "yaml": "settings",
    "recipe": "settings",
    "description": "settings",
    "table": "tables",
    "arrow": "tables",
    "prompt": "prompts",
    "adapter": "prompts",
    "library": "prompts",
    "report": "reports",
}
# Packages whose branches guide the mutations.
INSTRUMENTED = ["promptkernels", "prompttransfer", "yaml", "json", "csv", "tools.fuzz"]
SECONDS, MEGABYTES = 20, 4096  # limits per input, and of the process
_COUNTS = struct.Struct("qq")


@dataclass(frozen=True)
class Outcome:
    """Numbers of accepted and refused inputs. finding: file of an input that was neither; log: the reason."""

    accepted: int
    refused: int
    finding: Path | None = None
    log: str = ""

    @property
    def inputs(self) -> int:
        return self.accepted + self.refused


def target(name: str) -> Target:
    """A target by its name in `TARGETS`, or your own as "module:name", from the module's `targets()`."""
    module, _, own = name.rpartition(":")
    targets_by_name: dict[str, Target] = importlib.import_module(module or f"tools.fuzz.{TARGETS[own]}").targets()
    return targets_by_name[own]


def fuzz(name: str, inputs: int, seed: int, scratch: Path, keep: Path) -> Outcome:
    """Run a target on this many inputs, in a child process, up to the first finding.

    Args:
        seed: seed of the inputs, at least 1.
        scratch: an empty folder.
        keep: folder for the input of a finding.

    Raises:
        ModuleNotFoundError: atheris is not installed.
        RuntimeError: the child ended for a reason other than its inputs.
    """
    if importlib.util.find_spec("atheris") is None:
        raise ModuleNotFoundError("atheris is not installed: pip install 'promptkernels[fuzz]' (Linux, Python 3.11+)")
    (scratch / "findings").mkdir()
    counts = scratch / "counts"
    counts.write_bytes(_COUNTS.pack(0, 0))
    settings = {"name": name, "inputs": inputs, "seed": seed, "scratch": str(scratch)}
    command = [sys.executable, "-m", "tools.fuzz.running", json.dumps(settings)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", text=True)
    accepted, refused = _COUNTS.unpack(counts.read_bytes())
    left = sorted((scratch / "findings").iterdir())
    if done.returncode and not left:
        raise RuntimeError(f"{name}: the child ended with {done.returncode}:\n{done.stdout[-4000:]}")
    if not left:
        return Outcome(accepted, refused)
    keep.mkdir(parents=True, exist_ok=True)
    kept = keep / f"{name.rpartition(':')[2]}-{hashlib.sha256(left[0].read_bytes()).hexdigest()[:12]}"
    shutil.copy(left[0], kept)
    return Outcome(accepted, refused, kept, done.stdout[-4000:])


def _child(name: str, inputs: int, seed: int, scratch: str) -> None:
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        fuzzed = target(name)
    folder = Path(scratch)
    corpus = folder / "corpus"
    corpus.mkdir()
    for place, content in enumerate(fuzzed.seeds):
        (corpus / f"{place:04}").write_bytes(content)
    tempfile.tempdir = str(folder)
    with (folder / "counts").open("r+b") as file:
        memory = mmap.mmap(file.fileno(), _COUNTS.size)  # the counts survive a crash
    counts = [0, 0]

    def one(data: bytes) -> None:
        try:
            counts[not fuzzed.check(data)] += 1
        except BaseException:
            (folder / "findings" / "exception").write_bytes(data)
            raise
        _COUNTS.pack_into(memory, 0, *counts)

    options = [f"-runs={inputs}", f"-seed={seed}", f"-max_len={fuzzed.longest}", f"-timeout={SECONDS}"]
    options += [f"-rss_limit_mb={MEGABYTES}", f"-artifact_prefix={folder / 'findings'}/", "-print_final_stats=0"]
    if fuzzed.words:
        (folder / "words").write_text("".join(f'"{_quoted(word)}"\n' for word in fuzzed.words), encoding="ascii")
        options.append(f"-dict={folder / 'words'}")
    atheris.Setup([sys.argv[0], *options, "-verbosity=0", str(corpus)], one)
    atheris.Fuzz()


def _quoted(word: bytes) -> str:
    """Quote a word for a libFuzzer dictionary."""
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    _child(**json.loads(sys.argv[1]))
