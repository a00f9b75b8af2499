"""Messages and exit codes of the command line on errors."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from safetensors import SafetensorError
from typer.testing import CliRunner

from prompttransfer import RunConfig, cli
from prompttransfer.cli.errors import friendly_errors
from prompttransfer.runs import compare as compare_module
from prompttransfer.settings.recipes import read_recipe


def compare_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fake(config: RunConfig, *_: object) -> Path:
        raise error

    monkeypatch.setattr(compare_module, "compare", fake)


def test_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    compare_raises(monkeypatch, KeyboardInterrupt())
    result = CliRunner().invoke(cli.app, ["compare", "-q"])
    assert result.exit_code == 130 and result.stderr.strip() == "stopped; run the same command again to continue"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("soup.txt", "", "soup.txt, want a Python file that registers a method"),
        ("missing.py", None, "missing.py, want a Python file"),
        ("json.py", "", "json is the name of another module"),
    ],
)
def test_a_file_that_cannot_be_imported(
    tmp_path: Path, name: str, content: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    if content is not None:
        (tmp_path / name).write_text(content)
    result = CliRunner().invoke(cli.app, ["--import", str(tmp_path / name), "compare"], env={"COLUMNS": "300"})
    assert result.exit_code == 2 and message in result.stderr and "--import" in result.stderr


def test_an_error_in_an_imported_file_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its author needs the traceback."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_soup.py").write_text("1 / 0\n")
    result = CliRunner().invoke(cli.app, ["--import", str(tmp_path / "broken_soup.py"), "compare"])
    assert isinstance(result.exception, ZeroDivisionError)


# For each error: the exit code, the message, and whether it suggests the traceback.
STRANGE = [
    (RuntimeError("shapes differ\nand more"), 1, "error: RuntimeError: shapes differ\n", True),
    (KeyError("x"), 1, "error: KeyError: 'x'\n", True),
    (MemoryError(), 1, "error: out of memory: MemoryError\n", False),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, "error: out of memory: ", False),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more"), 1, "--batch-size", False),
    (SafetensorError("I/O error: No space left on device (os error 28)"), 1, "written: No space left on device", False),
    (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), 1, "No space left on device", False),
    (RuntimeError("basic_ios::clear: iostream error"), 1, "No space left on device", False),
    (OSError(errno.EROFS, "Read-only file system", "a/b"), 1, "a/b: Read-only file system; use another", False),
    (OSError(errno.ENOSPC, "No space left on device", "a/b"), 1, "error: a/b: No space left on device; free ", False),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"), 2, "error: a/b: No such file", False),
    (FileExistsError(errno.EEXIST, "File exists", "a/b"), 2, "error: a/b: exists and is not a folder\n", False),
    (ModuleNotFoundError("No module named 'gguf'", name="gguf"), 1, "error: gguf is not installed: pip install", True),
    (ConnectionError("the hub does not answer"), 1, "error: the hub does not answer\n", False),
]


@pytest.mark.parametrize(("error", "code", "message", "traceback"), STRANGE)
def test_failures_have_a_code_and_a_way_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, message: str, traceback: bool
) -> None:
    compare_raises(monkeypatch, error)
    result = CliRunner().invoke(cli.app, ["compare", "-q"])
    assert result.exit_code == code and message in result.stderr and result.stdout == ""
    assert ("--debug" in result.stderr) == traceback
    assert len(result.stderr.splitlines()) <= 3 and "Traceback" not in result.stderr
    assert CliRunner().invoke(cli.app, ["compare", "-q", "--debug"]).exception is error


def test_own_messages_need_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, friendly_errors(False):
        read_recipe("demmo")
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.startswith("error: no recipe 'demmo'; did you mean 'demo'?")


@pytest.mark.parametrize("ending", [typer.Exit(3), typer.Abort(), BrokenPipeError(errno.EPIPE, "Broken pipe")])
def test_ordinary_endings_pass(ending: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(ending)) as passed, friendly_errors(False):
        raise ending
    assert passed.value is ending and capsys.readouterr().err == ""


def test_command_without_its_packages_says_how_to_get_them() -> None:
    code = "import sys; sys.modules['typer'] = None; from prompttransfer.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "error: typer is not installed: pip install 'promptkernels[transfer]'\n"


def test_a_launcher_may_not_start_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    refused = CliRunner().invoke(cli.app, ["assets"])
    assert refused.exit_code == 2
    assert "assets runs in one process, got 3" in refused.output
