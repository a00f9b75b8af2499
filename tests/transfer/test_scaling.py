"""The cost model of docs/scaling.md: the fit, its terms against the real modules, and the page."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from promptkernels.bench.memory import peak_bytes
from prompttransfer.prompts import GroupedPrompt, MultitaskPrompt, ParticlePrompts
from tools.scaling import page
from tools.scaling.fitting import errors, fit, predict
from tools.scaling.points import METHODS, Point, backbone, facts, make, memory_terms, stage, time_terms
from tools.scaling.predictions import Cluster, Work, llama_70b, run_of_tasks


def test_constants_are_found_again() -> None:
    drawn = np.random.default_rng(0)
    terms = [{"a": x, "b": y, "none": z} for x, y, z in drawn.uniform(1, 1000, (30, 3)).tolist()]
    measured = [3e-9 * term["a"] + 5e-3 * term["b"] for term in terms]
    constants = fit(terms, measured)
    assert constants["b"] == pytest.approx(5e-3, rel=1e-5) and constants["none"] < 1e-8
    assert predict(constants, terms[0]) == pytest.approx(measured[0], rel=1e-5)
    error_facts = errors(constants, terms, [1.1 * value for value in measured])
    assert error_facts["points"] == 30 and error_facts["median"] == pytest.approx(1 - 1 / 1.1, rel=1e-3)
    assert min(fit(terms, [1000 - term["a"] / 2 for term in terms]).values()) >= 0


def test_terms_count_what_the_modules_have() -> None:
    model = backbone(64, 2).model
    inner = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name and "norm" not in name)
    assert facts(64, 2).read == inner
    start, stacked = torch.zeros(5, 64), torch.zeros(3, 5, 64)
    modules = {
        "MPT, sources": MultitaskPrompt(start, 3),
        "MPT, target": MultitaskPrompt(start),
        "BMTPT, particles": ParticlePrompts(stacked, start),
        "DTVG": GroupedPrompt(start, stacked, start),
    }
    for method, module in modules.items():
        assert stage(Point(method, hidden=64, length=5, count=3)).trained == module.trainable_parameters()
    short, long = (time_terms(Point("BMTPT, particles", rows=1, count=count)) for count in (2, 6))
    assert long["operations"] == 3 * short["operations"] and long["weight bytes"] == 3 * short["weight bytes"]


def test_page_holds_what_was_measured(tmp_path: Path) -> None:
    uses = (("fitted", 2), ("fitted", 4), ("beyond", 6))
    points = [_point(method, use, rows) for method in METHODS for use, rows in uses]
    results = json.loads(json.dumps({"machine": MACHINE, "points": points, "operations": OPERATIONS, "tasks": [TASKS]}))
    text = tmp_path / "scaling.md"
    text.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.write(results, LIBRARY, text)
    written = text.read_text()
    assert written.startswith(f"before\n{page.BEGIN}\n\nMeasured on a CPU") and written.endswith(f"{page.END}\nafter\n")
    assert "\nold\n" not in written and "| 100 x 8192 | 3277 GB |" in written and "**0.80** over mapped" in written
    picture = (tmp_path / "figures" / "scaling.svg").read_bytes()
    page.write(results, LIBRARY, text)
    assert text.read_text() == written and (tmp_path / "figures" / "scaling.svg").read_bytes() == picture
    with pytest.raises(ValueError, match="want a region between"):
        page.write(results, LIBRARY, tmp_path / "figures" / "scaling.svg")


def test_predictions_follow_the_formulas() -> None:
    totals, model = run_of_tasks(Cluster(), Work()), llama_70b()
    assert model.parameters == pytest.approx(70.6e9, rel=1e-2)
    tokens = 100 + 32 * 129
    assert totals["update_seconds"] == pytest.approx(4 * tokens * model.read / (0.4 * 989e12))
    assert totals["days_sources"] == pytest.approx(totals["update_seconds"] * 1000 * 2000 / 64 / 86400)
    twice = run_of_tasks(Cluster(gpus=128), Work())
    assert twice["days_targets"] == pytest.approx(totals["days_targets"] / 2)


def _point(method: str, use: str, rows: int) -> dict:
    point = Point(method, hidden=64, layers=1, length=3, rows=rows, count=2, use=use)
    call = make(point)
    call()
    terms = {"time_terms": time_terms(point), "memory_terms": memory_terms(point)}
    peak = peak_bytes(call, torch.device("cpu"))
    return {**vars(point), **terms, "seconds": 1e-9 * terms["time_terms"]["operations"], "peak_bytes": peak}


MACHINE = {"device": "a CPU", "threads": 1, "cores": 2, "torch": "2", "date": "today", "commit": "0", "load_average": 0}
OPERATIONS = [{"operation": "one", "sizes": [4, 16], "seconds": [1e-5, 2.0], "exponent": 8.8}]
TASKS = {
    "sources": 3,
    "seconds_to_load": 1.0,
    "loaded_mib": 2.0,
    "seconds_of_run": 3.0,
    "seconds_with_sources_done": 1.0,
    "files_stages": 4,
    "files_run-2": 5,
    "bytes_stages": 6,
    "bytes_run-2": 7,
}
_PACES = {"similar_gb_per_second": 4.0, "mapped_gb_per_second": 5.0, "read_gb_per_second": 6.0, "ratio": 0.8}
LIBRARY = {
    "prompts": 10,
    "length": 100,
    "hidden": 768,
    "bytes": 3_072_000,
    "seconds_to_index": 0.1,
    "seconds_to_open": 0.01,
    "search_memory_mib": 4.0,
    "warm": _PACES,
    "cold": _PACES,
}
