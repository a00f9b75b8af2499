"""Facts about named tasks: content, answers, metric and data; for a single task also its rows and an example."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prompttransfer.files.progress import ProgressReporter


def all_tasks() -> list[dict[str, Any]]:
    """Every named task: content, answers (empty for free text), metric, and source of its data."""
    from prompttransfer.tasks import DEMO_TASKS, PAPER_TASKS

    demo = [(name, task, task.choices, "accuracy", task.asset) for name, task in DEMO_TASKS.items()]
    papers = [
        (name, task, task.words, task.metric, f"{task.hub} {task.config or ''}".strip())
        for name, task in PAPER_TASKS.items()
    ]
    return [
        {"name": name, "content": task.content, "choices": list(choices), "metric": metric, "from": place}
        for name, task, choices, metric, place in (*demo, *papers)
    ]


def task_facts(name: str, progress: ProgressReporter) -> dict[str, Any]:
    """Facts about a named task or a file: rows, answers and an example. Downloads the data of a demo task.

    A data set of the papers is described without loading it. The entry "text" has the same facts for people.

    Raises:
        ValueError, FileNotFoundError: there is no such task.
    """
    from prompttransfer.tasks import PAPER_TASKS, load_task
    from prompttransfer.tasks.papers import describe

    if name in PAPER_TASKS:
        return next(task for task in all_tasks() if task["name"] == name) | {"text": describe(name)}
    task = load_task(name, progress=progress)
    tables = {part: getattr(task, part) for part in ("train", "validation", "test")}
    rows = {part: len(table) for part, table in tables.items()}
    counts = Counter(task.test["label"]) if task.choices else Counter()
    shares = {choice: round(100 * counts[label] / rows["test"], 1) for label, choice in enumerate(task.choices)}
    lines = [
        f"{task.name}: {task.origin}",
        f"  {', '.join(f'{count:,} {part}' for part, count in rows.items())} rows; {task.leaked} left out "
        "because they overlap with test rows",
        f"  answers in the test rows: {', '.join(f'{c} {s:.0f} %' for c, s in shares.items()) or 'free text'}; "
        f"metric {task.metric}",
    ]
    example = None
    if first := next((table[0] for table in tables.values() if len(table)), None):
        answer = task.choices[first["label"]] if task.choices else first["answer"]
        example = {"text": first["text"], "answer": answer}
        lines.append(f"  example: {first['text']!r} -> {answer!r}")
    return {
        "name": task.name,
        "origin": task.origin,
        "rows": rows,
        "leaked": task.leaked,
        "answers_percent": shares,
        "metric": task.metric,
        "example": example,
        "text": "\n".join(lines),
    }
