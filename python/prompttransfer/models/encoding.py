"""Encode a task in a model's tokens: its training rows, and the rows on which prompts are scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from prompttransfer.files.store import StageResult, Store
from prompttransfer.models.rows import EncodedRow, EncodedRows
from prompttransfer.settings.joins import Join, natural_join
from prompttransfer.tasks.task import Task, Wording

if TYPE_CHECKING:
    from prompttransfer.models.backbone import Backbone
    from prompttransfer.models.embeddings import Embeddings

_ROWS_AT_ONCE = 2000  # texts per call of the tokenizer
_WORTH_KEEPING = 20_000  # from this many rows on, reading tokens from a file is faster than tokenizing
SCORINGS = ("auto", "first-token", "full", "generate")


@dataclass(frozen=True)
class EncodedTask:
    """A task in this model's tokens.

    Attributes:
        train: training rows.
        test: token ids of the rows to score.
        scoring: "first-token" (the first token that distinguishes the answers, which is then the only trained token),
            "full" (mean log-probability of all tokens) or "generate" (generated text).
        labels, answers: for a task with choices, index of the right choice of every test row, and token ids of each
            choice.
        scale: whether the choices are numbers, see `Task`.
        choices, references: for generated text, the choices as text, and all right answers of every test row.
        wording, max_length, cut, cue: how to build and truncate the texts, see `Task`.
        join: how an answer joins its text (`settings.joins`). None: an encoder-decoder, or a prompt file without this
            entry, see `Task`.
        leaked, skipped: numbers of omitted rows, see `Task`.
        unknown: number of training and test rows whose text is mostly characters that the model's vocabulary lacks.
        validation: the same task with validation rows in place of test rows, if training uses them.
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
        """The metric to report."""
        return self.metrics[0]

    @property
    def unknown_note(self) -> str:
        """A note on texts that are mostly unknown characters, or ""."""
        if not self.unknown:
            return ""
        texts = f"{self.unknown} of {len(self.train) + len(self.test)} texts of {self.name}"
        return f"{texts} are mostly characters that this model's vocabulary lacks"

    @cached_property
    def digest(self) -> str:
        """Hash of everything that training and scoring depend on."""
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
        backbone: Backbone | Embeddings,
        scoring: str = "auto",
        *,
        trains: bool = True,
        store: Store | None = None,
    ) -> EncodedTask:
        """Encode all training and test rows of a task.

        Args:
            scoring: how to choose answers. "auto": first-token if first tokens distinguish the choices, else full. Free
                text is always generated.
            trains: whether to train on the task, not only score it.
            backbone: the model, or its embeddings if it runs elsewhere.
            store: store for the tokens of large tasks.

        Raises:
            ValueError: rows are missing, `scoring` cannot distinguish the answers, or an encoder-decoder got a cue.
        """
        tokens = backbone.tokens
        if task.cue and tokens.seq2seq:
            raise ValueError(f"cue: got {task.cue!r} for an encoder-decoder, whose answers do not follow the text")
        if not len(task.test) or (trains and not len(task.train)):
            raise ValueError(
                f"task {task.name!r} has {len(task.train)} training and {len(task.test)} test rows; both need some"
            )
        join = None if tokens.seq2seq else _join_of(task)
        same = ("name", "metrics", "choices", "scale", "max_answer", "cut", "cue", "leaked", "skipped")
        common: dict[str, Any] = {name: getattr(task, name) for name in same}
        length = task.max_length or backbone.max_length
        common |= {"wording": _as_read(task, join), "max_length": length, "join": join}
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
    """Tokens that all answers start with, such as the space that a tokenizer puts before a digit. Every answer keeps at
    least its last token. The shared ones carry no information, so a causal model reads them as the end of the text."""
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
    """The wording without trailing spaces if the answer brings its own."""
    if task.wording is None or task.cue or join != "space":
        return task.wording
    return replace(task.wording, template=task.wording.template.rstrip(" "))


@dataclass(frozen=True)
class _Texts:
    """The rows of a task as tokens. lead: tokens to add after every text and its cue."""

    task: Task
    backbone: Backbone | Embeddings
    join: Join | None
    lead: tuple[int, ...] = ()

    def encoded(self, answers: Sequence[tuple[int, ...]], store: Store | None) -> dict[str, Any]:
        """Encode training and test rows. answers: tokens of each choice; empty for free text."""
        test = tuple(self._ids(self.task.test["text"]))
        train = self._train(answers, store)
        return {"train": train, "test": test, "unknown": self._unknown(train, test)}

    def _unknown(self, train: EncodedRows, test: Sequence[tuple[int, ...]]) -> int:
        """Number of texts that the vocabulary mostly lacks. Only texts with an unknown token are checked."""
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
    """Resolve the scoring of a task with choices."""
    if scoring not in SCORINGS:
        raise ValueError(f"scoring: got {scoring!r}, want one of {', '.join(SCORINGS)}")
    same = _first_repeated([answer[:1] for answer in answers])
    if scoring == "first-token" and same:
        first, second = (task.choices[place] for place in same)
        raise ValueError(
            f"task {task.name!r}: answers {first!r} and {second!r} start with the same token; use scoring 'full'"
        )
    same_whole = _first_repeated(answers)
    if same_whole:
        first, second = (task.choices[place] for place in same_whole)
        raise ValueError(f"task {task.name!r}: answers {first!r} and {second!r} are the same tokens for this model")
    if scoring == "auto":
        return "full" if same else "first-token"
    return scoring


def _first_repeated(items: list[tuple[int, ...]]) -> tuple[int, int] | None:
    """Indices of the first two equal items."""
    places: dict[tuple[int, ...], int] = {}
    for place, item in enumerate(items):
        if item in places:
            return places[item], place
        places[item] = place
    return None
