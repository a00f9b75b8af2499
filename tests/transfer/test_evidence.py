"""Studies: their settings, the choice of settings on validation rows, cells that several processes fill, pages."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from recipes import Silent
from tiny import WORDS, tiny_llama, tiny_tokenizer

from bench.evidence.__main__ import ARCHIVES, RESULTS
from bench.evidence.archive import archive_of, pack, unpack
from bench.evidence.running import collect, run_study
from bench.evidence.studies import REPORTED, TUNING, Study, grid_entries, read_study
from bench.evidence.tuning import best_settings, choose, settings_text
from bench.evidence.writing import table, write_index, write_study, write_tuning
from prompttransfer import RunConfig
from prompttransfer.methods import METHODS
from prompttransfer.models.scoring import evaluate
from prompttransfer.report import Results
from prompttransfer.report.statistics import interval_text, paired
from prompttransfer.tasks.task import Example, Task, to_dataset

ANY_BEST: dict[str, dict[str, dict[str, Any]]] = {name: {method: {} for method in METHODS} for name in TUNING}


class Counting(Silent):
    """Remembers the stages that were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []

    def stage(self, title: str, total: int) -> Counting:
        self.stages.append(title)
        return self


@pytest.fixture
def study(tmp_path: Path, tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch) -> Study:
    """PT, SPoT and two DTVG entries on two toy targets and two seeds."""
    model = tmp_path / "model"
    tiny_llama().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    monkeypatch.setattr("prompttransfer.runs.workbench.load_task", lambda name, **_: tasks[name])
    settings = {"model": str(model), "sources": ["red", "green"], "targets": ["blue", "goal"], "seeds": [1, 2]}
    settings |= {"prompt_length": 3, "train_rows": 12, "test_rows": 20, "source_updates": 3, "target_updates": 4}
    settings |= {
        "batch_size": 4,
        "source_batch_size": 4,
        "precision": "float32",
        "transfer_from": "all",
        "cache": str(tmp_path / "cache"),
    }
    entries = {
        "PT": {"method": "PT"},
        "SPoT": {"method": "SPoT", "settings": {"target_learning_rate": 0.05}},
        "DTVG": {"method": "DTVG"},
        "DTVG all": {"method": "DTVG", "against": "DTVG", "settings": {"dtvg": {"ablation": "no-grouping"}}},
    }
    return Study(name="toy", about="A toy.", settings=settings, entries=entries)


def test_the_studies_are_sound() -> None:
    reported = {name: read_study(name, ANY_BEST) for name in REPORTED}
    tuned_methods = {entry.method for entry in read_study("tuning").entries.values()}
    assert {"PT", "MPT", "BMTPT", "DTVG"} <= tuned_methods
    for name in ("few16", "few32"):
        config = reported[name].config
        assert config.train_rows == int(name[3:]) and set(config.methods) == tuned_methods
        assert len(config.seeds) >= 5 and len(config.targets) >= 5 and len(config.sources) >= 4
    for study in reported.values():
        assert not set(study.config.sources) & set(study.config.targets)
        assert study.config.evaluate_on == "test" and len(study.cells) == len(set(study.cells))
    assert len(reported["full"].config.seeds) >= 5 and len(reported["full"].config.targets) >= 5
    for tuned in map(read_study, TUNING):
        assert {entry.method for entry in tuned.entries.values()} == tuned_methods
        assert tuned.config.evaluate_on == "validation"
        assert set(tuned.config.targets) <= set(reported["few16"].config.targets)
        assert not set(tuned.config.seeds) & {seed for study in reported.values() for seed in study.config.seeds}
    full, tuned = reported["full"].config, read_study("tuning-full").config
    assert (full.train_rows, full.target_updates) == (tuned.train_rows, tuned.target_updates)
    ablated = {
        entry.settings.get(name, {}).get("ablation")
        for entry in reported["ablations"].entries.values()
        for name in ("mpt", "dtvg")
    }
    assert {"no-distillation", "no-decomposition", "prompt-mse", "shared-only", "no-grouping", "fixed-group"} <= ablated


