"""Facts about the tasks of a run: whether they are on this machine, their rows, metric and text lengths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompttransfer.estimate.model import one_line
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.settings.run import RunConfig
from prompttransfer.tasks.text_metrics.scoring import Lack, missing

# Training rows (after limits) and test rows (after the papers' splits), from the descriptions of the sets. For a plan
# before the data is downloaded.
PUBLISHED_ROWS = {
    "glue/mnli": (392_702, 9_815),
    "glue/qqp": (362_846, 40_430),
    "glue/qnli": (103_743, 5_463),
    "glue/sst2": (66_349, 872),
    "glue/stsb": (5_749, 750),
    "glue/mrpc": (3_668, 204),
    "glue/rte": (2_490, 139),
    "glue/cola": (8_551, 522),
    "superglue/multirc": (27_243, 2_424),
    "superglue/boolq": (9_427, 1_635),
    "superglue/wic": (5_428, 319),
    "superglue/wsc": (554, 52),
    "superglue/cb": (250, 28),
    "superglue/record": (137_854, 15_176),
    "mrqa/squad": (86_599, 10_570),
    "mrqa/nq": (103_071, 12_836),
    "mrqa/hotpotqa": (71_928, 5_901),
    "mrqa/searchqa": (116_384, 16_980),
    "mrqa/newsqa": (73_160, 4_212),
    "others/winogrande": (39_398, 1_267),
    "others/yelp": (100_000, 38_000),
    "others/scitail": (23_097, 652),
    "others/paws": (49_401, 8_000),
    "nlg/e2e": (42_061, 630),
    "nlg/webnlg": (18_102, 1_862),
    "nlg/commongen": (66_389, 993),
    "extra/agnews": (119_000, 7_600),
    "extra/commonsenseqa": (9_741, 611),
    "extra/openbookqa": (4_957, 500),
    "extra/arc": (1_119, 1_172),
    "extra/anli": (161_865, 3_200),
}
_SAMPLE = 200  # rows to measure the length of
_LETTERS = 4  # per token, roughly


@dataclass(frozen=True)
class TaskFacts:
    """A task as a run with these settings would use it.

    Attributes:
        role: "source" or "target".
        here: whether it is on this machine.
        train, test: number of used rows; None: unknown.
        exact: whether the rows were counted; if false, the numbers are published ones.
        text, answer: approximate tokens of a text and of an answer; the limit of a text if the rows are not here.
        free_text: whether answers are generated.
        majority: score of the most frequent answer, in per cent; None: unknown.
        validation: number of rows that choose a prompt, if the settings ask for it; None: unknown.
        max_length: the task's own limit of a text in tokens, if it has one.
    """

    name: str
    role: str
    here: bool
    train: int | None
    test: int | None
    exact: bool
    metric: str
    text: float
    answer: float
    free_text: bool
    majority: float | None = None
    validation: int | None = None
    max_length: int | None = None


def task_facts(config: RunConfig, name: str, role: str) -> tuple[TaskFacts, list[Lack]]:
    """Facts about a task, and what is missing for it."""
    from prompttransfer.files.assets import is_fetched
    from prompttransfer.tasks import DEMO_TASKS
    from prompttransfer.tasks.papers import PAPER_TASKS
    from prompttransfer.tasks.papers.splits import VALIDATION_ROWS

    spec = PAPER_TASKS.get(name)
    lack = missing(spec.metric) if spec and not spec.words else None
    lacks = [Lack(f"task {name}: {lack.what}", lack.command)] if lack else []
    absent = None
    if name in DEMO_TASKS:
        asset = DEMO_TASKS[name].asset
        if not is_fetched(asset):
            absent = Lack(f"task {name}: {asset} is not in the cache", f"prompttransfer assets {asset} --fetch")
    elif spec:
        absent = _paper_lack(config, spec)
    if absent is None and not lacks:
        try:
            return _loaded(config, name, role), []
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            absent = Lack(f"task {name}: {one_line(error)}", "see the message")
    train, test = PUBLISHED_ROWS.get(name, (None, None))
    limit = config.length_of(name) or (spec.max_length if spec else None)
    facts = TaskFacts(
        name=name,
        role=role,
        here=absent is None,
        train=_fewer(train, config.train_rows if role == "target" else config.source_rows),
        test=_fewer(test, config.test_rows),
        exact=False,
        metric=spec.metric if spec else "?",
        text=limit or config.max_length,
        answer=20.0 if spec and not spec.words else 2.0,
        free_text=bool(spec and not spec.words),
        # With the other rules, about as many as test rows.
        validation=_fewer(VALIDATION_ROWS if spec and spec.splits.rule == "thousand" else test, config.test_rows),
        max_length=limit,
    )
    return facts, lacks + ([absent] if absent else [])


def _loaded(config: RunConfig, name: str, role: str) -> TaskFacts:
    """Facts of a task on this machine, read as in a run."""
    from prompttransfer.runs.workbench import task_options
    from prompttransfer.tasks import load_task
    from prompttransfer.tasks.metrics import majority_score

    task = load_task(name, progress=ProgressReporter(), **task_options(config))
    task = task.on_validation() if config.evaluate_on == "validation" else task
    rows = config.train_rows if role == "target" else config.source_rows
    task = task.limit(rows, config.test_rows)
    sample = task.train.select(range(min(_SAMPLE, len(task.train))))
    limit = config.length_of(name) or task.max_length
    texts = [min(limit or config.max_length, len(text) / _LETTERS + 1) for text in sample["text"]]
    answers = [len(text) / _LETTERS + 1 for text in sample["answer"]] if task.free_text else [2.0]
    return TaskFacts(
        name=name,
        role=role,
        here=True,
        train=len(task.train),
        test=len(task.test),
        exact=True,
        metric=task.metric,
        text=sum(texts) / max(1, len(texts)),
        answer=sum(answers) / max(1, len(answers)),
        free_text=task.free_text,
        majority=majority_score(task.metric, list(task.test["label"])) if task.choices and len(task.test) else None,
        validation=_fewer(len(task.validation), config.test_rows),
        max_length=limit,
    )


def _paper_lack(config: RunConfig, spec: Any) -> Lack | None:
    """What is missing if a data set of the papers is neither in the data folder nor in the cache of `datasets`."""
    from prompttransfer.tasks.papers.sources import find_split
    from prompttransfer.tasks.papers.splits import PARTS, hub_splits

    folder = config.data_dir or Path("data")
    what = f"--include '{spec.config}/*' " if spec.config else ""
    revision = "--revision refs/convert/parquet " if spec.converted else ""
    get = f"hf download {spec.hub} --repo-type dataset {revision}{what}--local-dir {folder / spec.hub}"
    if config.data_dir is None:
        from datasets import config as settings

        kept = Path(settings.HF_DATASETS_CACHE) / spec.hub.replace("/", "___")
        if any(kept.glob(f"{spec.config or '*'}/**/*.arrow")):
            return None
        return Lack(f"task {spec.name}: {spec.hub} is not in the cache; read it with --data-dir {folder}", get)
    try:
        for split in {split for part in PARTS for split in hub_splits(spec.splits, part)}:
            find_split(spec, split, config.data_dir)
    except (OSError, ValueError) as error:
        return Lack(f"task {one_line(error)}", get)
    return None


def _fewer(rows: int | None, most: int | None) -> int | None:
    return rows if rows is None or most is None else min(rows, most)
