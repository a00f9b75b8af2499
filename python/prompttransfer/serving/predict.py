"""Answer texts with a trained prompt."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.texts import check_text
from prompttransfer.interchange import Card, read_trained
from prompttransfer.interchange.hub import Place
from prompttransfer.models import Backbone
from prompttransfer.models.answering import Reader
from prompttransfer.models.embeddings import Embeddings
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.scoring import choice_scores, written_answers
from prompttransfer.prompts import PromptModule
from prompttransfer.runs.workbench import load_backbone, warn_unknown
from prompttransfer.serving.evaluate import check_model, naming_the_way_out
from prompttransfer.settings.joins import literal_join
from prompttransfer.settings.run import RunConfig
from prompttransfer.tasks.scales import scale_of
from prompttransfer.tasks.task import Task, to_dataset
from prompttransfer.tasks.templates import fields_of, render

Fields = Mapping[str, str]


@dataclass(frozen=True)
class Prediction:
    """An answer. scores: probability of each choice, with sum 1 (softmax of the scores of the choices); empty for
    generated text, which is then the label."""

    label: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Predictor:
    """A prompt with its model, and the card that says how to read and answer texts."""

    backbone: Backbone
    prompt: Tensor | PromptModule
    card: Card
    batch_size: int = 32
    progress: ProgressReporter = field(default_factory=ProgressReporter)

    @classmethod
    def open(
        cls, path: Place, *, progress: ProgressReporter | None = None, batch_size: int = 32, **overrides: Any
    ) -> Predictor:
        """Read a prompt file, or the hub ID of one, and load its model.

        Args:
            overrides: values that override the card: model, template, choices, scoring, join, max_length, precision.

        Raises:
            ValueError: the file is not a prompt file, its card lacks information, or it does not fit the model.
            ConnectionError: prompt or model are not on this machine, and the hub does not answer.
        """
        prompt, card = read_answering_prompt(path, **overrides)
        named = overrides.get("model") is not None
        return cls.of(path, prompt, card, named=named, progress=progress or ProgressReporter(), batch_size=batch_size)

    @classmethod
    def of(
        cls,
        path: Place,
        prompt: Tensor | PromptModule,
        card: Card,
        *,
        named: bool,
        progress: ProgressReporter,
        batch_size: int = 32,
    ) -> Predictor:
        """Load the model of a prompt from `read_answering_prompt`.

        Args:
            named: whether the user named the model; if false, the name is from the file.

        Raises:
            ValueError: the prompt does not fit the model.
        """
        options = {"precision": card.precision or "auto", "max_length": max_length(card), "placement": card.placement}
        with naming_the_way_out(path, named=named):
            backbone = load_backbone(card.model, progress, **options)
        check_model(path, prompt, card, backbone, progress)
        if not backbone.seq2seq:
            note_reading(card, progress)
        return cls(backbone, prompt, card, batch_size, progress)

    def _repr_html_(self) -> str:
        """In a notebook: what prompt this is."""
        card, prompt = self.card, self.prompt
        length, width = prompt.shape if isinstance(prompt, Tensor) else (prompt.length, prompt.hidden_size)
        facts = {
            "model": card.model,
            "prompt": f"{length} tokens of {width} numbers",
            "method": card.method,
            "task": card.task,
            "score": "" if card.score is None else f"{card.metric} {scale_of(card.metric).text(card.score)}",
        }
        cells = (f"<th>{name}</th><td>{html.escape(fact)}</td>" for name, fact in facts.items() if fact)
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"

    def __call__(self, rows: Sequence[Fields | str]) -> list[Prediction]:
        """Answer rows. A row has the values of the template's fields, or is just the text if there is one field.

        Raises:
            ValueError: a row lacks a field, or has a lone surrogate.
        """
        task = encoded(self.card, rows, self.backbone)
        warn_unknown(task, self.progress)
        reader = Reader(self.backbone, self.prompt, self.batch_size)
        if task.scoring == "generate":
            return [Prediction(text, {}) for text in written_answers(reader, task)]
        return chosen(self.card, choice_scores(reader, task))


def max_length(card: Card) -> int:
    """Number of text tokens to keep per row."""
    return card.max_length or RunConfig.model_fields["max_length"].default


def note_reading(card: Card, progress: ProgressReporter) -> None:
    """Report how a causal model reads texts, if the card has this information."""
    if card.join:
        progress.note(f"template: {card.template!r}, join: {card.join}")


def encoded(card: Card, rows: Sequence[Fields | str], model: Backbone | Embeddings) -> EncodedTask:
    """Encode rows as the test rows of a task."""
    nothing = to_dataset([])
    task = Task(
        name=card.task or "task",
        train=nothing,
        validation=nothing,
        test=to_dataset([render(card.template, _fields(card, row), max_words=card.max_words) for row in rows]),
        choices=card.choices,
        metric="accuracy" if card.choices else "exact-match",
        cut=card.cut,
        cue=card.cue,
        join=card.join,
        max_answer=card.max_answer or Task.max_answer,
    )
    return EncodedTask.of(task, model, card.scoring or "auto", trains=False)


def _fields(card: Card, row: Fields | str) -> Fields:
    fields = fields_of(card.template)
    if isinstance(row, str):
        row = {fields[0]: row} if len(fields) == 1 else {}
    missing = [name for name in fields if name not in row]
    if missing:
        raise ValueError(f"got a row without {' and '.join(missing)}, want it for the text {card.template!r}")
    for name in fields:
        check_text(row[name], name)
    return row


def chosen(card: Card, scores: Tensor) -> list[Prediction]:
    """The best choice of each row, and the probabilities of all. scores: (rows, C) logits or mean log-probabilities."""
    shares = scores.softmax(dim=1).tolist()
    return [
        Prediction(card.choices[max(range(len(row)), key=row.__getitem__)], dict(zip(card.choices, row, strict=True)))
        for row in shares
    ]


def read_answering_prompt(path: Place, **overrides: Any) -> tuple[Tensor | PromptModule, Card]:
    """Read a prompt (L, H), or one that depends on the row, and the card that says how to read and answer texts, with
    the overrides of `Predictor.open`."""
    prompt, metadata = read_trained(path)
    card = Card.of(metadata, path)
    overrides = {name: value for name, value in overrides.items() if value is not None}
    # Drop facts that no longer hold with other answers or other fields.
    stale = {"choices": "scoring", "template": "columns"}
    known = card.model_dump(exclude={stale[name] for name in overrides.keys() & stale.keys()})
    if "template" in overrides and not card.template:  # from an adapter without a card: as in PEFT
        known["join"] = known["join"] or literal_join(overrides["template"])
    card = Card.checked(known | overrides, path)
    check_card(card, path)
    return prompt, card


def check_card(card: Card, path: Place) -> None:
    """Check that a card has enough information to read and answer texts.

    Raises:
        ValueError: names what is missing, and the option that sets it.
    """
    if not card.model:
        raise ValueError(f"{path} does not say which model it belongs to; want --model NAME")
    if not card.template:
        raise ValueError(f"{path} does not say how its texts are worded; want --template, such as '{{text}}\\nLabel:'")
    fields_of(card.template)
    if not card.choices and card.scoring != "generate":
        raise ValueError(f"{path} does not say what the answers are; want --choices no,yes or --scoring generate")
    if len(card.choices) == 1:
        raise ValueError(f"{path}: got the only choice {card.choices[0]!r}, want at least two")