@pytest.mark.parametrize("rows", ["16", "all"])
@pytest.mark.parametrize("updates", [16, 64, 256])
def test_studies_of_the_shipped_settings_change_rows_and_updates_alone(rows: str, updates: int) -> None:
    study, shipped = read_study(f"shipped-{rows}-rows-{updates}-updates"), RunConfig()
    config = study.config
    assert (config.train_rows, config.target_updates) == (16 if rows == "16" else 2000, updates)
    changed = {name for name in RunConfig.model_fields if getattr(config, name) != getattr(shipped, name)}
    assert changed <= {"sources", "targets", "seeds", "methods", "train_rows", "target_updates"}
    assert len(config.targets) >= 6 and len(config.seeds) >= 3 and not set(config.sources) & set(config.targets)
    assert not set(config.seeds) & set(shipped.seeds)
    paper = study.config_of("DTVG paper")
    assert paper.transfer_from == "all" and paper.dtvg.variant == "paper" and config.transfer_from == "related"


def test_chosen_settings_stand_below_those_of_an_entry() -> None:
    best = {"tuning": ANY_BEST["tuning"] | {"MPT": {"target_learning_rate": 0.5, "mpt": {"rank": 2}}}}
    study = read_study("ablations", best)
    config = study.config_of("MPT no-hidden")
    assert config.target_learning_rate == 0.5 and config.mpt.rank == 2 and config.mpt.hidden == "none"
    assert config.methods == ("MPT",) and study.config_of("PT").target_learning_rate is None
    with pytest.raises(ValueError, match="PT is not tuned yet"):
        read_study("few16")


def test_bad_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="unknown study 'few8'; there are ablations, few16"):
        read_study("few8")
    with pytest.raises(ValueError, match="same number of settings to try, got PT 2, SPoT 1"):
        grid_entries({"PT": {"warmup": [0.1, 0.2]}, "SPoT": {"warmup": [0.1]}})
    (tmp_path / "common.json").write_text('{"sources": ["a"], "targets": ["b"]}')
    for entry, message in (
        ({"method": "PT", "settings": {"train_rows": 3}}, "an entry may set .*; got train_rows"),
        ({"method": "MPT", "against": "MTP"}, "compared with 'MTP', which is no entry"),
        ({"method": "MPT", "against": "x", "settings": {"mpt": {"rnk": 2}}}, "did you mean 'rank'"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps({"about": "", "entries": {"x": entry}}))
        with pytest.raises(ValueError, match=message):
            read_study("bad", ANY_BEST, tmp_path)


def test_grids_are_all_combinations() -> None:
    entries = grid_entries({"TPV": {"target_learning_rate": [0.1, 0.2], "tpv.scale": [1, 2], "tpv.tune": [False]}})
    assert [entry.settings for entry in entries.values()] == [
        {"target_learning_rate": rate, "tpv": {"scale": scale, "tune": False}}
        for rate in (0.1, 0.2)
        for scale in (1, 2)
    ]


def timeless(results: Results) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.facts().items() if name != "seconds"} for row in results.rows]


