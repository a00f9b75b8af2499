"""Trained prompts as requests to an engine that reads embeddings, such as vLLM: texts to requests, replies to answers.

A request is what the first layer of the model reads: the prompt, then the text, placed as `Predictor` places them. The
model itself is not loaded, only its tokenizer and its table of input embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from prompttransfer.files.progress import NullProgress, ProgressReporter
from prompttransfer.interchange import Card
from prompttransfer.models.embeddings import Embeddings
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.scoring import longest_answer
from prompttransfer.prompts import FrozenPrompts, PromptModule
from prompttransfer.runs.workbench import model_source, warn_unknown
from prompttransfer.serving.evaluate import check_model, naming_the_way_out
from prompttransfer.serving.predict import (
    Fields,
    Prediction,
    chosen,
    encoded,
    max_length,
    note_reading,
    read_answering_prompt,
)

SCORED_AT_ONCE = 128  # tokens whose log-probabilities vLLM gives for one request
_PROBE = tuple(range(3, 11))  # any text
_SAME = 0.5  # log-probabilities from tokens and from their embeddings differ by rounding, if the model is the same

Step = tuple[tuple[int, ...], tuple[int, ...]]  # what of an answer is written, and tokens that may come next


@dataclass(frozen=True)
class Request:
    """What an engine reads, and what it is asked.

    Attributes:
        prompt: embeddings (N, H), or token ids.
        scored: tokens whose log-probability as the next one is asked for, at most SCORED_AT_ONCE.
        max_tokens: to be written, each the likeliest one.
    """

    prompt: Tensor | tuple[int, ...]
    scored: tuple[int, ...] = ()
    max_tokens: int = 1


@dataclass(frozen=True)
class Reply:
    """written: token ids; log_probabilities: of the tokens that were asked for, as the first one written."""

    written: Sequence[int]
    log_probabilities: Mapping[int, float]


class Engine(Protocol):
    """Runs the model; checked: names of the models that it has been compared with."""

    checked: set[str]

    def __call__(self, requests: Iterable[Request]) -> list[Reply]: ...


@dataclass(frozen=True)
class ServedPrompt:
    """A prompt and its card, with what is needed of its model to ask an engine."""

    prompt: PromptModule
    card: Card
    embeddings: Embeddings
    progress: ProgressReporter = field(default_factory=NullProgress)

    @classmethod
    def open(cls, path: Path, *, progress: ProgressReporter | None = None, **given: Any) -> ServedPrompt:
        """Read a prompt file, the tokenizer of its model, and its input embeddings.

        Args:
            given: as in `Predictor.open`.

        Raises:
            ValueError: as `Predictor.open`, or the model is an encoder-decoder, which vLLM does not give prompts to.
            ConnectionError: the model is not on this machine, and the hub does not answer.
        """
        prompt, card = read_answering_prompt(path, **given)
        return cls.of(path, prompt, card, named=given.get("model") is not None, progress=progress or NullProgress())

    @classmethod
    def of(
        cls, path: Path, prompt: Tensor | PromptModule, card: Card, *, named: bool, progress: ProgressReporter
    ) -> ServedPrompt:
        """The same of a prompt that `read_answering_prompt` has read; arguments of `Predictor.of`."""
        with naming_the_way_out(path, named=named):
            embeddings = Embeddings.load(model_source(card.model, progress), max_length=max_length(card))
        check_model(path, prompt, card, embeddings, progress)
        note_reading(card, progress)
        module = FrozenPrompts(prompt[None]) if isinstance(prompt, Tensor) else prompt
        return cls(module, card, embeddings, progress)

    @property
    def positions(self) -> int:
        """Of prompt, text and answer at most."""
        longest = self.card.max_answer or EncodedTask.max_answer
        if self.card.choices:
            answers = self.embeddings.tokens.answers(self.card.choices, None, True, self.card.join)
            longest = max(map(len, answers))
        frame = len(self.embeddings.tokens.start)
        return self.prompt.length + self.embeddings.max_length + frame + longest + 1

    def encoded(self, rows: Sequence[Fields | str]) -> EncodedTask:
        """Rows in tokens.

        Raises:
            ValueError: a row lacks a field, or holds a lone surrogate.
        """
        task = encoded(self.card, rows, self.embeddings)
        warn_unknown(task, self.progress)
        return task

    def requests(self, task: EncodedTask) -> Iterator[Request]:
        """Those of each encoded row in turn: for what it writes, or for every token of the choices where they part."""
        steps = _steps(task.answers)
        for ids in task.test:
            text = self._placed(ids)
            if task.scoring == "generate":
                yield Request(text, max_tokens=longest_answer(task) + 1)  # the end token is one of them
                continue
            for written, scored in steps:
                yield Request(torch.cat([text, self.embeddings.embed(written)]), scored)

    def predictions(self, task: EncodedTask, replies: Iterator[Reply]) -> list[Prediction]:
        """Answers to encoded rows, from the replies to their requests."""
        if task.scoring == "generate":
            decode = self.embeddings.tokens.tokenizer.decode
            return [
                Prediction(decode(list(reply.written), skip_special_tokens=True).strip(), {})
                for reply in islice(replies, len(task.test))
            ]
        steps = _steps(task.answers)
        rows = [_scores(task.answers, steps, list(islice(replies, len(steps)))) for _ in task.test]
        return chosen(self.card, torch.tensor(rows))

    @torch.no_grad()
    def _placed(self, ids: tuple[int, ...]) -> Tensor:
        """Prompt and text, (L+S, H) float32."""
        return self.prompt.prepend(self.embeddings.embed(ids)[None])[0]


def answer(engine: Engine, asked: Sequence[tuple[ServedPrompt, Sequence[Fields | str]]]) -> list[list[Prediction]]:
    """Answer the rows of several prompts in one batch.

    Args:
        asked: prompts of one model, each with its rows as in a call of `Predictor`.

    Raises:
        ValueError: a row lacks a field; or the engine serves another model.
    """
    for served, _ in asked:
        check_engine(engine, served.embeddings)
    tasks = [(served, served.encoded(rows)) for served, rows in asked]
    replies = iter(engine(request for served, task in tasks for request in served.requests(task)))
    return [served.predictions(task, replies) for served, task in tasks]


def check_engine(engine: Engine, embeddings: Embeddings) -> None:
    """Whether an engine computes from a model's embeddings what it computes from the tokens they belong to; once.

    Raises:
        ValueError: it serves another model, or one whose embeddings it reads in another way.
    """
    if embeddings.name in engine.checked:
        return
    tokens, embedded = engine([Request(prompt, _PROBE) for prompt in (_PROBE, embeddings.embed(_PROBE))])
    far = max(abs(tokens.log_probabilities[token] - embedded.log_probabilities[token]) for token in _PROBE)
    if far > _SAME:
        raise ValueError(
            f"the engine computes something else from the embeddings of {embeddings.name} than from the tokens they "
            f"belong to (log-probabilities differ by {far:.1f}); want an engine with that model"
        )
    engine.checked.add(embeddings.name)


def _steps(answers: Sequence[tuple[int, ...]]) -> list[Step]:
    """All that has to be asked to know the probability of every token of the answers."""
    following: dict[tuple[int, ...], dict[int, None]] = {}
    for tokens in answers:
        for place, token in enumerate(tokens):
            following.setdefault(tokens[:place], {})[token] = None
    return [
        (written, tuple(tokens)[first : first + SCORED_AT_ONCE])
        for written, tokens in following.items()
        for first in range(0, len(tokens), SCORED_AT_ONCE)
    ]


def _scores(answers: Sequence[tuple[int, ...]], steps: Sequence[Step], replies: Sequence[Reply]) -> list[float]:
    """Mean log-probability of the tokens of each answer to one row."""
    known = {
        (written, token): reply.log_probabilities[token]
        for (written, scored), reply in zip(steps, replies, strict=True)
        for token in scored
    }
    return [sum(known[tokens[:place], token] for place, token in enumerate(tokens)) / len(tokens) for tokens in answers]
