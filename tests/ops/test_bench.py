"""The benchmark: cases and peers agree with the operations, results are written, bad words are refused."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from cases import relative_rms

from promptkernels.bench import measure as measuring
from promptkernels.bench.cases import CASES, Case, chosen, run
from promptkernels.bench.command import main
from promptkernels.bench.peers import EAGER

CPU = torch.device("cpu")
SMALL = {case.op: case for case in reversed(CASES)}


@pytest.mark.parametrize("op", list(SMALL))
def test_every_peer_computes_the_operation(op):
    case = SMALL[op]
    inputs = case.make(CPU)
    want = case.ours(inputs)
    for name, peer in EAGER[op].items():
        assert relative_rms(peer(inputs), want) < (0.05 if name == "plain Gram" else 1e-3), name


def test_gradients_reach_the_leaves_that_a_case_names():
    for case in (c for c in SMALL.values() if c.leaves):
        inputs = case.make(CPU)
        for name in case.leaves:
            inputs[name].requires_grad_()
        run(case.ours, inputs, case.leaves)
        assert all(inputs[name].grad.abs().max() > 0 for name in case.leaves)


def test_a_wrong_contestant_stops_the_report(monkeypatch):
    case = SMALL["similarity"]
    monkeypatch.setitem(EAGER["similarity"], "wrong", lambda x: torch.eye(len(x["prompts"])) + 1)
    with pytest.raises(measuring.WrongResult, match="wrong is off by"):
        measuring.measure(case, backward=False, device=CPU, seconds=0.01, compiled=False)


def test_command_writes_what_it_shows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("promptkernels.bench.command.copy_bandwidth", lambda device: 1e10)
    words = ["dtvg sources=6", "--seconds", "0.01", "--no-compile", "--output", str(tmp_path)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    content = json.loads((tmp_path / "results.json").read_text())
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (
        {row["contestant"] for row in rows}
        == {"promptkernels", "pair calls", "eager"}
        == {row["contestant"] for row in content["rows"]}
    )
    assert all(name in shown for name in ("pair calls", "geometric mean"))
    assert content["machine"]["copy_gigabytes_per_second"] == 10
    assert (tmp_path / "speedup.png").stat().st_size > 1000


def test_unknown_words_name_the_operations(capsys):
    with pytest.raises(ValueError, match=r"'cosinus'.*dtvg.*svgd"):
        chosen(["cosinus"])
    with pytest.raises(SystemExit):
        main(["cosinus"])
    assert "no benchmark case has 'cosinus'" in capsys.readouterr().err


def test_names_are_unique_and_traffic_counts_inputs_and_outputs():
    assert len({case.name for case in CASES}) == len(CASES)
    svgd: Case = SMALL["svgd"]
    m, length, hidden = svgd.sizes.values()
    assert svgd.bytes_forward == 4 * 4 * m * length * hidden
