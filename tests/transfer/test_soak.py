"""The soak: what it calls growth, and that a round finds again what the first one found."""

from pathlib import Path

import pytest

from tools.soak import Sample, Work, complaints, growth_mib

MIB = 1 << 20


def rounds(mib: list[float], **counts: list[int]) -> list[Sample]:
    none = {name: [5] * len(mib) for name in ("files", "threads", "children")} | counts
    return [
        Sample(10.0 * place, int(size * MIB), *(none[name][place] for name in ("files", "threads", "children")))
        for place, size in enumerate(mib)
    ]


def test_growth_after_the_warm_up_is_told() -> None:
    level = [100.0, 300, 500, 600, *[601, 599] * 6]
    assert complaints(rounds(level), 4) == []
    assert complaints(rounds([*level[:8], 5000, *level[9:]]), 4) == []  # once, and given back
    leaking = rounds([600 + 2.0 * place for place in range(17)])
    assert growth_mib(leaking) == pytest.approx(32)
    (complaint,) = complaints(leaking, 16)
    assert "24.0 MiB in 13 rounds, more than 16" in complaint and complaints(leaking, 25) == []
    (complaint,) = complaints(rounds([600.0] * 16, files=[*range(16)]), 16)
    assert complaint == "files: 4 at the end of the warm-up, 15 at the end"
    assert "only 3 rounds" in complaints(rounds([600.0] * 4), 16)[0]


def test_a_round_that_finds_other_scores_ends_the_soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path / "cache"))
    work = Work(tmp_path, ("PT", "DTVG"))
    work.round(0)
    (scores,) = work.scores.values()
    assert [method for method, _, _ in scores] == ["PT", "DTVG"] and work.updates == 2 * 4
    work.scores[work.models[0]] = [(method, target, score + 1) for method, target, score in scores]
    with pytest.raises(RuntimeError, match=r"round 2: .*PT"):
        work.round(2)
