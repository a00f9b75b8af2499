"""Findings of doctor on a machine that lacks things."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from promptkernels.backends import registry
from prompttransfer import cli
from prompttransfer.cli import checks as doctor
from prompttransfer.cli.checks import Finding, examine


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no network."""
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "cache"


def finding(name: str, *, offline: bool = True) -> Finding:
    return next(each for each in examine(offline=offline) if each.name == name)


def versions(monkeypatch: pytest.MonkeyPatch, **wrong: str | None) -> None:
    """Make packages have other versions; None: they are not installed."""
    real = metadata.version

    def version(name: str) -> str:
        if name in wrong and wrong[name] is None:
            raise metadata.PackageNotFoundError(name)
        return wrong.get(name) or real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)


def test_this_machine_can_train() -> None:
    result = CliRunner().invoke(cli.app, ["doctor", "--offline", "--json"])
    facts = json.loads(result.stdout)
    assert result.exit_code == 0 and facts["healthy"]
    names = [each["name"] for each in facts["findings"]]
    assert {"python", "torch", "transformers", "operations", "GPU", "bfloat16", "threads", "cache", "demo"} < set(names)
    assert {f"backend {name}" for name in registry.BACKENDS} < set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("version", "state", "advice"),
    [
        ("2.11.4+cu130", "ok", ""),
        ("2.13.0", "ok", ""),
        ("2.14.1", "note", "tested with 2.11 to 2.13: if something fails, try an older version"),
        ("2.9.0", "note", "tested with 2.11 to 2.13: if something fails, try a newer version"),
    ],
)
def test_versions_beyond_the_tested_ones_are_noted(
    monkeypatch: pytest.MonkeyPatch, version: str, state: str, advice: str
) -> None:
    versions(monkeypatch, torch=version)
    assert finding("torch") == Finding("torch", state, version, advice)


def test_missing_and_old_packages_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torch="2.5.0", accelerate=None)
    result = CliRunner().invoke(cli.app, ["doctor", "--offline", "--quiet"])
    assert result.exit_code == 1
    text = " ".join(result.stdout.split())  # lines end where the terminal does
    assert "torch 2.5.0 is installed, >=2.6 is required; accelerate is not installed" in text
    assert "-> pip install 'promptkernels[transfer]'" in text
    assert not any(line.startswith(("ok", "note")) for line in result.stdout.splitlines())
    assert result.stdout.splitlines()[-1] == "a problem prevents training here"


def test_quiet_is_silent_where_training_can_run() -> None:
    result = CliRunner().invoke(cli.app, ["doctor", "--offline", "--quiet"])
    assert (result.exit_code, result.stdout) == (0, "")


def test_missing_extras_are_noted_with_what_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["torch>=2", 'nltk>=3; extra == "generation"'])
    versions(monkeypatch, nltk=None)
    extra = finding("extra generation")
    assert (extra.state, extra.found) == ("note", "nltk is not installed")
    assert extra.advice.endswith("pip install 'promptkernels[generation]'")
    assert "unknown to the installed version" in finding("extra peft").found


def test_forced_backend_that_cannot_run_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_forced", "nonsense")
    monkeypatch.setattr(registry, "_chosen", {})
    operations = finding("operations")
    assert (
        operations.state == "problem"
        and "'nonsense'" in operations.found
        and "PROMPTKERNELS_BACKEND" in operations.advice
    )


def test_cache_that_cannot_be_written_to_is_a_problem(apart: Path) -> None:
    apart.write_text("a file")
    cache_state = finding("cache")
    assert (
        cache_state.state == "problem"
        and str(apart) in cache_state.found
        and "PROMPTTRANSFER_CACHE" in cache_state.advice
    )


def test_full_disk_is_noted(apart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart.mkdir()
    (apart / "file").write_bytes(bytes(1_500_000))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 900_000_000}))
    cache_state = finding("cache")
    assert (cache_state.state, cache_state.found) == ("note", f"{apart}: 2 MB, 900 MB free")


def test_more_threads_than_processors_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 10_000)
    threads = finding("threads")
    assert threads.state == "note" and "OMP_NUM_THREADS=" in threads.advice


@pytest.fixture
def hub() -> Iterator[str]:
    """A server that has no page."""

    class Nothing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_hub_that_answers_is_in_reach(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert finding("model hub", offline=False) == Finding("model hub", "ok", f"{hub} answers")


def test_hub_out_of_reach_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    hub = finding("model hub", offline=False)
    assert hub.state == "note" and "127.0.0.1:9 cannot be reached" in hub.found and "local folders" in hub.advice
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in finding("model hub", offline=False).found
