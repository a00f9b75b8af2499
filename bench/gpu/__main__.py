"""Checks and measurements on a machine with an NVIDIA GPU, within minutes and without a network.

Correctness comes first: the device and its ceilings, checks against float64, and the tests of the backend cuda. Then
come speed, sanitizers, a profile, training steps, Triton and torch.compile. Every part has a time limit and is ended
when it is reached; unused time goes to the later parts.

The output folder gets results.tar.gz, with a log per part and all results, and summary.txt. Both are updated after each
part, so nothing is lost if the machine ends early. The exit code is the number of failed parts.

It needs torch with CUDA, numpy, pytest and transformers, and runs from the source tree. You can bring everything else:
`make gpupack` on another machine collects the compiled module and the wheels in build/gpu (or the folder in GPU_PACK).
Without a module, it is built with nvcc, pybind11, cmake and ninja.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.gpu import rehearsal
from bench.gpu.parts import Target, parts
from bench.gpu.prepare import COMMIT, pack
from bench.gpu.running import ROOT, Part, Session

_BUILD = 150  # seconds for a build here; using a packed module takes a few


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench/gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the archive and the summary")
    parser.add_argument("--budget", type=float, default=765, help="seconds for everything (default: 765)")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="only these, in this order")
    parser.add_argument("--rehearse", action="store_true", help="try the script itself, on the CPU, without a GPU")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the results are packed before the end
    room = Path(tempfile.mkdtemp(prefix="gpu-"))
    try:
        return _run(parser, options, room)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace, room: Path) -> int:
    work, site = room / "results", room / "site"
    work.mkdir()
    environment = _environment(site)
    if options.rehearse:
        rehearsal.write_tools(room / "tools")
        emulated = [str(ROOT / "tests"), str(ROOT / "tests/ops")]  # the tests define that backend
        environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], *emulated])
        environment["PATH"] = os.environ["PATH"] = f"{room / 'tools'}{os.pathsep}{os.environ['PATH']}"
    target = rehearsal.TARGET if options.rehearse else Target()
    patience = 10 if options.rehearse else 1  # a CPU may be busy with other work
    all_parts = parts(target, sys.executable, work)
    listed = {part.name: replace(part, seconds=patience * part.seconds) for part in all_parts}
    if unknown := sorted(set(options.parts or ()) - set(listed)):
        parser.error(f"unknown part {unknown[0]!r}; parts: {' '.join(listed)}")
    session = Session(options.out.resolve(), work, options.budget)
    try:
        architecture = "" if options.rehearse else _architecture()
        if architecture is None:
            session.say("FAILED   torch finds no CUDA device")
            session.pack()
            return 1
        prepare = [sys.executable, "-m", "bench.gpu.prepare", str(site), "--architectures", architecture]
        session.run(Part("prepare", _BUILD, prepare), {**os.environ, "PYTHONPATH": str(ROOT)})
        session.planned = session.elapsed  # time saved by a packed module is not passed on to the parts
        for name in ["device", *(name for name in options.parts or listed if name != "device")]:
            session.run(listed[name], environment)
    finally:
        session.say(f"{session.failed} part(s) failed; {session.elapsed:.0f} s of {options.budget:.0f}")
        session.pack()
    return session.failed


def _environment(site: Path) -> dict[str, str]:
    """Environment of the parts, in which the prepared package takes precedence over the source tree and the current
    folder."""
    paths = [site, ROOT / "python", ROOT / "bench", ROOT]
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*map(str, paths), *([inherited] if inherited else [])])
    commit = pack() / COMMIT
    named = {"BENCH_COMMIT": commit.read_text()} if commit.exists() and not (ROOT / ".git").exists() else {}
    return {**os.environ, **named, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def _architecture() -> str | None:
    """Only this GPU's architecture, such as ``90-real``. Others would only cost build time."""
    asked = "import torch; print('%d%d-real' % torch.cuda.get_device_capability())"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
