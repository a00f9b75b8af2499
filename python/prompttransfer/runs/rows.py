"""Rows of the results, for the prompts of targets and sources: built, written and read back.

The fields of a row, in their order, are those in results.json and the columns of results.csv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, TypeAdapter

from prompttransfer.settings.base import Number
from prompttransfer.settings.recipes import checked

if TYPE_CHECKING:
    from prompttransfer.files.store import StageResult
    from prompttransfer.methods import MethodResult
    from prompttransfer.models.encoding import EncodedTask
    from prompttransfer.models.scoring import Evaluation

FORMAT = 1  # format of results.json; raise it for any change other than a new field

# A run folder may be untrusted, so types are strict: no text for a number. Unknown fields are ignored.
Whole = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]


def target_name(method: str, target: str, seed: int) -> str:
    """Name of a target's row, of its job, and of its file in rows/ and history/."""
    return f"{method}-{target}-seed{seed}"


def source_name(source: str, seed: int) -> str:
    """Name of a source's row, of its job, and of its file in rows/ and prompts/."""
    return f"sources/{source}-seed{seed}"


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """A prompt's score on its task, with its baselines: the common fields of target rows and source rows.

    Attributes:
        seed: seed of the rows and batches.
        scoring: how answers were chosen: first-token, full or generate.
        score: score on the scale of the metric, see `prompttransfer.tasks.scales`.
        other_scores: scores by the other metrics.
        majority: score of the most frequent answer.
        zero_shot: score of the model without a prompt.
        collapsed: whether nearly all rows got the same answer.
        test_rows: number of scored rows.
        leaked_rows: number of rows left out because they overlap with scored rows.
        skipped_rows: number of rows left out because they do not fit the task.
    """

    _first: ClassVar[tuple[str, ...]]  # fields that come before these

    seed: Whole
    metric: str
    scoring: str
    score: Number
    # Old cells of the studies have "" where there are none.
    other_scores: Annotated[dict[str, Number], BeforeValidator(lambda scores: {} if scores == "" else scores)]
    majority: Number
    zero_shot: Number
    collapsed: Flag
    test_rows: Count
    train_rows: Count
    leaked_rows: Count
    skipped_rows: Count

    @property
    def baselines(self) -> dict[str, float]:
        """What the score has to be compared with, as on a card."""
        return {"majority": self.majority, "zero_shot": self.zero_shot}

    def facts(self) -> dict[str, Any]:
        """The fields as JSON data, in order; without `prompt` if there is no file of it."""
        facts = dict.fromkeys(self._first) | vars(self)
        return {name: value for name, value in facts.items() if (name, value) != ("prompt", None)}


@dataclass(frozen=True, kw_only=True)
class TargetRow(ScoredRow):
    """A method on a target, for one seed.

    Attributes:
        target_updates, target_examples: updates and rows spent on the target.
        source_updates: updates on the rows of all sources.
        seconds: time of the target stage.
        notes: notes of the method on its run.
        prompt: path of the prompt file in the run folder; None: not kept.
    """

    _first = ("method", "target")

    method: str
    target: str
    trainable_parameters: Count
    target_updates: Count
    target_examples: Count
    source_updates: Count
    seconds: Number
    notes: str
    prompt: str | None = None

    @property
    def name(self) -> str:
        """See `target_name`."""
        return target_name(self.method, self.target, self.seed)

    @classmethod
    def of(
        cls,
        method: str,
        target: EncodedTask,
        seed: int,
        result: MethodResult,
        evaluation: Evaluation,
        zero_shot: Evaluation,
    ) -> TargetRow:
        """Build a row from a method's result and its score. method: name of the method, or of a variant of it."""
        return cls(
            method=method,
            target=target.name,
            seed=seed,
            **_scored(target, evaluation, zero_shot),
            trainable_parameters=result.trainable_parameters,
            target_updates=result.target_updates,
            target_examples=result.target_examples,
            source_updates=result.source_updates,
            seconds=round(result.seconds, 3),
            notes="; ".join(filter(None, (result.notes, target.unknown_note))),
        )


@dataclass(frozen=True, kw_only=True)
class SourceRow(ScoredRow):
    """A source's prompt on the source itself. updates, seconds: of its training; prompt: as in `TargetRow`."""

    _first = ("source",)

    source: str
    updates: Count
    seconds: Number
    prompt: str | None = None

    @property
    def name(self) -> str:
        """See `source_name`."""
        return source_name(self.source, self.seed)

    @classmethod
    def of(
        cls,
        source: EncodedTask,
        seed: int,
        stage: StageResult,
        evaluation: Evaluation,
        zero_shot: Evaluation,
    ) -> SourceRow:
        """Build a row from the stage that trained the prompt, and its score."""
        return cls(
            source=source.name,
            seed=seed,
            **_scored(source, evaluation, zero_shot),
            updates=stage.facts["updates"],
            seconds=round(stage.facts["seconds"], 3),
        )


def _scored(task: EncodedTask, evaluation: Evaluation, zero_shot: Evaluation) -> dict[str, Any]:
    """The fields of `ScoredRow` except for the seed."""
    return {
        "metric": task.metric,
        "scoring": task.scoring,
        "score": evaluation.score,
        "other_scores": evaluation.more,
        "majority": evaluation.majority,
        "zero_shot": zero_shot.score,
        "collapsed": evaluation.collapsed,
        "test_rows": evaluation.rows,
        "train_rows": len(task.train),
        "leaked_rows": task.leaked,
        "skipped_rows": task.skipped,
    }


@dataclass(frozen=True)
class ResultsFile:
    """The parts of results.json that other code reads."""

    rows: list[TargetRow]
    sources: list[SourceRow] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)


_RESULTS, _TARGET, _SOURCE = TypeAdapter(ResultsFile), TypeAdapter(TargetRow), TypeAdapter(SourceRow)


def read_rows(content: Any, path: Path) -> ResultsFile:
    """Read rows from the content of results.json.

    Raises:
        ValueError: fields are missing or invalid, or the format is too new. Names the file and each field.
    """
    what = f"{path}: not a result of `prompttransfer compare`"
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise ValueError(f"{what}: it has no list of rows")
    if isinstance(number := content.get("format"), int) and number > FORMAT:
        raise ValueError(
            f"{path}: has format {number} of a later version, and this one reads up to {FORMAT}; update promptkernels"
        )
    return checked(_RESULTS.validate_python, content, what)


def read_row(facts: Mapping[str, Any], what: Path | str) -> TargetRow | SourceRow:
    """Read one row: a source row if it has a source. Errors are those of `read_rows` and start with `what`."""
    if "source" in facts:
        return checked(_SOURCE.validate_python, facts, what)
    return checked(_TARGET.validate_python, facts, what)


def row_of_csv(cells: Mapping[str, str]) -> TargetRow:
    """Read a line of results.csv, without the other scores, which have their own columns."""
    return _TARGET.validate_strings({"other_scores": {}} | dict(cells), strict=False)


def csv_rows(rows: Sequence[TargetRow]) -> list[dict[str, Any]]:
    """Rows with a column for each other metric, such as score:f1; empty if a row does not have it."""
    metrics = dict.fromkeys(metric for row in rows for metric in row.other_scores)
    flat = []
    for row in rows:
        others = {f"score:{metric}": row.other_scores.get(metric, "") for metric in metrics}
        cells: dict[str, Any] = {}
        for name, value in row.facts().items():
            cells |= others if name == "other_scores" else {name: value}
        flat.append(cells)
    return flat
