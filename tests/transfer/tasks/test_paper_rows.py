"""Invalid rows of the papers' data sets: named in an error, or left out and counted."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hub_fixtures import FIXTURES, Row, write_hub

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.tasks import load_task
from prompttransfer.tasks.papers import load_paper, loading
from prompttransfer.tasks.task import Task

CB = "superglue/cb"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return tmp_path / "hub"


class Notes(ProgressReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def rows_of(task: Task) -> int:
    return len(task.train) + len(task.validation) + len(task.test)


def spoil(hub: Path, name: str, changes: dict[int, Row], split: str = "train") -> None:
    """Change rows of a split of twelve, by number from 1."""
    fixture = FIXTURES[name]
    if not (hub / fixture.folder).is_dir():
        fixture.write(hub, 12)
    file = hub / fixture.folder / f"{split}-00000-of-00001.parquet"
    table = Dataset(pq.read_table(file))
    rows = [row | changes.get(number, {}) for number, row in enumerate(table, start=1)]
    columns = {column: [row[column] for row in rows] for column in table.column_names}
    pq.write_table(Dataset.from_dict(columns, features=table.features).data.table, file)


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        (CB, {"premise": None}, "field 'premise': got nothing, want a text"),
        (CB, {"hypothesis": "  "}, "field 'hypothesis': got an empty text"),
        (CB, {"label": -1}, "field 'label': got -1, which marks the rows of a hidden test set; want one of 0, 1, 2"),
        (CB, {"label": None}, "field 'label': got nothing, want one of 0, 1, 2"),
        ("glue/stsb", {"label": 5.5}, "field 'label': got 5.5, want a number from 0 to 5"),
        ("glue/stsb", {"label": -1.0}, "field 'label': got -1.0, want a number from 0 to 5"),
        ("superglue/wsc", {"span1_index": 99}, "field 'span1_index': got 99, want the number of a word below 9"),
        ("superglue/wsc", {"span2_text": "zebra"}, "field 'span2_text': got 'zebra', want words of the text"),
        ("superglue/record", {"answers": []}, "field 'answers': got no answer"),
        ("superglue/record", {"entities": None}, "field 'entities': got nothing, want a list of texts"),
        ("mrqa/squad", {"answers": {"text": [], "answer_start": []}}, "field 'answers': got no answer"),
        ("mrqa/squad", {"answers": None}, "field 'answers.text': got nothing, want a list"),
        ("others/winogrande", {"answer": "3"}, "field 'answer': got '3', want one of '1', '2'"),
        ("others/scitail", {"gold_label": ""}, "field 'gold_label': got nothing, want one of 'entailment', 'neutral'"),
        ("extra/arc", {"answerKey": "Z"}, "field 'answerKey': got 'Z', want one of 'A', 'B', 'C', 'D'"),
        (
            "extra/arc",
            {"choices": {"text": ["one"], "label": ["A"]}},
            "field 'choices.text': got ['one'], want 2 to 5 texts",
        ),
        ("nlg/e2e", {"human_reference": ""}, "field 'human_reference': got no answer"),
        ("nlg/webnlg", {"modified_triple_sets": {"mtriple_set": []}}, "field 'modified_triple_sets': got nothing"),
        ("nlg/commongen", {"concepts": []}, "field 'concepts': got an empty text"),
    ],
)
def test_a_row_that_does_not_fit_is_named_or_left_out(
    hub: Path, tmp_path: Path, name: str, change: Row, problem: str
) -> None:
    spoil(hub, name, {5: change})
    with pytest.raises(ValueError) as error:
        load_paper(name, data_dir=hub)
    message = str(error.value)
    assert message.startswith(f"{name}: 1 of ") and f"split 'train', row 5, {problem}" in message
    assert message.endswith("--bad-rows skip leaves them out")
    notes = Notes()
    task = load_task(name, data_dir=hub, bad_rows="skip", progress=notes)
    assert task.skipped == 1 and any("row 5" in note and "left out" in note for note in notes.notes)
    kept = load_paper(name, data_dir=hub, bad_rows="skip")
    clean = load_paper(name, data_dir=write_hub(tmp_path / "clean", [name], rows=12))
    # Numbered rows of WebNLG have two texts to learn.
    assert rows_of(clean) - rows_of(kept) == (2 if name == "nlg/webnlg" else 1)


def test_rows_of_several_files_are_numbered_as_in_their_split(hub: Path) -> None:
    spoil(hub, "extra/anli", {2: {"label": -1}}, split="train_r3")
    with pytest.raises(ValueError, match="split 'train_r3', row 2, field 'label'"):
        load_paper("extra/anli", data_dir=hub)


def test_rows_of_a_shared_table_are_numbered_as_in_the_table(hub: Path) -> None:
    spoil(hub, "mrqa/newsqa", {12: {"question": ""}})  # row 12 is number 10: the fifth subset, NewsQA
    with pytest.raises(ValueError, match="split 'train', row 12, field 'question'"):
        load_paper("mrqa/newsqa", data_dir=hub)
    assert not load_paper("mrqa/nq", data_dir=hub).skipped


def test_a_table_without_rows_of_the_set_is_an_error(hub: Path) -> None:
    FIXTURES["mrqa/newsqa"].write(hub, 1)
    with pytest.raises(ValueError, match="mrqa/nq: no row of 'train' has subset 'NaturalQuestionsShort'"):
        load_paper("mrqa/nq", data_dir=hub)


def test_an_empty_question_of_qqp_is_kept(hub: Path) -> None:
    spoil(hub, "glue/qqp", {3: {"question2": ""}})
    task = load_paper("glue/qqp", data_dir=hub)
    assert any(text.endswith("question2: ") for text in [*task.train["text"], *task.validation["text"]])


def test_nothing_is_left_of_a_set_that_fits_nowhere(hub: Path) -> None:
    for split in ("train", "validation"):
        spoil(hub, CB, {number: {"label": -1} for number in range(1, 13)}, split)
    with pytest.raises(ValueError, match=r"24 of 24 rows do not fit.*none is left"):
        load_paper(CB, data_dir=hub, bad_rows="skip")


@pytest.mark.parametrize(("option", "value"), [("answers", "letters"), ("bad_rows", "drop")])
def test_options_are_checked(option: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{option}: got '{value}', want"):
        load_paper(CB, **{option: value})


def test_a_score_that_cannot_be_computed_here(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hub(hub, ["nlg/webnlg"])
    lacking = {"meteor": "metric 'meteor' needs WordNet"}
    monkeypatch.setattr(loading, "missing", lacking.get)
    notes = Notes()
    assert load_paper("nlg/webnlg", data_dir=hub, progress=notes).metrics == ("bleu", "ter")
    assert any("needs WordNet" in note for note in notes.notes)
