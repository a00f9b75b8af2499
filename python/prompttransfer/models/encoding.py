"""A task in a model's tokens: what is trained on, and what is asked when a prompt is scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

from prompttransfer.files.store import StageResult, Store
from prompttransfer.models.rows import EncodedRow, EncodedRows
from prompttransfer.models.tokens import Tokens
from prompttransfer.settings.joins import Join, natural_join
from prompttransfer.tasks.task import Task, Wording

_ROWS_AT_ONCE = 2000  # texts that are tokenized together
_WORTH_KEEPING = 20_000  # rows whose tokens are read from a file sooner than made again
SCORINGS = ("auto", "first-token", "full", "generate")


class ReadsText(Protocol):
    """What encoding asks of a model: `Backbone`, or `models.embeddings.Embeddings` where the model runs elsewhere."""

    @property
    def tokens(self) -> Tokens: ...

    @property
    def max_length(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class EncodedTask:
    """A task in this model's tokens.

    Attributes:
        train: training rows.
        test: token ids of the rows that are scored.
        scoring: "first-token" (the first one that tells the answers apart, which is then all that is trained on),
            "full" (mean log-probability of all tokens) or "generate" (what the model writes).
        labels, answers: index of the right choice of every test row, and the token ids of each choice; of a task with
            choices.
        scale: the choices are numbers, see `Task`.
        choices, references: the choices as text, and all right answers of every test row, for what the model writes.
        wording, max_length, cut, cue: how its texts are made and shortened, see `Task`.
        join: how an answer joins its text (`settings.joins`); None: of an encoder-decoder, or as prompt files of before
            read it, see `Task`.
        leaked, skipped: rows left out, see `Task`.
        unknown: training and test rows whose text is mostly characters that the model's vocabulary lacks.
        validation: the same task with its validation rows in place of the test rows, where training looks at them.
    """

    name: str
    metrics: tuple[str, ...]
    train: EncodedRows
    test: tuple[tuple[int, ...], ...]
    scoring: str = "first-token"
    labels: tuple[int, ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()
    choices: tuple[str, ...] = ()
    scale: bool = False
    references: tuple[tuple[str, ...], ...] = ()
    max_answer: int = 128
    wording: Wording | None = None
    max_length: int | None = None
    cut: str = "start"
    cue: str = ""
    join: Join | None = None
    leaked: int = 0
    skipped: int = 0
    unknown: int = 0
    validation: EncodedTask | None = None

    @property
    def metric(self) -> str:
        """The score that is reported."""
        return self.metrics[0]

    @property
    def unknown_note(self) -> str:
        """Such as "12 of 40 texts of reviews are mostly characters that this model's vocabulary lacks", or empty."""
        if not self.unknown:
            return ""
        texts = f"{self.unknown} of {len(self.train) + len(self.test)} texts of {self.name}"
        return f"{texts} are mostly characters that this model's vocabulary lacks"

    @cached_property
    def digest(self) -> str:
        """Hash of all that training and scoring depend on."""
        state = hashlib.sha256(self.train.digest.encode())
        judged = (self.test, self.labels, self.answers, self.choices, self.references)
        state.update(repr((*judged, self.metrics, self.scoring, self.max_answer)).encode())
        if self.validation is not None:
            state.update(self.validation.digest.encode())
        return state.hexdigest()[:32]

    @classmethod
    def of(
        cls,
        task: Task,
        backbone: ReadsText,
        scoring: str = "auto",
        *,
        trains: bool = True,
        store: Store | None = None,
    ) -> EncodedTask:
        """Encode all training and test rows of a task.

        Args:
            scoring: how answers are chosen; "auto": first-token where that tells the choices apart, else full. Free
                text is always written.
            trains: the task is trained on, not only scored.
            store: keeps the tokens of many training rows.

        Raises:
            ValueError: rows are missing, or the answers cannot be told apart as asked; or a cue for an encoder-decoder.
        """
        tokens = backbone.tokens
        if task.cue and tokens.seq2seq:
            raise ValueError(f"cue: got {task.cue!r} for an encoder-decoder, whose answers do not follow the text")
        if not len(task.test) or (trains and not len(task.train)):
            raise ValueError(
                f"task {task.name!r} has {len(task.train)} training and {len(task.test)} test rows; both need some"
            )
        join = None if tokens.seq2seq else _join_of(task)
        common: dict[str, Any] = {
            "name": task.name,
            "metrics": task.metrics,
            "choices": task.choices,
            "scale": task.scale,
            "max_answer": task.max_answer,
            "wording": _as_read(task, join),
            "max_length": task.max_length or backbone.max_length,
            "cut": task.cut,
            "cue": task.cue,
            "join": join,
            "leaked": task.leaked,
            "skipped": task.skipped,
        }
        if task.free_text:
            references = tuple(map(tuple, task.test["references"]))
            texts = _Texts(task, backbone, join)
            return cls(**common, **texts.encoded((), store), references=references, scoring="generate")
        whole = [tuple(ids) for ids in tokens.answers(task.choices, None, True, join)]
        for choice, ids in zip(task.choices, whole, strict=True):
            if tokens.unknown in ids:
                raise ValueError(
                    f"task {task.name!r}: answer {choice!r} has characters that this model's vocabulary lacks"
                )
        lead = () if tokens.seq2seq or scoring not in ("auto", "first-token") else shared_lead(whole)
        scoring = scoring_of(task, [ids[len(lead) :] for ids in whole], scoring)
        if scoring == "first-token":
            answers = tuple(ids[len(lead) :][:1] for ids in whole)
        else:
            lead, answers = (), tuple(whole)
        rows = _Texts(task, backbone, join, lead).encoded(answers, store)
        return cls(**common, **rows, labels=tuple(task.test["label"]), answers=answers, scoring=scoring)


def shared_lead(answers: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Tokens that all answers start with, but for the last of any: such as the space that a tokenizer writes before a
    digit. They tell nothing, so a causal model reads them as the end of the text."""
    lead = []
    for tokens in zip(*(answer[:-1] for answer in answers), strict=False):
        if len(set(tokens)) > 1:
            break
        lead.append(tokens[0])
    return tuple(lead)


