"""The comparison as a whole: tiny model, toy tasks."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import VOCABULARY, tiny_llama, tiny_tokenizer

from prompttransfer import RunConfig, register_method
from prompttransfer.estimate.model import model_facts
from prompttransfer.estimate.stages import stages
from prompttransfer.estimate.tasks import TaskFacts
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.methods import (
    Context,
    EncodedTask,
    Method,
    MethodResult,
    Scope,
    Settings,
    SizedTask,
    Stage,
    source_cost,
    source_prompts,
    task_loss,
)
from prompttransfer.prompts import SoftPrompt
from prompttransfer.report import write_report
from prompttransfer.runs.compare import compare
from prompttransfer.runs.workbench import Workbench
from prompttransfer.settings.overrides import MethodSettings
from prompttransfer.tasks.task import Example, Task, to_dataset
from prompttransfer.training import trainer as training

COLUMNS = {
    "method",
    "target",
    "seed",
    "metric",
    "scoring",
    "score",
    "other_scores",
    "majority",
    "zero_shot",
    "collapsed",
    "test_rows",
    "train_rows",
    "leaked_rows",
    "skipped_rows",
    "trainable_parameters",
    "target_updates",
    "target_examples",
    "source_updates",
    "seconds",
    "prompt",
    "notes",
}
ONE_ROW = {"sources": (), "targets": ("goal",), "methods": ("PT",), "seeds": (1,)}


class Progress:
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def stage(self, title: str, total: int) -> Progress:
        self.stages.append(title)
        return self

    def advance(self, n: int = 1, **figures: float) -> None: ...

    def close(self) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def config(tmp_path: Path, tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    model = tmp_path / "model"
    tiny_llama().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    monkeypatch.setattr(
        "prompttransfer.runs.workbench.load_task", lambda name, **more: tasks[name].limit(None, more.get("test_rows"))
    )
    return RunConfig(
        model=str(model),
        sources=["red", "green"],
        targets=["blue", "goal"],
        seeds=[1, 2],
        prompt_length=3,
        train_rows=12,
        test_rows=20,
        source_updates=3,
        target_updates=4,
        batch_size=4,
        source_batch_size=4,
        checkpoint_updates=1,
        precision="float32",
        output=tmp_path / "run",
        cache=tmp_path / "cache",
    )


def test_one_start_of_the_labels_of_all_tasks_serves_all_of_them(config: RunConfig) -> None:
    config = config.model_copy(update={"init": "labels", "prompt_length": 5})
    work = Workbench(config, Progress())
    first, second = (work.context(seed) for seed in config.seeds)
    table = work.backbone.embedding.weight.detach()
    assert torch.equal(first.start[:2], table[[VOCABULARY.index("no"), VOCABULARY.index("yes")]])
    assert torch.equal(first.start, second.start) and len(first.start.unique(dim=0)) == 5


def test_a_run_writes_every_row_with_its_honest_columns(config: RunConfig) -> None:
    folder = compare(config, Progress())
    results = json.loads((folder / "results.json").read_text())
    assert results["finished"] is True and results["format"] == 1
    assert results["model"] == config.model and len(results["model_fingerprint"]) == 16
    rows = results["rows"]
    assert len(rows) == 2 * 2 * 4
    assert {(row["method"], row["target"], row["seed"]) for row in rows} == {
        (method, target, seed) for method in config.methods for target in config.targets for seed in config.seeds
    }
    for row in rows:
        assert set(row) == COLUMNS
        assert 0 <= row["score"] <= 100 and row["majority"] == 50.0
        assert (row["target_updates"], row["target_examples"], row["test_rows"], row["train_rows"]) == (4, 16, 20, 12)
        with safe_open(folder / row["prompt"], "pt") as file:
            assert file.get_tensor("prompt").shape == (3, 16)
            metadata = file.metadata()
        assert metadata["task"] == row["target"] and metadata["method"] == row["method"]
        assert len(metadata["init_hash"]) == 16
        history = json.loads(
            (folder / "history" / f"{row['method']}-{row['target']}-seed{row['seed']}.json").read_text()
        )
        assert history["loss"]
    assert [(row["source"], row["seed"]) for row in results["sources"]] == [("red", 1), ("green", 1)]
    assert len(list((folder / "prompts" / "sources").iterdir())) == 2
    with (folder / "results.csv").open(newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == [row["method"] for row in rows]
    assert RunConfig(**json.loads((folder / "config.json").read_text())) == config


def test_what_others_need_is_done_first_and_rows_stand_where_they_belong(config: RunConfig) -> None:
    class Notes(ProgressReporter):
        rows: ClassVar[list[str]] = []

        def note(self, text: str) -> None:
            if text.startswith("row "):
                self.rows.append(text.split(": ")[1].split(",")[0])

    config = config.model_copy(update={"methods": ("SPoT", "MPT", "PT"), "transfer_from": "all"})
    results = json.loads((compare(config, Notes()) / "results.json").read_text())
    done = [name.partition("-")[0] for name in Notes.rows]
    assert done == ["sources/red", "sources/green", *4 * ["MPT"], *4 * ["SPoT", "PT"]]
    assert [row["method"] for row in results["rows"]] == 4 * ["SPoT", "MPT", "PT"]


def test_every_other_metric_has_a_column_of_its_own(config: RunConfig, tasks: dict[str, Task]) -> None:
    tasks["goal"] = replace(tasks["goal"], more_metrics=("macro-f1", "f1"))
    folder = compare(config.model_copy(update=ONE_ROW | {"targets": ("goal", "blue")}), Progress())
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert [set(row["other_scores"]) for row in rows] == [{"macro-f1", "f1"}, set()]
    with (folder / "results.csv").open(newline="") as file:
        goal, blue = csv.DictReader(file)
    assert float(goal["score:f1"]) == rows[0]["other_scores"]["f1"] and blue["score:f1"] == blue["score:macro-f1"] == ""


def test_texts_that_the_vocabulary_lacks_are_told(config: RunConfig, tasks: dict[str, Task]) -> None:
    rows = to_dataset([Example(text, f"{text} w1", n % 2) for n, text in enumerate(["w2", "这部电影"] * 6)])
    tasks["goal"], progress = Task("goal", rows, rows, rows, ("no", "yes")), Progress()
    folder = compare(config.model_copy(update=ONE_ROW), progress)
    note = "12 of 24 texts of goal are mostly characters that this model's vocabulary lacks"
    assert progress.warnings == [f"note: {note}"]
    assert json.loads((folder / "results.json").read_text())["rows"][0]["notes"] == note


def test_a_second_run_trains_nothing_and_says_so(config: RunConfig) -> None:
    config = config.model_copy(update={"seeds": (1,), "targets": ("goal",)})
    first = json.loads((compare(config, Progress()) / "results.json").read_text())
    again = Progress()
    second = json.loads((compare(config, again) / "results.json").read_text())
    assert again.stages == []
    assert "6 of 6 rows are already finished" in again.notes
    assert second["rows"] == first["rows"] and second["sources"] == first["sources"]


def test_results_of_other_settings_move_aside(config: RunConfig) -> None:
    config = config.model_copy(update={"seeds": (1,), "targets": ("goal",), "methods": ("PT",)})
    first = (compare(config, Progress()) / "results.json").read_text()
    progress = Progress()
    folder = compare(config.model_copy(update={"methods": ("SPoT",)}), progress)
    assert (folder.with_name(f"{folder.name}-1") / "results.json").read_text() == first
    results = json.loads((folder / "results.json").read_text())
    (row,), sources = results["rows"], list(enumerate((each["source"], each["score"]) for each in results["sources"]))
    assert row["method"] == "SPoT"
    assert (folder / "prompts" / "SPoT" / "goal-seed1-own.safetensors").is_file()
    assert progress.warnings == [f"{folder} has results of other settings: moved them to {folder}-1"]
    assert [note for note in progress.notes if note.startswith("row ")] == [
        *(f"row {place + 1} of 3: sources/{name}-seed1, accuracy {score:.1f}" for place, (name, score) in sources),
        f"row 3 of 3: SPoT-goal-seed1, accuracy {row['score']:.1f}",
    ]


def test_mistakes_in_a_table_are_told_before_the_model_is_loaded(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(name: str, **_: object) -> Task:
        raise ValueError("no such column")

    loaded: list[str] = []
    monkeypatch.setattr("prompttransfer.runs.workbench.load_model", lambda name, **_: loaded.append(name))
    monkeypatch.setattr("prompttransfer.runs.workbench.load_task", wrong)
    with pytest.raises(ValueError, match="no such column"):
        Workbench(config, Progress())
    assert loaded == []


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_with_the_same_scores(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.model_copy(update={"seeds": (1,)})
    whole = json.loads((compare(config, Progress()) / "results.json").read_text())
    cut = config.model_copy(update={"output": tmp_path / "cut", "cache": tmp_path / "cut-cache"})
    original, updates = training._Hooks.on_step_end, []

    def interrupt(self, *args, **kwargs):
        updates.append(1)
        if len(updates) == 25:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(training._Hooks, "on_step_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compare(cut, Progress())
    partial = json.loads((cut.output / "results.json").read_text())
    assert partial["finished"] is False and 0 < len(partial["rows"]) < len(whole["rows"])
    finished = json.loads((compare(cut, Progress()) / "results.json").read_text())
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in run["rows"]] for run in (whole, finished)]
    assert timeless[0] == timeless[1]


def test_other_seeds_draw_other_rows_but_share_the_sources(config: RunConfig) -> None:
    progress = Progress()
    compare(config.model_copy(update={"methods": ("PT", "SPoT")}), progress)
    assert sum(stage.startswith("source red") and "shot" not in stage for stage in progress.stages) == 2  # train, test
    assert sum(stage == "goal: PT" for stage in progress.stages) == 2


def test_a_method_may_have_a_rate_of_its_own(config: RunConfig, tmp_path: Path) -> None:
    def prompts(folder: str, **settings: Any) -> dict[str, torch.Tensor]:
        published = {"methods": ("PT", "MPT"), "transfer_from": "all"}
        output = compare(config.model_copy(update={"output": tmp_path / folder, **published, **settings}))
        names = ("PT", "MPT")
        return {name: load_file(output / f"prompts/{name}/goal-seed1.safetensors")["prompt"] for name in names}

    plain, fast = prompts("plain"), prompts("fast", target_learning_rate=0.1)
    own = prompts("own", per_method={"MPT": MethodSettings(target_learning_rate=0.1)})
    assert torch.equal(own["PT"], plain["PT"]) and torch.equal(own["MPT"], fast["MPT"])
    assert not torch.equal(own["MPT"], plain["MPT"])


def test_methods_beyond_the_demo_leave_their_files(config: RunConfig) -> None:
    methods = ("Multi-PT", "TPV", "ATTEMPT", "MPT-group", "CrossPT", "DePT", "PANDA")
    folder = compare(config.model_copy(update={"methods": methods, "seeds": (1,)}), Progress())
    results = json.loads((folder / "results.json").read_text())
    assert [(row["target"], row["method"]) for row in results["rows"]] == [
        (target, method) for target in config.targets for method in methods
    ]
    for row in results["rows"]:
        assert (row["target_updates"], row["target_examples"]) == (4, 16)
        with safe_open(folder / row["prompt"], "pt") as file:
            assert file.get_tensor("prompt").shape == (1 if row["method"] == "DePT" else 3, 16)
            # The score of a prompt file is that of the prompt in it.
            assert ("score" in file.metadata()) is (row["method"] not in ("ATTEMPT", "DePT"))
    with safe_open(folder / "prompts" / "ATTEMPT" / "goal-seed1-module.safetensors", "pt") as file:
        assert file.get_tensor("sources").shape == (2, 3, 16)
        assert file.metadata()["method"] == "ATTEMPT"


def test_a_method_of_ones_own_is_everywhere(config: RunConfig, tmp_path: Path, methods_restored: None) -> None:
    """40 lines, and it is in the settings, the estimate, the results, the report and the stages that are kept."""

    class HalfSettings(Settings):
        block = "half"
        share: float = Field(0.5, gt=0, lt=1, description="of the source's task vector")

    @register_method
    class Half(Method):
        """Prompt tuning from a share of the first source's task vector."""

        name = "half"
        settings = (HalfSettings,)

        def target_stages(self, scope: Scope, target: SizedTask) -> Iterator[Stage]:
            yield scope.tuning(target, self.name, scope.prompt + 7)

        def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
            share = ctx.config.of(HalfSettings).share
            prompt = SoftPrompt(torch.lerp(ctx.start, source_prompts(ctx)[0], share))
            plan = ctx.plan(prompt, task_loss, target.train, ctx.target_batches(target), ctx.config.target_rate)
            facts = ctx.run(f"{target.name}: half", plan).facts
            return MethodResult(
                prompt=prompt.composed().cpu(),
                trainable_parameters=facts["trainable_parameters"],
                target_updates=facts["updates"],
                target_examples=facts["examples"],
                source_updates=source_cost(ctx),
                seconds=facts["seconds"],
                history={"loss": facts["loss"]},
            )

    half_settings = config.model_dump() | {
        "methods": ("PT", "half"),
        "half": {"share": 0.25},
        "output": tmp_path / "half",
    }
    with pytest.raises(ValueError, match="did you mean 'share'"):
        RunConfig(**half_settings | {"half": {"shares": 0.25}})
    half = RunConfig(**half_settings)
    assert half.of(HalfSettings).share == 0.25

    facts = [TaskFacts(name, "", True, 60, 30, True, "accuracy", 8.0, 1.0, False) for name in ("red", "green", "goal")]
    estimate = {stage.title: stage for stage in stages(half, model_facts(half.model)[0], facts[:2], facts[2:])}
    length = half.prompt_length
    assert estimate["goal: half"].trained == length * 16 + 7 and "source red" in estimate

    progress = Progress()
    results = json.loads((compare(half, progress) / "results.json").read_text())
    rows = {(row["method"], row["target"]): row for row in results["rows"]}
    row, plain = rows["half", "goal"], rows["PT", "goal"]
    assert row["trainable_parameters"] == length * 16 and row["target_updates"] == plain["target_updates"]
    assert row["source_updates"] > 0 == plain["source_updates"]
    assert "half" in write_report(half.output).read_text()
    again = Progress()
    compare(half.model_copy(update={"output": tmp_path / "again"}), again)
    assert "goal: half" in progress.stages and not any("half" in stage for stage in again.stages)
    other = Progress()
    compare(RunConfig(**half_settings | {"half": {"share": 0.75}, "output": tmp_path / "other"}), other)
    assert "goal: half" in other.stages and "source red" not in other.stages
