"""A task described in a few lines of YAML."""

from __future__ import annotations

import os
import re
from glob import glob, has_magic
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from prompttransfer.files.excerpt import listed, meant
from prompttransfer.files.paths import expanded
from prompttransfer.files.yaml_file import read_yaml
from prompttransfer.settings.base import Settings
from prompttransfer.settings.reading import Reading
from prompttransfer.settings.recipes import checked
from prompttransfer.tasks.cells import label_of
from prompttransfer.tasks.metrics import METRICS
from prompttransfer.tasks.names import task_name
from prompttransfer.tasks.templates import fields_of
from prompttransfer.tasks.text_metrics import TEXT_METRICS

SPLITS = ("train", "validation", "test")


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, (str, Path)) else value


def _as_texts(value: Any) -> Any:
    """Convert answers and labels to text, also where YAML reads a number or true."""

    def text(item: Any) -> Any:
        return str(item).lower() if isinstance(item, bool) else str(item) if isinstance(item, (int, float)) else item

    if isinstance(value, dict):
        answers: dict[str, Any] = {}
        for key, answer in value.items():
            if answers.setdefault(label := label_of(key), text(answer)) != text(answer):
                raise ValueError(f"label {label!r} is given twice, with the answers {answers[label]!r} and {answer!r}")
        return answers
    return [text(item) for item in value] if isinstance(value, (list, tuple)) else value


Files = Annotated[tuple[Path, ...], BeforeValidator(_listed)]


class RowLimits(Settings):
    """Largest number of rows of each split."""

    train: int | None = Field(None, ge=1)
    validation: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)


class Description(Reading):
    """The files of a task, and how a row becomes a text and its answer."""

    name: str = ""
    """name of the task; default: name of its file"""
    train: Files = ()
    """training rows: a file, a list of files, a pattern with *"""
    validation: Files = ()
    """validation rows; default: a tenth of the training rows"""
    test: Files = ()
    """test rows; default: a tenth of the training rows"""
    template: str = "{text}\nLabel:"
    """text for the model, with fields in braces"""
    fields: dict[str, str] = Field(default_factory=dict)
    """column of a field of the template, if its name differs"""
    label: str | None = None
    """column of the label; 'label' if there is no answer either"""
    answer: str | None = None
    """column of the free-text answer, or of a list of right answers"""
    choices: Annotated[tuple[str, ...] | dict[str, str] | None, BeforeValidator(_as_texts)] = None
    """the answers, or the answer of each label; default: the labels themselves"""
    metric: str | None = None
    """metric to report; default: accuracy, or exact-match for free text"""
    more_metrics: tuple[str, ...] = ()
    """other metrics to report"""
    max_length: int | None = Field(None, ge=1)
    """text tokens to keep per row; default: as in the run"""
    cut: Literal["start", "end"] = "start"
    """end of a long text to cut off"""
    join: Literal["auto", "space", "none", "separate"] = "auto"
    """how a causal model's answer joins the text; auto: as in the run"""
    max_words: int | None = Field(None, ge=1)
    """words to keep of each field; default: all"""
    max_answer: int = Field(128, ge=1)
    """largest number of tokens of a free-text answer"""
    bad_rows: Literal["error", "skip"] | None = None
    """invalid rows: stop, or omit and count them; default: as in the run"""
    streaming: bool = False
    """draw the rows in one pass, without a copy of all of them on disk"""
    rows: RowLimits = Field(default_factory=RowLimits)
    """largest number of rows, drawn at random"""
    seed: int | None = Field(None, ge=0)
    """seed of the splits and draws; default: as in the run"""

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        if name and not re.fullmatch(r"[\w-][\w.-]*", name):
            raise ValueError("want letters, digits, '_', '-' and '.' only, because result files use the name")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> Description:
        if not self.train and not self.test:
            raise ValueError("names no files: want train, or at least test")
        known = fields_of(self.template)
        for name in self.fields:
            if name not in known:
                raise ValueError(f"fields: got {name!r}, but the template has {', '.join(known)}{meant(name, known)}")
        if self.answer is not None:
            for name in ("label", "choices"):
                if getattr(self, name) is not None:
                    raise ValueError(f"got answer (free text) and {name} (a choice between answers), want one of them")
        answers = self.choices.values() if isinstance(self.choices, dict) else self.choices
        if answers is not None:
            twice = isinstance(answers, tuple) and len(set(answers)) < len(answers)
            if len(set(answers)) < 2 or twice or not all(answer.strip() for answer in answers):
                raise ValueError(f"choices: got {listed(answers)}, want at least two different answers")
        metrics = TEXT_METRICS if self.answer is not None else METRICS
        for metric in self.metrics:
            if metric not in metrics:
                kind = "free text" if self.answer is not None else "a choice"
                raise ValueError(f"metric: got {metric!r}, want one of {', '.join(metrics)} for {kind}")
        return self

    @property
    def columns(self) -> dict[str, str]:
        """Column of each field of the template."""
        return {name: self.fields.get(name, name) for name in fields_of(self.template)}

    @property
    def target(self) -> str:
        """Column of the label or the answer."""
        return self.answer or self.label or "label"

    @property
    def reading(self) -> Reading:
        """Options for reading text files."""
        return Reading(**{name: getattr(self, name) for name in Reading.model_fields})

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics, starting with the one to report."""
        default = "exact-match" if self.answer is not None else "accuracy"
        return (self.metric or default, *self.more_metrics)


def read_description(path: Path) -> Description:
    """Read a description from a YAML file. Its file names are relative to it; patterns are resolved."""
    settings = read_yaml(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: got {type(settings).__name__}, want settings such as 'train: reviews.csv'")
    settings = {str(name): value for name, value in settings.items()}
    described = checked(Description.model_validate, settings, path, settings)
    files = {split: _resolved(path, split, getattr(described, split)) for split in SPLITS}
    return described.model_copy(update={"name": described.name or task_name(path), **files})


def _resolved(description: Path, split: str, files: tuple[Path, ...]) -> tuple[Path, ...]:
    paths: list[Path] = []
    for file in files:
        path = description.parent / expanded(file)
        if os.path.exists(path):  # unlike path.exists(), returns False for a name that is too long
            paths.append(path)
            continue
        matches = sorted(map(Path, glob(str(path), recursive=True))) if has_magic(str(path)) else []
        if not matches:
            raise FileNotFoundError(f"{description}, {split}: {path} does not exist")
        paths += matches
    return tuple(paths)