@pytest.mark.slow
def test_parts_of_a_study_add_up_to_it_and_nothing_is_done_twice(study: Study, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first = Counting()
    run_study(study, whole, first)
    assert "min left" in first.notes[-1]
    expected = collect(study, whole)
    assert expected.content["finished"] and len(expected.rows) == 2 * 2 * 4
    assert expected.methods == list(study.entries) and expected.targets == ["blue", "goal"]
    assert {(row["source"], row["seed"]) for row in expected.content["sources"]} == {("red", 1), ("green", 1)}
    apart = study.model_copy(update={"settings": study.settings | {"cache": str(tmp_path / "other")}})
    run_study(apart, parts, Counting(), seeds=[2])
    assert not collect(apart, parts).content["finished"]
    run_study(apart, parts, Counting(), seeds=[1], labels=["PT", "DTVG"])
    run_study(apart, parts, Counting(), seeds=[1], labels=["SPoT", "DTVG all"])
    assert timeless(collect(apart, parts)) == timeless(expected)
    again = Counting()
    run_study(study, whole, again)
    assert again.stages == [] and again.notes[-1] == "toy: 16 cells of 16, 16 are done"
    with pytest.raises(ValueError, match="toy has targets blue, goal; got gaol"):
        run_study(study, whole, again, targets=["gaol"])


@pytest.mark.slow
def test_another_machine_goes_on_with_what_was_published(study: Study, tmp_path: Path) -> None:
    """Continue from the archive, without the store and the folder of the first machine."""
    run_study(study, tmp_path / "first", Counting(), seeds=[1])
    results = collect(study, tmp_path / "first")
    second, archive = tmp_path / "second", archive_of(study, tmp_path / "archives")
    pack(tmp_path / "first", archive)
    unpack(archive, second)
    assert timeless(collect(study, second)) == timeless(results)
    assert collect(study, second).histories("DTVG", "blue") == results.histories("DTVG", "blue") != []
    elsewhere = study.model_copy(update={"settings": study.settings | {"cache": str(tmp_path / "empty")}})
    watched = Counting()
    run_study(elsewhere, second, watched, seeds=[1])
    assert watched.stages == []
    run_study(elsewhere, second, watched)
    assert watched.stages != [] and len(collect(study, second).rows) == 16
    cell = next((second / "cells").iterdir())
    cell.write_text("{}")  # what is there stays
    unpack(archive, second)
    assert cell.read_text() == "{}"
    unpack(tmp_path / "none", tmp_path / "third")
    assert not (tmp_path / "third").exists()


@pytest.mark.slow
def test_seeds_added_later_have_the_same_sources(study: Study, tmp_path: Path) -> None:
    run_study(study, tmp_path / "both", Counting(), labels=["SPoT"])
    settings = study.settings | {"seeds": [2], "source_seed": 1, "cache": str(tmp_path / "other")}
    later = study.model_copy(update={"settings": settings})
    run_study(later, tmp_path / "later", Counting(), labels=["SPoT"])
    of_both = [row for row in timeless(collect(study, tmp_path / "both")) if row["seed"] == 2]
    assert timeless(collect(later, tmp_path / "later")) == of_both != []
    with pytest.raises(ValueError, match="source_seed gives all seeds the same sources"):
        RunConfig(source_seed=1, retrain_sources=True)


@pytest.mark.slow
def test_cells_of_other_settings_do_not_count(study: Study, tmp_path: Path) -> None:
    run_study(study, tmp_path, Counting(), labels=["PT"])
    assert len(collect(study, tmp_path).rows) == 4
    other = study.model_copy(update={"settings": study.settings | {"target_updates": 6}})
    assert collect(other, tmp_path).rows == []
    for path in (tmp_path / "cells").iterdir():  # as if some settings had not existed yet
        cell = json.loads(path.read_text(encoding="utf-8"))
        del cell["settings"]["select_updates"], cell["settings"]["dtvg"]
        path.write_text(json.dumps(cell), encoding="utf-8")
    assert len(collect(study, tmp_path).rows) == 4


@pytest.mark.slow
def test_tuning_reads_validation_rows_only_and_takes_the_best(
    study: Study, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All test rows have a word that no other row has, and no scored row has it."""
    poison = to_dataset([Example(text, text, index % 2) for index, text in enumerate([f"{WORDS[7]} {WORDS[20]}"] * 8)])
    for name, task in tasks.items():
        tasks[name] = replace(task, test=poison)
    settings = study.settings | {"evaluate_on": "validation", "test_rows": 10}
    grids = {"PT": {"target_learning_rate": [1e-5, 0.3]}, "SPoT": {"spot.own_fraction": [0.25, 0.5]}}
    tuned = Study(name="tuning", about="", settings=settings, entries=grid_entries(grids))
    scored: list[list[int]] = []

    def watched(backbone: Any, prompt: Any, task: Any, **more: Any) -> Any:
        scored.extend(map(list, task.test))
        return evaluate(backbone, prompt, task, **more)

    monkeypatch.setattr("prompttransfer.methods.context.evaluate", watched)
    run_study(tuned, tmp_path, Counting())
    word = tiny_tokenizer().convert_tokens_to_ids(WORDS[7])
    assert scored and not any(word in row for row in scored)
    results = collect(tuned, tmp_path)
    assert results.judged_on == "validation" and {row.test_rows for row in results.rows} == {10}
    chosen = choose(tuned, results)
    for method in ("PT", "SPoT"):
        means = {}
        for label in (f"{method} 1", f"{method} 2"):
            values = [row.score for row in results.rows if row.method == label]
            means[label] = sum(values) / len(values)
        assert chosen["best"][method] == tuned.entries[max(means, key=means.__getitem__)].settings
        assert [row["mean"] for row in chosen["tried"] if row["method"] == method] == pytest.approx(
            list(means.values())
        )
    write_tuning(chosen, tmp_path / "tuning.md")
    text = (tmp_path / "tuning.md").read_text()
    assert text.count("| **") == 2 and "spot.own_fraction 0.25" in text
    with pytest.raises(ValueError, match="on validation rows, got evaluate_on='test'"):
        choose(study, SimpleNamespace(judged_on="test"))


@pytest.mark.slow
def test_a_setting_that_diverges_cannot_win(study: Study, tmp_path: Path) -> None:
    settings = study.settings | {"evaluate_on": "validation", "max_grad_norm": 0.0, "targets": ["goal"], "seeds": [1]}
    grids = {"PT": {"target_learning_rate": [1e30, 0.01]}}
    tuned = Study(name="tuning", about="", settings=settings, entries=grid_entries(grids))
    run_study(tuned, tmp_path, Counting())
    results = collect(tuned, tmp_path)
    assert results.content["finished"] and len(results.content["errors"]) == 1
    assert "PT 1 on goal, seed 1: the loss is" in results.content["errors"][0]
    chosen = choose(tuned, results)
    assert chosen["best"] == {"PT": {"target_learning_rate": 0.01}} and chosen["tried"][0]["mean"] is None


@pytest.mark.slow
def test_pages_hold_every_table(study: Study, tmp_path: Path) -> None:
    run_study(study, tmp_path / "run", Counting())
    results, pages = collect(study, tmp_path / "run"), tmp_path / "pages"
    write_study(study, results, pages)
    write_index([study, study.model_copy(update={"name": "never run"})], pages)
    text = (pages / "toy.md").read_text()
    titles = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert titles[:3] == ["Scores", "Difference to PT, pair by pair", "Difference to DTVG, pair by pair"]
    assert {"Groups of DTVG", "Source prompts", "Cost", "Settings", "Origin", "Learning curves"} <= set(titles)
    for picture in re.findall(r"!\[.*\]\((.*)\)", text):
        assert ElementTree.parse(pages / picture).getroot().tag.endswith("svg")
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):  # every line of a table has as many cells
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "| DTVG all: goal | 100 % (2 of 2) | 100 % (2 of 2) |" in text and "seeds that end with it" in text
    assert "Not finished" not in text and "SPoT | target_learning_rate 0.05" in text and "were chosen by" not in text
    with (pages / "toy.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(results.rows)
    write_study(study.model_copy(update={"tuned": "tuning"}), results, tmp_path / "tuned")
    assert "were chosen by [tuning](tuning.md)" in (tmp_path / "tuned" / "toy.md").read_text()
    index = (pages / "README.md").read_text()
    assert "[toy](toy.md)" in index and "| SPoT |" in index and "| DTVG all |" not in index
    assert "have a score" not in index and "never run" not in index
    spot = paired(results.rows, "SPoT")
    assert spot and f"| {interval_text(spot.over_seeds)} | {interval_text(spot.over_targets)} |" in index
    lines = (pages / "toy.csv").read_text().splitlines(keepends=True)
    (pages / "toy.csv").write_text("".join(lines[:-1]))
    write_index([study], pages)
    cells = len(study.cells)
    assert f"{cells - 1} of {cells} cells have a score." in (pages / "README.md").read_text()


def test_the_index_says_what_the_published_rows_say(tmp_path: Path) -> None:
    """Whoever writes one study's page on a new machine does not lose the others from the index."""
    studies = [read_study(name, best_settings(ARCHIVES)) for name in REPORTED]
    for path in RESULTS.glob("*.csv"):
        shutil.copy(path, tmp_path)
    write_index(studies, tmp_path)
    assert (tmp_path / "README.md").read_text() == (RESULTS / "README.md").read_text()


def test_tables_keep_their_columns() -> None:
    assert table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"
    assert settings_text({"a": 1, "b": {"c": "x", "d": None}}) == "a 1, b.c x, b.d None"
