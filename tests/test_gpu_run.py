"""The script for a machine with a GPU, on one without: its time, its archive, and every part of it in a rehearsal."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import torch

from bench.gpu import prepare
from bench.gpu.check import Checks
from bench.gpu.parts import Target, parts
from bench.gpu.running import Part, Session

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def session(tmp_path):
    (tmp_path / "work").mkdir()
    return Session(tmp_path / "out", tmp_path / "work", 60)


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def archived(session: Session) -> dict[str, str]:
    with tarfile.open(session.out / "results.tar.gz") as archive:
        return {m.name: archive.extractfile(m).read().decode() for m in archive.getmembers() if m.isfile()}


def summary(session: Session) -> list[str]:
    """The status and name of each line."""
    return [" ".join(line.split()[:2]) for line in (session.out / "summary.txt").read_text().splitlines()]


def test_parts_that_fail_or_lack_a_tool_do_not_stop_the_next(session):
    session.run(Part("first", 10, python("print('early'); print('last line')")), os.environ)
    session.run(Part("second", 10, python("print('no good'); raise SystemExit(3)")), os.environ)
    session.run(Part("third", 10, None, missing="no ncu"), os.environ)
    session.run(Part("fourth", 10, python("print('not run')"), needs="second"), os.environ)
    session.run(Part("fifth", 10, python("print('fine')"), needs="first"), os.environ)
    assert summary(session) == ["ok first", "FAILED second", "skipped third", "skipped fourth", "ok fifth"]
    text = (session.out / "summary.txt").read_text()
    assert "last line" in text and "exit code 3: no good" in text and "no ncu" in text
    assert "second did not succeed" in text and session.failed == 1
    assert archived(session)["results/first.log"] == "early\nlast line\n"
    assert sorted(path.name for path in session.out.iterdir()) == ["results.tar.gz", "summary.txt"]


@pytest.mark.slow
def test_a_part_is_ended_at_its_limit_with_what_it_started(session, tmp_path):
    """Its output is kept, and its child processes are ended."""
    child = f"import time; time.sleep(8); open({str(tmp_path / 'alive')!r}, 'w')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', {child!r}])\n"
    code += "print('begun', flush=True); time.sleep(60)"
    begin = time.monotonic()
    session.run(Part("long", 6, python(code)), os.environ)
    assert session.status["long"] == "TIMEOUT" and time.monotonic() - begin < 30
    assert archived(session)["results/long.log"] == "begun\n"
    time.sleep(max(0.0, begin + 9 - time.monotonic()))
    assert not (tmp_path / "alive").exists()


def test_time_left_over_goes_to_the_next_and_the_budget_ends_all(session, monkeypatch):
    limits = []
    monkeypatch.setattr("bench.gpu.running._within", lambda limit, *rest: limits.append(limit) or 0)
    now = {"seconds": 0.0}
    monkeypatch.setattr(Session, "elapsed", property(lambda self: now["seconds"]))
    session.run(Part("quick", 20, ["true"]), {})  # over at once
    session.run(Part("next", 10, ["true"]), {})
    now["seconds"] = 50.0  # late
    session.run(Part("late", 10, ["true"]), {})
    now["seconds"] = 53.0
    session.run(Part("cut", 10, ["true"]), {})
    now["seconds"] = 58.0
    session.run(Part("none", 10, ["true"]), {})
    assert limits == [20, 30, 10, 7]
    assert session.status["none"] == "skipped"


def test_a_long_log_keeps_its_end(session):
    session.run(Part("loud", 20, python("print('x' * (5 << 20)); print('the end')")), os.environ)
    log = archived(session)["results/loud.log"]
    assert len(log) < 5 << 20 and log.endswith("the end\n") and log.startswith("(the beginning was left out)")


def test_asked_to_end_it_packs_first(tmp_path):
    """A machine that is taken away sends SIGTERM."""
    code = f"""
import os, signal, sys
from pathlib import Path
from bench.gpu.running import Part, Session
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
session = Session(Path({str(tmp_path / "out")!r}), Path({str(tmp_path)!r}), 60)
try:
    session.run(Part("one", 30, [sys.executable, "-S", "-c", "print('done')"]), os.environ)
    session.run(Part("two", 30, [sys.executable, "-S", "-c",
        f"print('half', flush=True); import os, time; os.kill({{os.getpid()}}, 15); time.sleep(30)"]), os.environ)
finally:
    session.pack()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60
    )
    assert done.returncode == 143
    with tarfile.open(tmp_path / "out/results.tar.gz") as archive:
        assert archive.extractfile("results/two.log").read() == b"half\n"


