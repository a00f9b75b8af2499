"""Small invented copies of the papers' data sets: column names and types as on the hub, in the hub's layout.

Every split starts with a row written by hand, whose rendered text the tests know; the others are numbered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value

Row = dict[str, Any]
STRING, INT = Value("string"), Value("int32")


@dataclass(frozen=True)
class HubFixture:
    """A set on the hub. folder: of its Parquet files; row: number and words of their own -> a row."""

    folder: str
    features: Features
    first: Row
    row: Callable[[int, str], Row]
    splits: tuple[str, ...] = ("train", "validation")
    hidden: Callable[[Row], Row] | None = None  # rows of the test split, whose answers the hub does not give

    def write(self, root: Path, rows: int) -> None:
        folder = root / self.folder
        folder.mkdir(parents=True, exist_ok=True)
        for split, table in self.tables(rows).items():
            # As written by `datasets`, with its features in the Arrow schema.
            pq.write_table(table.data.table, folder / f"{split}-00000-of-00001.parquet")

    def tables(self, rows: int) -> dict[str, Dataset]:
        tables = {split: self.table([self.first, *self.numbered(split, rows - 1)]) for split in self.splits}
        if self.hidden:
            tables["test"] = self.table([self.hidden(row) for row in self.numbered("test", 3)])
        return tables

    def numbered(self, split: str, rows: int) -> list[Row]:
        return [self.row(number, f"{split} {number} {'uvwxyz'[number % 6] * 4}") for number in range(rows)]

    def table(self, rows: list[Row]) -> Dataset:
        return Dataset.from_dict({name: [row[name] for row in rows] for name in self.features}, features=self.features)


def pair(folder: str, first: Row, names: list[str], *columns: str, index: bool = True, **options: Any) -> HubFixture:
    """A set of texts and a class label, like most of GLUE."""
    features = {column: STRING for column in columns} | {"label": ClassLabel(names=names)}

    def row(number: int, words: str) -> Row:
        texts = {column: f"The {column} of {words} is here." for column in columns}
        return texts | {"label": number % len(names)} | ({"idx": number} if index else {})

    if index:
        features |= {"idx": INT}
        first = first | {"idx": 7}
    return HubFixture(folder, Features(features), first, row, **options)


def hide_label(row: Row) -> Row:
    return row | {"label": -1}


def glue(config: str, first: Row, names: list[str], *columns: str, **options: Any) -> HubFixture:
    return pair(f"nyu-mll/glue/{config}", first, names, *columns, hidden=hide_label, **options)


def superglue(config: str, features: dict[str, Any], first: Row, row: Callable[[int, str], Row]) -> HubFixture:
    features |= {"label": ClassLabel(names=["False", "True"])}
    return HubFixture(f"aps/super_glue/{config}", Features(features), first, row, hidden=hide_label)


QUESTION_INDEX = {"paragraph": INT, "question": INT, "answer": INT}
SPANS = {"text": [STRING], "start": [INT], "end": [INT]}
SQUAD_ANSWERS = {"text": [STRING], "answer_start": [INT]}
TOKENS = {"tokens": [STRING], "offsets": [INT]}
CHOICES = {"text": [STRING], "label": [STRING]}
SUBSETS = ("SQuAD", "NaturalQuestionsShort", "HotpotQA", "SearchQA", "NewsQA", "TriviaQA-web")


def wsc_row(number: int, words: str) -> Row:
    return {
        "text": f"Anna met {words} when she was there.",
        "span1_index": 0,
        "span2_index": 6,
        "span1_text": "Anna",
        "span2_text": "she",
        "idx": number,
        "label": number % 2,
    }


def mrqa_row(number: int, words: str, subset: str = "") -> Row:
    answer = f"answer {number}"
    return {
        "subset": subset or SUBSETS[number % len(SUBSETS)],
        "context": f"[DOC] {words} holds {answer}.",
        "context_tokens": {"tokens": ["[DOC]"], "offsets": [0]},
        "qid": str(number),
        "question": f"What does {words} hold?",
        "question_tokens": {"tokens": ["What"], "offsets": [0]},
        "detected_answers": {"text": [answer], "char_spans": [{"start": [3], "end": [8]}]},
        "answers": [answer, answer.upper()],
    }


def options_row(column: str, count: int, number: int, words: str) -> Row:
    labels = list("ABCDE"[:count])
    return {
        "id": str(number),
        column: f"Which one is {words}?",
        "choices": {"text": [f"option {label} of {words}" for label in labels], "label": labels},
        "answerKey": labels[number % count],
    }


def webnlg_row(number: int, words: str, texts: Iterable[str] = ()) -> Row:
    texts = list(texts) or [f"{words} is a text.", f"A text is {words}."]
    return {
        "category": "City",
        "size": 1,
        "eid": f"Id{number}",
        "modified_triple_sets": {"mtriple_set": [[f"{words} | is | text", "text | has | words"]]},
        "lex": {"comment": ["good"] * len(texts), "lid": ["Id"] * len(texts), "text": texts, "lang": [""] * len(texts)},
    }


SCITAIL = ["sentence1_binary_parse", "sentence1_parse", "sentence1", "sentence2_parse", "sentence2"]

FIXTURES: dict[str, HubFixture] = {
    "glue/mnli": glue(
        "mnli",
        {"premise": "A man naps .", "hypothesis": "Someone sleeps.", "label": 0},
        ["entailment", "neutral", "contradiction"],
        "premise",
        "hypothesis",
        splits=("train", "validation_matched", "validation_mismatched"),
    ),
    "glue/qqp": glue(
        "qqp",
        {"question1": "Who is it?", "question2": "Who was it?", "label": 0},
        ["not_duplicate", "duplicate"],
        "question1",
        "question2",
    ),
    "glue/qnli": glue(
        "qnli",
        {"question": "Where is Oslo?", "sentence": "Oslo is in Norway.", "label": 0},
        ["entailment", "not_entailment"],
        "question",
        "sentence",
    ),
    "glue/sst2": glue("sst2", {"sentence": "a fine film . ", "label": 1}, ["negative", "positive"], "sentence"),
    "glue/stsb": HubFixture(
        "nyu-mll/glue/stsb",
        Features({"sentence1": STRING, "sentence2": STRING, "label": Value("float32"), "idx": INT}),
        {"sentence1": "A dog runs.", "sentence2": "A cat runs.", "label": 2.75, "idx": 7},
        lambda number, words: {
            "sentence1": f"One of {words} runs.",
            "sentence2": f"Two of {words} run.",
            "label": number % 6,
            "idx": number,
        },
        hidden=hide_label,
    ),
    "glue/mrpc": glue(
        "mrpc",
        {"sentence1": "He went home .", "sentence2": "Home he went .", "label": 1},
        ["not_equivalent", "equivalent"],
        "sentence1",
        "sentence2",
    ),
    "glue/rte": glue(
        "rte",
        {"sentence1": "Ann has a dog.", "sentence2": "Ann has a pet.", "label": 0},
        ["entailment", "not_entailment"],
        "sentence1",
        "sentence2",
    ),
    "glue/cola": glue(
        "cola", {"sentence": "They drank the pub.", "label": 0}, ["unacceptable", "acceptable"], "sentence"
    ),
    "superglue/multirc": superglue(
        "multirc",
        {"paragraph": STRING, "question": STRING, "answer": STRING, "idx": QUESTION_INDEX},
        {
            "paragraph": "<b>Sent 1: </b>Tom ran.<br><b>Sent 2: </b>He won.<br>",
            "question": "Who won?",
            "answer": "Tom",
            "idx": {"paragraph": 0, "question": 0, "answer": 0},
            "label": 1,
        },
        lambda number, words: {
            "paragraph": f"<b>Sent 1: </b>The paragraph of {words}.<br>",
            "question": f"What is {words}?",
            "answer": f"answer {number}",
            "idx": {"paragraph": 0, "question": number, "answer": 0},
            "label": number % 2,
        },
    ),
    "superglue/boolq": superglue(
        "boolq",
        {"question": STRING, "passage": STRING, "idx": INT},
        {"question": "is tea hot", "passage": "Tea -- Tea is a drink.", "idx": 7, "label": 1},
        lambda number, words: {
            "question": f"is it {words}",
            "passage": f"{words} is.",
            "idx": number,
            "label": number % 2,
        },
    ),
    "superglue/wic": superglue(
        "wic",
        {name: STRING for name in ("word", "sentence1", "sentence2")}
        | {name: INT for name in ("start1", "start2", "end1", "end2", "idx")},
        {
            "word": "bank",
            "sentence1": "The bank of a river.",
            "sentence2": "A bank lends.",
            "start1": 4,
            "start2": 2,
            "end1": 8,
            "end2": 6,
            "idx": 7,
            "label": 0,
        },
        lambda number, words: {
            "word": "run",
            "sentence1": f"They run {words}.",
            "sentence2": f"A run of {words}.",
            "start1": 5,
            "start2": 2,
            "end1": 8,
            "end2": 5,
            "idx": number,
            "label": number % 2,
        },
    ),
    "superglue/wsc": superglue(
        "wsc.fixed",
        {
            "text": STRING,
            "span1_index": INT,
            "span2_index": INT,
            "span1_text": STRING,
            "span2_text": STRING,
            "idx": INT,
        },
        {
            "text": "Mark told Pete's aunt  that he was late.",
            "span1_index": 2,
            "span2_index": 5,
            "span1_text": "Pete",
            "span2_text": "he",
            "idx": 7,
            "label": 0,
        },
        wsc_row,
    ),
    "superglue/cb": pair(
        "aps/super_glue/cb",
        {"premise": "Is it cold? I think so.", "hypothesis": "it is cold", "label": 2},
        ["entailment", "contradiction", "neutral"],
        "premise",
        "hypothesis",
        hidden=hide_label,
    ),
    "superglue/record": HubFixture(
        "aps/super_glue/record",
        Features(
            {
                "passage": STRING,
                "query": STRING,
                "entities": [STRING],
                "entity_spans": SPANS,
                "answers": [STRING],
                "idx": {"passage": INT, "query": INT},
            }
        ),
        {
            "passage": "Rome fell.\n@highlight\nNero sang\n@highlight\nIt burned",
            "query": "@placeholder is in Italy.",
            "entities": ["Rome", "Roma", "Nero"],
            "entity_spans": {"text": ["Rome"], "start": [0], "end": [4]},
            "answers": ["Rome", "Roma"],
            "idx": {"passage": 0, "query": 0},
        },
        lambda number, words: {
            "passage": f"The passage of {words}.",
            "query": f"@placeholder is {words}.",
            "entities": ["Ann", "Bob"],
            "entity_spans": {"text": ["Ann"], "start": [0], "end": [3]},
            "answers": ["Ann"],
            "idx": {"passage": 0, "query": number},
        },
        hidden=lambda row: row | {"answers": []},
    ),
    "mrqa/squad": HubFixture(
        "rajpurkar/squad/plain_text",
        Features({"id": STRING, "title": STRING, "context": STRING, "question": STRING, "answers": SQUAD_ANSWERS}),
        {
            "id": "7",
            "title": "U.S.",
            "context": "It's in the U.S. (1889).",
            "question": "Where is François' home?",
            "answers": {"text": ["the U.S.", "U.S."], "answer_start": [8, 12]},
        },
        lambda number, words: {
            "id": str(number),
            "title": "Title",
            "context": f"The context of {words}.",
            "question": f"What is {words}?",
            "answers": {"text": [f"context {number}"], "answer_start": [4]},
        },
    ),
    # One table for the four; the first rows of every set are those of `mrqa_row`.
    "mrqa/newsqa": HubFixture(
        "mrqa-workshop/mrqa/plain_text",
        Features(
            {
                "subset": STRING,
                "context": STRING,
                "context_tokens": TOKENS,
                "qid": STRING,
                "question": STRING,
                "question_tokens": TOKENS,
                "detected_answers": {"text": [STRING], "char_spans": [{"start": [INT], "end": [INT]}]},
                "answers": [STRING],
            }
        ),
        mrqa_row(0, "a report", "NewsQA"),
        mrqa_row,
    ),
    "others/winogrande": HubFixture(
        "allenai/winogrande/winogrande_xl",
        Features({name: STRING for name in ("sentence", "option1", "option2", "answer")}),
        {"sentence": "The cup fits the box as _ is small.", "option1": "cup", "option2": "box", "answer": "1"},
        lambda number, words: {
            "sentence": f"At {words} _ was glad.",
            "option1": "Ann",
            "option2": "Bob",
            "answer": str(1 + number % 2),
        },
        hidden=lambda row: row | {"answer": ""},
    ),
    "others/yelp": pair(
        "fancyzhx/yelp_polarity/plain_text",
        {"text": "Good food.\\nGo there!", "label": 1},
        ["1", "2"],
        "text",
        index=False,
        splits=("train", "test"),
    ),
    "others/scitail": HubFixture(
        "allenai/scitail/snli_format",
        Features({name: STRING for name in SCITAIL} | {"annotator_labels": [STRING], "gold_label": STRING}),
        {name: "( parse )" for name in SCITAIL}
        | {"sentence1": "Cells divide.", "sentence2": "A cell can divide.", "gold_label": "neutral"}
        | {"annotator_labels": ["neutral"]},
        lambda number, words: (
            {name: "( parse )" for name in SCITAIL}
            | {"sentence1": f"Of {words} is known.", "sentence2": f"It is {words}.", "annotator_labels": ["entailment"]}
            | {"gold_label": ("entailment", "neutral")[number % 2]}
        ),
        splits=("train", "validation", "test"),
    ),
    "others/paws": HubFixture(
        "google-research-datasets/paws/labeled_final",
        Features({"id": INT, "sentence1": STRING, "sentence2": STRING, "label": ClassLabel(names=["0", "1"])}),
        {"id": 7, "sentence1": "Ann saw Bob .", "sentence2": "Bob saw Ann .", "label": 0},
        lambda number, words: {
            "id": number,
            "sentence1": f"First {words} .",
            "sentence2": f"Second {words} .",
            "label": number % 2,
        },
        splits=("train", "validation", "test"),
    ),
    "nlg/e2e": HubFixture(
        "tuetschek/e2e_nlg/default",
        Features({"meaning_representation": STRING, "human_reference": STRING}),
        {"meaning_representation": "name[The Vaults], eatType[pub]", "human_reference": "The Vaults is a pub."},
        # Two references for every meaning, in rows of their own.
        lambda number, words: {
            "meaning_representation": f"name[{words.split()[0]} inn {number // 2}], food[fish]",
            "human_reference": f"At {words} there is fish.",
        },
        splits=("train", "validation", "test"),
    ),
    "nlg/webnlg": HubFixture(
        "webnlg-challenge/web_nlg/webnlg_challenge_2017",
        Features(
            {
                "category": STRING,
                "size": INT,
                "eid": STRING,
                "modified_triple_sets": {"mtriple_set": [[STRING]]},
                "lex": {"comment": [STRING], "lid": [STRING], "text": [STRING], "lang": [STRING]},
            }
        ),
        webnlg_row(7, "Oslo", ["Oslo is a text."]),
        webnlg_row,
        splits=("train", "dev", "test"),
    ),
    "nlg/commongen": HubFixture(
        "allenai/common_gen/data",
        Features({"concept_set_idx": INT, "concepts": [STRING], "target": STRING}),
        {"concept_set_idx": 7, "concepts": ["ski", "mountain"], "target": "He can ski down a mountain."},
        lambda number, words: {
            "concept_set_idx": number // 2,
            "concepts": [words.split()[0], "of", "number", str(number // 2)],
            "target": f"A sentence of {words}.",
        },
        hidden=lambda row: row | {"target": ""},
    ),
    "extra/agnews": HubFixture(
        "fancyzhx/ag_news/data",
        Features({"text": STRING, "label": ClassLabel(names=["World", "Sports", "Business", "Sci/Tech"])}),
        {"text": "Oil is up.", "label": 2},
        lambda number, words: {"text": f"News of {words} here.", "label": number % 4},
        splits=("train", "test"),
    ),
    "extra/commonsenseqa": HubFixture(
        "tau/commonsense_qa/data",
        Features(
            {"id": STRING, "question": STRING, "question_concept": STRING, "choices": CHOICES, "answerKey": STRING}
        ),
        options_row("question", 5, 1, "wet") | {"question_concept": "water"},
        lambda number, words: options_row("question", 5, number, words) | {"question_concept": "thing"},
        hidden=lambda row: row | {"answerKey": ""},
    ),
    "extra/openbookqa": HubFixture(
        "allenai/openbookqa/main",
        Features({"id": STRING, "question_stem": STRING, "choices": CHOICES, "answerKey": STRING}),
        options_row("question_stem", 4, 3, "hot"),
        lambda number, words: options_row("question_stem", 4, number, words),
        splits=("train", "validation", "test"),
    ),
    "extra/arc": HubFixture(
        "allenai/ai2_arc/ARC-Challenge",
        Features({"id": STRING, "question": STRING, "choices": CHOICES, "answerKey": STRING}),
        {
            "id": "7",
            "question": "What is cold?",
            "choices": {"text": ["ice", "fire", "sand"], "label": ["1", "2", "3"]},
            "answerKey": "3",
        },
        lambda number, words: options_row("question", 4, number, words),
        splits=("train", "validation", "test"),
    ),
    "extra/anli": HubFixture(
        "facebook/anli/plain_text",
        Features(
            {name: STRING for name in ("uid", "premise", "hypothesis")}
            | {"label": ClassLabel(names=["entailment", "neutral", "contradiction"]), "reason": STRING}
        ),
        {"uid": "7", "premise": "Ann is tall.", "hypothesis": "Ann is short.", "label": 2, "reason": ""},
        lambda number, words: {
            "uid": str(number),
            "premise": f"It is {words}.",
            "hypothesis": f"It was {words}.",
            "label": number % 3,
            "reason": "why",
        },
        splits=tuple(f"{part}_r{number}" for part in ("train", "dev") for number in (1, 2, 3)),
    ),
}


def write_hub(root: Path, names: Iterable[str] = FIXTURES, rows: int = 24) -> Path:
    """A copy of the hub with these sets and `rows` in every split. "mrqa/newsqa" gives the four sets of its table."""
    for name in names:
        FIXTURES[name].write(root, rows)
    return root
