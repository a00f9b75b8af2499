"""Use trained prompts with an engine that reads embeddings, such as vLLM: texts to requests, replies to answers.

A request has the input of the model's first layer: the prompt, then the text, placed as in `Predictor`. The model
itself is not loaded, only its tokenizer and its input embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.interchange import Card
from prompttransfer.interchange.hub import Place
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

SCORED_AT_ONCE = 128  # largest number of tokens whose log-probabilities vLLM returns per request
_PROBE = tuple(range(3, 11))  # any text
_SAME = 0.5  # log-probabilities from tokens and from their embeddings differ by rounding, if the model is the same

Step = tuple[tuple[int, ...], tuple[int, ...]]  # tokens of an answer written so far, and possible next tokens


@dataclass(frozen=True)
class Request:
    """A request to an engine.

    Attributes:
        prompt: embeddings (N, H), or token ids.
        scored: tokens to score as the next token, at most SCORED_AT_ONCE.
        max_tokens: largest number of tokens to generate greedily.
    """

    prompt: Tensor | tuple[int, ...]
    scored: tuple[int, ...] = ()
    max_tokens: int = 1


@dataclass(frozen=True)
class Reply:
    """A reply of an engine.

    Attributes:
        written: generated token ids.
        log_probabilities: log-probabilities of the scored tokens as the first generated one.
    """

    written: Sequence[int]
    log_probabilities: Mapping[int, float]


class Engine(Protocol):
    """Interface of an engine that runs the model. checked: names of the models with which it was compared."""

    checked: set[str]

    def __call__(self, requests: Iterable[Request]) -> list[Reply]: ...


@dataclass(frozen=True)
class ServedPrompt:
    """A prompt and its card, with the tokenizer and embeddings of its model, for requests to an engine."""

    prompt: PromptModule
    card: Card
    embeddings: Embeddings
    progress: ProgressReporter = field(default_factory=ProgressReporter)

    @classmethod
    def open(cls, path: Place, *, progress: ProgressReporter | None = None, **overrides: Any) -> ServedPrompt:
        """Read a prompt file, or the hub ID of one, and the tokenizer and input embeddings of its model.

        Args:
            overrides: as in `Predictor.open`.

        Raises:
            ValueError: as in `Predictor.open`, or the model is an encoder-decoder, for which vLLM takes no prompts.
            ConnectionError: prompt or model are not on this machine, and the hub does not answer.
        """
        prompt, card = read_answering_prompt(path, **overrides)
        named = overrides.get("model") is not None
        return cls.of(path, prompt, card, named=named, progress=progress or ProgressReporter())

    @classmethod
    def of(
        cls, path: Place, prompt: Tensor | PromptModule, card: Card, *, named: bool, progress: ProgressReporter
    ) -> ServedPrompt:
        """The same for a prompt from `read_answering_prompt`. Arguments are as in `Predictor.of`."""
        with naming_the_way_out(path, named=named):
            embeddings = Embeddings.load(model_source(card.model, progress), max_length=max_length(card))
        check_model(path, prompt, card, embeddings, progress)
        note_reading(card, progress)
        module = FrozenPrompts(prompt[None]) if isinstance(prompt, Tensor) else prompt
        return cls(module, card, embeddings, progress)

    @property
    def positions(self) -> int:
        """Largest number of positions of prompt, text and answer."""
        longest = self.card.max_answer or EncodedTask.max_answer
        if self.card.choices:
            answers = self.embeddings.tokens.answers(self.card.choices, None, True, self.card.join)
            longest = max(map(len, answers))
        frame = len(self.embeddings.tokens.start)
        return self.prompt.length + self.embeddings.max_length + frame + longest + 1

    def encoded(self, rows: Sequence[Fields | str]) -> EncodedTask:
        """Encode rows.

        Raises:
            ValueError: a row lacks a field, or has a lone surrogate.
        """
        task = encoded(self.card, rows, self.embeddings)
        warn_unknown(task, self.progress)
        return task

    def requests(self, task: EncodedTask) -> Iterator[Request]:
        """Requests for each encoded row in turn: to generate text, or to score the tokens where the choices differ."""
        steps = _steps(task.answers)
        for ids in task.test:
            text = self._placed(ids)
            if task.scoring == "generate":
                yield Request(text, max_tokens=longest_answer(task) + 1)  # one more for the end token
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
        """Embeddings of prompt and text, (L+S, H), float32."""
        return self.prompt.prepend(self.embeddings.embed(ids)[None])[0]


def answer(engine: Engine, asked: Sequence[tuple[ServedPrompt, Sequence[Fields | str]]]) -> list[list[Prediction]]:
    """Answer the rows of several prompts in one batch.

    Args:
        asked: prompts of one model, each with its rows as in a call of `Predictor`.

    Raises:
        ValueError: a row lacks a field, or the engine serves another model.
    """
    for served, _ in asked:
        check_engine(engine, served.embeddings)
    tasks = [(served, served.encoded(rows)) for served, rows in asked]
    replies = iter(engine(request for served, task in tasks for request in served.requests(task)))
    return [served.predictions(task, replies) for served, task in tasks]


def check_engine(engine: Engine, embeddings: Embeddings) -> None:
    """Check, once per model, that an engine gives the same results for a model's embeddings as for their tokens."""
    if embeddings.name in engine.checked:
        return
    tokens, embedded = engine([Request(prompt, _PROBE) for prompt in (_PROBE, embeddings.embed(_PROBE))])
    far = max(abs(tokens.log_probabilities[token] - embedded.log_probabilities[token]) for token in _PROBE)
    if far > _SAME:
        raise ValueError(
            f"the engine gives different results for the embeddings of {embeddings.name} than for the tokens they "
            f"belong to (log-probabilities differ by {far:.1f}); want an engine with that model"
        )
    engine.checked.add(embeddings.name)


def _steps(answers: Sequence[tuple[int, ...]]) -> list[Step]:
    """All steps needed to get the probability of every token of the answers."""
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