def test_the_order_and_the_time_of_the_parts(tmp_path):
    """Correctness before speed, what compiles for long last; all within the default of --budget, 765 seconds."""
    listed = parts(Target(), "python3", tmp_path)
    names = [part.name for part in listed]
    assert names[:3] == ["device", "check", "tests"] and names.index("memcheck") < names.index("training")
    assert names[-5:] == ["triton", "triton-bench", "compiled", "studies", "attention"]
    assert sum(part.seconds for part in listed) == 765


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_one_rounding_is_allowed_however_small_the_numbers_and_two_spacings_are_not(dtype):
    spacing = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    exact = torch.linspace(-3, 3, 1001, dtype=torch.float64) * spacing
    checks = Checks(torch.device("cpu"))
    checks.close([exact.to(dtype)], [exact], "rounded")
    assert not checks.wrong and 0 < checks.worst < 1
    checks.close([exact.add(2 * spacing).to(dtype)], [exact], "wrong")
    assert len(checks.wrong) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_of_zeros_only_zeros_are_allowed(dtype):
    checks, exact = Checks(torch.device("cpu")), torch.zeros(3, dtype=torch.float64)
    checks.close([exact.to(dtype)], [exact], "zeros")
    assert not checks.wrong
    checks.close([torch.full((3,), 1e-30, dtype=dtype)], [exact], "no zeros")
    assert len(checks.wrong) == 1


def test_a_carried_module_of_other_sources_is_not_used(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPU_PACK", str(tmp_path))
    module = tmp_path / f"_C_cuda{prepare.suffix(sys.executable)}"
    assert prepare.carried("90-real") is None
    module.write_bytes(b"")
    note = Path(f"{module}.txt")
    note.write_text(f"{prepare.sources()} 90-real\n")
    assert prepare.carried("90-real") == module
    assert prepare.carried("80-real") is None
    note.write_text("0123 90-real\n")
    assert prepare.carried("90-real") is None
    assert "other sources" in capsys.readouterr().out


def test_carried_wheels_of_this_python_are_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("GPU_PACK", str(tmp_path))
    (tmp_path / "wheels").mkdir()
    this = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_")
    for name, tag in (("plain", "py3-none-any"), ("own", f"{this}-{this}-{platform}"), ("other", "cp27-cp27m-linux")):
        with zipfile.ZipFile(tmp_path / "wheels" / f"{name}-1.0-{tag}.whl", "w") as wheel:
            facts = f"{name}-1.0.dist-info"
            wheel.writestr(f"{name}.py", "")
            wheel.writestr(f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(f"{facts}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
            wheel.writestr(f"{facts}/RECORD", f"{name}.py,,\n{facts}/METADATA,,\n{facts}/WHEEL,,\n{facts}/RECORD,,\n")
    prepare.unpack(tmp_path / "site")
    assert sorted(path.name for path in (tmp_path / "site").glob("*.py")) == ["own.py", "plain.py"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tests_of_a_backend_that_cannot_run_are_an_error():
    """Not a run in which nothing failed because nothing ran."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/test_degenerate.py"]
    done = subprocess.run([*command, "--runner", "cuda@cuda"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--runner cuda@cuda cannot run here" in done.stdout + done.stderr


@pytest.mark.emulation
@pytest.mark.slow
def test_rehearsal(tmp_path):
    """Every part once, on the CPU: the emulated CUDA kernels, and tools that only run what they would watch."""
    pytest.importorskip("peft")
    run = [str(ROOT / "bench/gpu.sh"), str(tmp_path / "out"), "--rehearse", "--budget", "1200"]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    chosen = ["check", "tests", "bench", "memcheck", "profile", "training"]
    done = subprocess.run([*run, "--parts", *chosen], env=environment, capture_output=True, text=True, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["ok", name] for name in ("prepare", "device", *chosen)], (
        done.stdout + done.stderr
    )
    assert done.returncode == 0 and lines[-1].startswith("0 part(s) failed")
    with tarfile.open(tmp_path / "out/results.tar.gz") as archive:
        names = archive.getnames()
    for name in ("check.log", "bench/results.json", "profile/profile.csv", "training/training.json", "summary.txt"):
        assert f"results/{name}" in names
    unknown = subprocess.run([*run, "--parts", "tset"], env=environment, capture_output=True, text=True)
    assert unknown.returncode == 2 and "unknown part 'tset'; parts: device check" in unknown.stderr


def test_a_copy_without_history_reports_the_packed_commit(tmp_path, monkeypatch):
    from bench.gpu import __main__ as script
    from promptkernels.bench.machine import commit

    monkeypatch.setenv("GPU_PACK", str(tmp_path))
    monkeypatch.setattr(script, "ROOT", tmp_path)  # no .git here
    assert "BENCH_COMMIT" not in script._environment(tmp_path / "site")
    (tmp_path / prepare.COMMIT).write_text("0123abc")
    assert script._environment(tmp_path / "site")["BENCH_COMMIT"] == "0123abc"
    (tmp_path / ".git").mkdir()  # a checkout knows better
    assert "BENCH_COMMIT" not in script._environment(tmp_path / "site")
    monkeypatch.setenv("BENCH_COMMIT", "0123abc")
    assert commit() == "0123abc"