def _join_of(task: Task) -> Join | None:
    if task.join != "auto":
        return task.join
    return natural_join(task.cue or (task.wording.template if task.wording else ""))


def _as_read(task: Task, join: Join | None) -> Wording | None:
    """The wording without the spaces at its end that give way to that of the answer."""
    if task.wording is None or task.cue or join != "space":
        return task.wording
    return replace(task.wording, template=task.wording.template.rstrip(" "))


@dataclass(frozen=True)
class _Texts:
    """The rows of a task as tokens; lead: tokens behind every text and its cue."""

    task: Task
    backbone: ReadsText
    join: Join | None
    lead: tuple[int, ...] = ()

    def encoded(self, answers: Sequence[tuple[int, ...]], store: Store | None) -> dict[str, Any]:
        """Training and test rows; answers: of each choice, none for free text."""
        test = tuple(self._ids(self.task.test["text"]))
        train = self._train(answers, store)
        return {"train": train, "test": test, "unknown": self._unknown(train, test)}

    def _unknown(self, train: EncodedRows, test: Sequence[tuple[int, ...]]) -> int:
        """Of how many texts the vocabulary lacks most; only those with an unknown token are looked at."""
        token = self.backbone.tokens.unknown
        if token is None:
            return 0
        suspects = {"train": train.holding(token), "test": [n for n, ids in enumerate(test) if token in ids]}
        return sum(
            self.backbone.tokens.mostly_unknown(getattr(self.task, split)[places[first : first + _ROWS_AT_ONCE]]["raw"])
            for split, places in suspects.items()
            for first in range(0, len(places), _ROWS_AT_ONCE)
        )

    def _ids(self, texts: Sequence[str]) -> Iterator[tuple[int, ...]]:
        cue = self.task.cue
        if self.join == "space":
            cue = cue.rstrip(" ")
            texts = texts if cue else [text.rstrip(" ") for text in texts]
        elif self.join is None:
            cue = cue.rstrip()
        lead = (*(self.backbone.tokens.start if self.join == "separate" else ()), *self.lead)
        max_length = self.task.max_length or self.backbone.max_length
        for ids in self.backbone.tokens.texts(texts, max_length, self.task.cut, cue):
            yield (*ids, *lead)

    def _parts(self) -> Iterator[dict[str, list[Any]]]:
        for first in range(0, len(self.task.train), _ROWS_AT_ONCE):
            yield self.task.train[first : first + _ROWS_AT_ONCE]

    def _rows(self, answers: Sequence[tuple[int, ...]]) -> Iterator[EncodedRow]:
        answered = partial(self.backbone.tokens.answers, max_length=self.task.max_answer, end=True, join=self.join)
        for part in self._parts():
            if answers:
                right = [answers[label] for label in part["label"]]
            else:
                right = [tuple(ids) for ids in answered(part["answer"])]
            for ids, answer in zip(self._ids(part["text"]), right, strict=True):
                yield EncodedRow(ids, answer)

    def _train(self, answers: Sequence[tuple[int, ...]], store: Store | None) -> EncodedRows:
        task = self.task
        if store is None or len(task.train) < _WORTH_KEEPING:
            return EncodedRows.of(self._rows(answers))
        content = hashlib.sha256()
        for part in self._parts():
            content.update(json.dumps([part[name] for name in ("text", "label", "answer")]).encode())
        key = {
            "stage": "encode",
            "version": 3,
            "model": self.backbone.fingerprint,
            "rows": content.hexdigest(),
            "answers": answers,
            "lead": self.lead,
            "cue": task.cue,
            "join": self.join,
            "lengths": [task.max_length or self.backbone.max_length, task.max_answer],
            "cut": task.cut,
        }
        encoded = store.cached(
            key, lambda _: StageResult(EncodedRows.of(self._rows(answers)).tensors()), f"tokens of {task.name}"
        )
        return EncodedRows.from_tensors(encoded.tensors)


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
