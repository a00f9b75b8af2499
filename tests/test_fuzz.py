"""Every target of `tools.fuzz` on a few hundred inputs, and that the command finds and keeps what is wrong."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.fuzz import running
from tools.fuzz.target import Target

atheris = pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")


@st.composite
def inputs(draw: st.DrawFn, target: Target) -> bytes:
    """A seed with bytes removed and words or bytes inserted in up to four places."""
    data = draw(st.sampled_from(list(target.seeds)))
    words = st.sampled_from(list(target.words)) if target.words else st.nothing()
    for _ in range(draw(st.integers(0, 4))):
        place, gone = draw(st.integers(0, len(data))), draw(st.integers(0, 4))
        data = data[:place] + draw(words | st.binary(max_size=4)) + data[place + gone :]
    return data


@pytest.mark.parametrize("name", running.TARGETS)
def test_target(name: str) -> None:
    if running.TARGETS[name] != "operations":
        pytest.importorskip("prompttransfer.settings.recipes")
    target = running.target(name)

    @settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(inputs(target))
    def holds(data: bytes) -> None:
        target.check(data)

    holds()


@atheris
@pytest.mark.parametrize(
    ("name", "kept", "why"), [("crashes", b"c", "deadly signal"), ("lies", b"l", "a wrong answer")]
)
def test_a_finding_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kept: bytes, why: str) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    (tmp_path / "scratch").mkdir()
    outcome = running.fuzz(f"fuzz_targets:{name}", 1000, 1, tmp_path / "scratch", tmp_path / "kept")
    assert outcome.finding is not None and outcome.finding.read_bytes()[:1] == kept and why in outcome.log
    assert outcome.finding.parent == tmp_path / "kept"


@atheris
def test_inputs_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    outcome = running.fuzz("fuzz_targets:honest", 500, 1, tmp_path, tmp_path / "kept")
    assert outcome.finding is None and outcome.inputs >= 500 and outcome.refused >= 1  # the empty input is refused


def test_a_draw_ends_in_first_choices() -> None:
    from tools.fuzz.target import Draw

    draw = Draw(b"\x05")
    assert (draw.below(4), draw.below(4), draw.of("abc"), draw.one_in(2)) == (1, 0, "a", False)
