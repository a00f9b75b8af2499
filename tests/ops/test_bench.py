"""The benchmark: contestants agree with the operations, floors move the bytes they say, results are kept and shown."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from cases import rand, relative_rms

import promptkernels as pk
from promptkernels.bench import command, measure, studies
from promptkernels.bench.cases import CASES, LARGE, chosen, compose, group, incoming_gradient, prepend, run
from promptkernels.bench.floors import floors
from promptkernels.bench.markdown import insert, section
from promptkernels.bench.measure import BOTH, FORWARD, OURS, Bench, Measurement
from promptkernels.bench.memory import peak_bytes
from promptkernels.bench.peers import COMPILED, eager_peers
from promptkernels.bench.peers import group as group_peers
from promptkernels.bench.peers import similarity as similarity_peers
from promptkernels.bench.peers import svgd as svgd_peers
from promptkernels.bench.report import Results, geometric_means, table
from promptkernels.bench.targets import outcomes

CPU = torch.device("cpu")
SMALL = {case.op: case for case in reversed(CASES)}
BENCH = Bench(CPU, bandwidth=1e10, seconds=0.01, compiled=False)
MACHINE = {
    "device": "a processor",
    "device_type": "cpu",
    "threads": 2,
    "cores": 2,
    "load_average": 0.1,
    "commit": "abc1234",
    "torch": "2.13.0",
    "python": "3.11.7",
    "date": "2026-11-21",
    "copy_gigabytes_per_second": 10.0,
}


def row(**changes) -> Measurement:
    """A row of `similarity T=6 L=100 H=768` with all fields at some value."""
    sizes = {"T": 6, "L": 100, "H": 768}
    plain = Measurement(
        op="similarity",
        case="similarity T=6 L=100 H=768",
        sizes=sizes,
        mode=FORWARD,
        dtype="float32",
        kind="ours",
        contestant=OURS,
        backend="cpu",
        timing="calls",
        launches=None,
        median_us=10.0,
        p20_us=9.0,
        p80_us=12.0,
        ratio=1.0,
        error=1e-7,
        peak_bytes=144,
        least_bytes=2150400,
        gigabytes_per_second=215.0,
        share_of_roofline=0.9,
    )
    return replace(plain, **changes)


@pytest.mark.parametrize("op", list(SMALL))
def test_every_peer_computes_the_operation(op):
    inputs = SMALL[op].make(CPU)
    want = SMALL[op].ours(inputs)
    for name, peer in eager_peers(SMALL[op], inputs).items():
        assert relative_rms(peer(inputs), want) < (0.05 if name == "plain Gram" else 1e-3), name


@pytest.mark.parametrize("op", [op for op, case in SMALL.items() if case.leaves])
def test_every_peer_has_the_gradient_of_ours_at_the_leaves_that_a_case_names(op):
    case = SMALL[op]
    inputs = case.make(CPU)
    for name in case.leaves:
        inputs[name].requires_grad_()
    gradient = incoming_gradient(case.ours, inputs)
    assert gradient.std() > 0.5  # a constant one would hide what sums to zero
    run(case.ours, inputs, case.leaves, gradient)
    want = {name: inputs[name].grad for name in case.leaves}
    for name, peer in eager_peers(case, inputs).items():
        run(peer, inputs, case.leaves, gradient)
        for leaf in case.leaves:
            assert relative_rms(inputs[leaf].grad, want[leaf]) < 1e-4, (name, leaf)


def test_the_peft_contestant_is_peft_itself():
    peft = pytest.importorskip("peft.tuners.multitask_prompt_tuning")
    inputs = SMALL["compose"].make(CPU)
    contestant = eager_peers(SMALL["compose"], inputs)["PEFT"]
    calls = []
    forward = peft.MultitaskPromptEmbedding.forward

    def counted(self, *arguments):
        calls.append(self)
        return forward(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peft.MultitaskPromptEmbedding, "forward", counted)
        contestant(inputs)
    assert len(calls) == 1 and calls[0].prefix_task_rows is inputs["v"]


@pytest.mark.parametrize("sources", [2, 6])
def test_the_published_grouping_makes_a_call_per_ordered_pair_of_every_prefix(sources, monkeypatch):
    case = group(sources, 10, 64)
    calls = []
    single = group_peers.similarity_call
    monkeypatch.setattr(group_peers, "similarity_call", lambda a, b: calls.append(0) or single(a, b))
    group_peers.pair_calls(case.make(CPU))
    assert len(calls) == sources + sum(m * (m - 1) for m in range(2, sources + 1))


@pytest.mark.parametrize("sources", [6, 26])
def test_every_source_of_a_grouping_case_is_eligible_and_some_but_not_all_are_chosen(sources):
    x = group(sources, 100, 768).make(CPU)
    means = ((x["prompts"] - x["start"]) * x["scale"].unsqueeze(-1)).double().mean(1)
    assert ((means @ means[-1]) > 0).all()
    members = pk.select_group((means @ means.T).float(), sources)
    assert 2 < int(members.sum()) <= sources + 1


def test_broadcast_is_left_out_where_it_does_not_fit():
    shape = SimpleNamespace(shape=(64, 100, 768))
    assert "broadcast (Pyro)" not in svgd_peers.peers(SMALL["svgd"], {"prompts": shape})
    assert "broadcast (Pyro)" in svgd_peers.peers(SMALL["svgd"], {"prompts": SimpleNamespace(shape=(8, 100, 768))})


def test_floors_move_as_many_bytes_as_the_operation():
    for case in (compose(4, 3, 5, 16, 7, 1), prepend(4, 3, 6, 16, 7, 1)):
        inputs = case.make(CPU)
        (floor,) = floors(case, inputs).values()
        out = floor(inputs)
        moved = out.numel() * 4 * (2 if case.op == "prepend" else 1)  # a copy reads what it writes
        assert moved == case.bytes_forward
    assert floors(SMALL["svgd"], SMALL["svgd"].make(CPU)) == {}


def test_least_traffic_counts_large_inputs_and_outputs_once():
    assert len({case.name for case in CASES + LARGE}) == len(CASES + LARGE)
    for case in (SMALL["svgd"], SMALL["similarity"], prepend(4, 3, 6, 16, 7, 1)):
        inputs = case.make(CPU)
        used = ("embeds",) if case.op == "prepend" else ("prompts", "start", "scores")
        large = [inputs[name] for name in used if name in inputs] + [case.ours(inputs)]
        if case.op == "similarity":
            large.pop()  # the result is a few numbers
        counted = sum(tensor.numel() * 4 for tensor in large)
        if case.op == "svgd":
            counted += inputs["prompts"].numel() * 4 - inputs["start"].numel() * 4  # X twice; the start is not read
        assert case.bytes_forward == counted, case.name
    for case in LARGE:
        assert case.bytes_forward >= 256e6 and case.least_bytes(True) >= case.least_bytes(False)


def test_peak_memory_is_the_most_that_is_alive_at_once():
    def call():
        first = torch.ones(10_000)
        second = first + 1
        del first
        return second * 2  # two of 40,000 bytes at a time, three in all

    assert 80_000 <= peak_bytes(call, CPU) < 81_000  # the constants 1 and 2 are tensors too


def test_a_wrong_result_or_gradient_stops_the_report(monkeypatch):
    exact = similarity_peers.normalise_matmul
    case = SMALL["similarity"]
    monkeypatch.setattr(similarity_peers, "normalise_matmul", lambda x: exact(x) + 1)
    with pytest.raises(measure.WrongResult, match="normalise \\+ matmul: its result is off by"):
        BENCH.measure(case)
    # The same value, with half as much gradient again.
    monkeypatch.setattr(similarity_peers, "normalise_matmul", lambda x: exact(x) + 0.5 * (exact(x) - exact(x).detach()))
    BENCH.measure(case)
    with pytest.raises(measure.WrongResult, match="its gradient is off by"):
        BENCH.measure(case, backward=True)


def test_a_measurement_holds_together():
    rows = {one.contestant: one for one in BENCH.measure(prepend(4, 3, 6, 16, 7, 1))}
    ours, floor = rows[OURS], rows["plain copy"]
    assert (ours.kind, floor.kind, rows["once per task + cat"].kind) == ("ours", "floor", "peer")
    assert ours.ratio == 1 and floor.error is None and ours.error < 1e-6
    assert ours.p20_us <= ours.median_us <= ours.p80_us
    assert ours.peak_bytes == 4 * 4 * (6 + 7) * 16
    assert ours.gigabytes_per_second == pytest.approx(ours.least_bytes / ours.median_us / 1e3, rel=0.01, abs=0.01)


def test_slow_contestants_take_part_in_fewer_rounds_and_ratios_compare_the_same_rounds():
    def sampler(seconds):
        return SimpleNamespace(take=lambda: seconds)

    times = measure._rounds({OURS: sampler(1e-3), "slow": sampler(3.0)}, seconds=0.4)
    assert len(times[OURS]) == 200 and 5 <= len(times["slow"]) <= 6
    assert set(times["slow"]) <= set(times[OURS])


def test_command_writes_what_it_shows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "copy_bandwidth", lambda device: 1e10)
    words = ["group sources=6", "--seconds", "0.01", "--no-compile", "--backend", "reference"]
    words += ["--output", str(tmp_path)]
    assert command.main(words) == 0
    shown = capsys.readouterr().out
    results = Results.read(tmp_path / "results.json")
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [one["contestant"] for one in rows] == [one.contestant for one in results.cases]
    assert {one.contestant for one in results.cases} == {OURS, "pair calls", "eager"}
    assert {one.mode for one in results.cases} == {FORWARD, BOTH}
    assert {one.backend for one in results.cases if one.kind == "ours"} == {"reference"}
    assert all(rows[0][name] for name in ("sources", "L", "H", "commit", "torch", "device", "peak_bytes"))
    assert all(name in shown for name in ("pair calls", "geometric mean", "[reference]"))
    assert results.machine["copy_gigabytes_per_second"] == 10
    assert not any("/" in str(value) for value in results.machine.values())  # no path of this machine
    pytest.importorskip("matplotlib")
    assert (tmp_path / "speedup.png").stat().st_size > 1000
    assert command.main(["--markdown", str(tmp_path / "results.json")]) == 0
    assert "#### group" in capsys.readouterr().out


@pytest.mark.parametrize("case", list({case.op: case for case in reversed(CASES + LARGE)}.values()), ids=lambda c: c.op)
def test_every_operation_has_a_title_and_a_style_for_each_peer(case):
    figures = pytest.importorskip("promptkernels.bench.figures", exc_type=ImportError)
    peers = [*eager_peers(case, case.make(CPU)), COMPILED]
    rows = [row(op=case.op, case=case.name, kind="peer", contestant=name, ratio=2.0) for name in peers]
    (axes,) = figures.speedup(Results(MACHINE, rows)).axes
    assert axes.get_title("left") not in ("", case.op)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == peers


def test_long_names_stand_apart_from_the_next_column():
    long = row(kind="peer", contestant="a contestant with quite a long name", ratio=2.0)
    rows = [row(), long, replace(long, contestant="another")]
    assert f"{long.contestant}  " in table(rows)
    lines = geometric_means(rows)
    assert lines[0].startswith(f"{long.contestant}  geometric mean")
    assert len({line.index("geometric") for line in lines}) == 1


def test_bad_words_and_files_are_named(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"'cosinus'.*group.*svgd"):
        chosen(["cosinus"])
    (tmp_path / "other.json").write_text("{}")
    for words, message in (
        (["cosinus"], "no benchmark case has 'cosinus'"),
        (["--markdown", str(tmp_path / "other.json")], "other.json must be a results.json"),
        (["--markdown", str(tmp_path / "none.json")], "none.json must be a results.json"),
    ):
        with pytest.raises(SystemExit):
            command.main(words)
        assert message in capsys.readouterr().err


def test_spread_study_shows_what_centring_is_for(monkeypatch):
    monkeypatch.setattr(studies, "SPREADS", (1e-3, 1e-2))
    monkeypatch.setattr(studies, "SPREAD_SHAPE", (8, 20, 64))
    rows = {(one.spread, one.contestant): one.error for one in studies.spread_errors(CPU)}
    assert rows[1e-3, "plain Gram"] > 10 * rows[1e-2, "plain Gram"] > 1e-3
    assert max(rows[1e-3, OURS], rows[1e-2, OURS]) < 1e-6


def test_a_step_of_every_method_is_measured_on_a_tiny_model(monkeypatch):
    transformers = pytest.importorskip("transformers")
    from promptkernels.bench import step

    for name, value in {"BATCH": 2, "TASKS": 2, "LENGTH": 3, "HIDDEN": 16, "TEXT": 4, "_SECONDS": 0.01}.items():
        monkeypatch.setattr(step, name, value)
    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=49152
    )
    tiny = transformers.LlamaForCausalLM(config).requires_grad_(False)
    rows = list(step.step_costs(CPU, tiny))
    assert [one.method for one in rows] == ["PT", "MPT", "MPT", "DTVG", "DTVG"]
    assert rows[0].ratio == 1 and rows[0].share == 0
    assert all(one.share == pytest.approx(one.prompt_us / one.step_ms / 1e3, rel=0.05) for one in rows[1:])


def test_targets_take_the_worst_case_or_the_geometric_mean():
    rows = [
        row(kind="peer", contestant="normalise + matmul", ratio=5.0),
        row(case="similarity T=16", sizes={"T": 16}, kind="peer", contestant="normalise + matmul", ratio=3.0),
        row(kind="peer", contestant="torch.compile", ratio=1.0),
        row(case="other", kind="peer", contestant="torch.compile", ratio=4.0),
        row(op="compose", kind="floor", contestant="write output", ratio=0.5),
    ]
    got = {(one.target.subject, one.target.against): one for one in outcomes(rows, "cpu")}
    worst = got["cosine, forward, T <= 16", "normalise + matmul"]
    assert (worst.got, worst.met, worst.case) == (3.0, False, "similarity T=16, forward")
    assert got["every case, geometric mean", "torch.compile"].got == pytest.approx(2.0)
    assert got["every case", "torch.compile"].met
    floor = got["compose, forward", "write output"]
    assert floor.got == 2.0 and not floor.met
    assert not [one for one in outcomes([], "cpu")]
    large = [row(least_bytes=300_000_000), row(least_bytes=1000, share_of_roofline=0.1)]
    (share,) = outcomes(large, "cuda")
    assert share.got == 0.9 and share.met


def test_a_page_gets_its_region_once_and_keeps_the_rest(tmp_path):
    slower = row(kind="peer", contestant="normalise + matmul", ratio=0.8)
    results = Results(MACHINE, [row(), slower])
    assert "normalise + matmul takes 0.80 of our time" in section(results)
    assert "No peer was faster" in section(replace(results, cases=[row(), replace(slower, ratio=1.2)]))
    page = tmp_path / "performance.md"
    page.write_text("# Speed\n\nText.\n")
    insert(results, page)
    first = page.read_text()
    assert first.startswith("# Speed\n\nText.\n\n<!-- bench cpu") and "| 10 µs (9 µs to 12 µs) |" in first
    page.write_text(first + "\nAfter.\n")
    insert(replace(results, cases=[row(median_us=77.0), slower]), page)
    again = page.read_text()
    assert again.count("<!-- bench cpu") == 1 and again.endswith("\nAfter.\n") and "77 µs" in again
    insert(replace(results, machine={**MACHINE, "device_type": "cuda"}), page)
    assert page.read_text().startswith(again.rstrip("\n")) and "<!-- bench cuda" in page.read_text()
    with pytest.raises(ValueError, match="--into must name an existing page"):
        insert(results, tmp_path / "none.md")


def test_runs_of_one_machine_complete_each_other_and_a_busy_one_is_marked():
    results = Results(MACHINE, [row()])
    other = Results({**MACHINE, "load_average": 3.0}, [row(median_us=1.0)], [row(case="swept")])
    assert "busy" not in section(replace(other, cases=[], sweep=[]))  # no time is shown
    both = results.completed_by(other)
    assert both.cases == [row()] and both.sweep == [row(case="swept")] and both.machine == MACHINE
    with pytest.raises(ValueError, match="'a processor' and 'another'"):
        results.completed_by(Results({**MACHINE, "device": "another"}))
    assert not results.busy and "busy" not in section(results)
    assert not Results({**other.machine, "device_type": "cuda"}).busy  # a GPU times its own work
    assert "load average 3.0 on 2 cores" in section(other)


def test_results_with_no_number_survive_the_file(tmp_path):
    results = Results(MACHINE, spread=[studies.SpreadError(1e-4, "plain Gram", None)])
    results.write(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["spread"][0]["error"] is None
    assert Results.read(tmp_path / "results.json") == results
    assert "no number" in section(results)


def test_relative_error_is_the_root_mean_square_over_that_of_the_standard():
    got, exact = rand(5, seed=1), rand(5, seed=2)
    want = math.sqrt(sum((g - e) ** 2 for g, e in zip(got.tolist(), exact.tolist(), strict=True)))
    want /= math.sqrt(sum(e**2 for e in exact.tolist()))
    assert measure.relative_error(got, exact.double()) == pytest.approx(want, rel=1e-6)
