"""A task in a model's tokens: what is trained on, and what is asked when a prompt is scored."""

from __future__ import annotations

from dataclasses import dataclass

from prompttransfer.models import Backbone
from prompttransfer.tasks.task import Task

SCORINGS = ("auto", "first-token", "full", "generate")


@dataclass(frozen=True)
class Row:
    """One training example: token ids of the text, those of the answer, index of its task."""

    ids: tuple[int, ...]
    answer: tuple[int, ...]
    task: int = 0


@dataclass(frozen=True)
class EncodedTask:
    """A task in this model's tokens.

    Attributes:
        train: training rows.
        test: token ids of the rows that are scored.
        scoring: "first-token" (of the answer, which is then all that is trained on), "full" (mean log-probability of
            all its tokens) or "generate" (what the model writes).
        labels, answers: index of the right choice of every test row, and the token ids of each choice; of a task with
            choices.
        choices, references: the choices as text, and all right answers of every test row, for what the model writes.
        leaked, skipped: rows left out, see `Task`.
    """

    name: str
    metrics: tuple[str, ...]
    train: tuple[Row, ...]
    test: tuple[tuple[int, ...], ...]
    scoring: str = "first-token"
    labels: tuple[int, ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()
    choices: tuple[str, ...] = ()
    references: tuple[tuple[str, ...], ...] = ()
    max_answer: int = 128
    leaked: int = 0
    skipped: int = 0

    @property
    def metric(self) -> str:
        """The score that is reported."""
        return self.metrics[0]

    @classmethod
    def of(cls, task: Task, backbone: Backbone, scoring: str = "auto", *, trains: bool = True) -> EncodedTask:
        """Encode all training and test rows of a task.

        Args:
            scoring: how answers are chosen; "auto": first-token where that tells the choices apart, else full. Free
                text is always written.
            trains: the task is trained on, not only scored.

        Raises:
            ValueError: rows are missing, or the answers cannot be told apart as asked.
        """
        if not len(task.test) or (trains and not len(task.train)):
            raise ValueError(
                f"task {task.name!r} has {len(task.train)} training and {len(task.test)} test rows; both need some"
            )
        texts = [tuple(ids) for ids in backbone.encode(task.train["text"], task.max_length, task.cut)]
        test = tuple(tuple(ids) for ids in backbone.encode(task.test["text"], task.max_length, task.cut))
        common = {
            "name": task.name,
            "metrics": task.metrics,
            "test": test,
            "choices": task.choices,
            "max_answer": task.max_answer,
            "leaked": task.leaked,
            "skipped": task.skipped,
        }
        if task.free_text:
            written = backbone.encode_answers(task.train["answer"], task.max_answer) if texts else []
            train = tuple(Row(ids, tuple(answer)) for ids, answer in zip(texts, written, strict=True))
            references = tuple(map(tuple, task.test["references"]))
            return cls(**common, train=train, references=references, scoring="generate")
        whole = [tuple(ids) for ids in backbone.encode_answers(task.choices)]
        scoring = scoring_of(task, whole, scoring)
        answers = tuple(ids[:1] if scoring == "first-token" else ids for ids in whole)
        train = tuple(Row(ids, answers[label]) for ids, label in zip(texts, task.train["label"], strict=True))
        return cls(**common, train=train, labels=tuple(task.test["label"]), answers=answers, scoring=scoring)


def scoring_of(task: Task, answers: list[tuple[int, ...]], scoring: str = "auto") -> str:
    """How the choices of a task are told apart.

    Raises:
        ValueError: unknown scoring, or answers that it cannot tell apart.
    """
    if scoring not in SCORINGS:
        raise ValueError(f"scoring: got {scoring!r}, want one of {', '.join(SCORINGS)}")
    same = _first_repeated([answer[:1] for answer in answers])
    if scoring == "first-token" and same:
        first, second = (task.choices[place] for place in same)
        raise ValueError(
            f"task {task.name!r}: answers {first!r} and {second!r} start with the same token; want scoring 'full'"
        )
    same_whole = _first_repeated(answers)
    if same_whole:
        first, second = (task.choices[place] for place in same_whole)
        raise ValueError(f"task {task.name!r}: answers {first!r} and {second!r} are the same tokens for this model")
    if scoring == "auto":
        return "full" if same else "first-token"
    return scoring


def _first_repeated(items: list[tuple[int, ...]]) -> tuple[int, int] | None:
    """Places of the first two equal items."""
    places: dict[tuple[int, ...], int] = {}
    for place, item in enumerate(items):
        if item in places:
            return places[item], place
        places[item] = place
    return None
