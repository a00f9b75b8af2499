"""Progress on a terminal, in a log, and silent."""

import builtins
import io

import pytest
from rich.console import Console

from prompttransfer.files import progress as module
from prompttransfer.files.progress import Progress, ProgressReporter, QuietProgress


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False)


def test_log_gets_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    out = console(terminal=False)
    with Progress(out) as progress:
        progress.note("[a] note")
        progress.note("[a] note")
        stage = progress.stage("train", 100)
        for _ in range(100):
            now[0] += 1.0
            stage.advance(1, loss=0.25)
        stage.close()
    lines = out.file.getvalue().splitlines()
    assert lines[0] == "[a] note"
    assert lines[1].startswith("train: 15 %") and "85 s left" in lines[1] and "loss 0.25" in lines[1]
    assert lines[-1] == "train: done in 100 s, loss 0.25"
    assert len(lines) == 8  # one each 15 s, not one each update


def test_unfinished_stage_is_not_called_done() -> None:
    out = console(terminal=False)
    with Progress(out) as progress:
        stage = progress.stage("train", 4)
        stage.advance(1)
        stage.close()
    assert "25 %" in out.file.getvalue() and "done" not in out.file.getvalue()


def test_terminal_shows_a_bar_and_keeps_a_line() -> None:
    out = console(terminal=True)
    with Progress(out) as progress:
        stage = progress.stage("train [x]", 2)
        stage.advance(2, loss=0.5)
        stage.close()
    text = out.file.getvalue()
    assert "2/2" in text or "0/2" in text
    assert "train [x]: done" in text and "loss 0.5" in text


def test_null_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressReporter() as progress:
        stage = progress.stage("train", 2)
        stage.advance(1, loss=1.0)
        stage.close()
        progress.note("x")
        progress.warn("x")
    assert capsys.readouterr() == ("", "")


def test_quiet_lets_warnings_through(capsys: pytest.CaptureFixture[str]) -> None:
    with QuietProgress() as progress:
        progress.stage("train", 2).close()
        progress.note("x")
        progress.warn("results moved")
    assert capsys.readouterr() == ("", "results moved\n")


def test_a_notebook_gets_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On its error stream, which is one output of the cell. IPython asks libraries for colours, but has no cursor."""
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress() as progress:
        progress.note("model: demo")
        stage = progress.stage("train", 2)
        stage.advance(2, loss=0.5)
        stage.close()
    assert capsys.readouterr() == ("", "model: demo\ntrain: done in 0 s, loss 0.5\n")
