"""Named tasks: content, answers, metric, data; for a single task also its rows and an example."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.text import Text

from prompttransfer.cli.tables import plain_table, wide_console

if TYPE_CHECKING:
    from prompttransfer.files.progress import ProgressReporter


def all_tasks() -> list[dict[str, Any]]:
    """Every named task: content, answers, metric, and where its data comes from."""
    from prompttransfer.tasks import DEMO_TASKS, PAPER_TASKS

    demo = [
        {
            "name": name,
            "content": task.content,
            "choices": list(task.choices),
            "metric": "accuracy",
            "from": task.asset,
        }
        for name, task in DEMO_TASKS.items()
    ]
    papers = [
        {
            "name": name,
            "content": task.content,
            "choices": list(task.words),
            "metric": task.metric,
            "from": f"{task.hub} {task.config or ''}".strip(),
        }
        for name, task in PAPER_TASKS.items()
    ]
    return demo + papers


def print_all_tasks() -> None:
    """`all_tasks` as a table, and how to learn more."""
    table = plain_table("task", "content", "answers", "metric", "data", right=("answers",))
    for task in all_tasks():
        answers = str(len(task["choices"])) if task["choices"] else "text"
        table.add_row(*map(Text, (task["name"], task["content"], answers, task["metric"], task["from"])))
    console = wide_console()
    console.print(table)
    console.print("for details and an example: prompttransfer assets --tasks NAME", soft_wrap=True)


def task_facts(name: str, progress: ProgressReporter) -> dict[str, Any]:
    """A task with a name or a file: rows, answers, an example. Fetches the data of a demo task.

    A data set of the papers is described without being loaded.

    Raises:
        ValueError, FileNotFoundError: there is no such task.
    """
    from prompttransfer.tasks import PAPER_TASKS, load_task
    from prompttransfer.tasks.papers import describe

    if name in PAPER_TASKS:
        facts = next(task for task in all_tasks() if task["name"] == name)
        return {**facts, "text": describe(name)}
    task = load_task(name, progress=progress)
    parts = {part: getattr(task, part) for part in ("train", "validation", "test")}
    counts = Counter(task.test["label"]) if task.choices else Counter()
    shares = {choice: round(100 * counts[label] / len(task.test), 1) for label, choice in enumerate(task.choices)}
    rows = {part: len(table) for part, table in parts.items()}
    example = next((table[0] for table in parts.values() if len(table)), None)
    lines = [
        f"{task.name}: {task.origin}",
        "  "
        + ", ".join(f"{count:,} {part}" for part, count in rows.items())
        + f" rows; {task.leaked} left out as they overlap with test rows",
        f"  answers in the test rows: {', '.join(f'{c} {s:.0f} %' for c, s in shares.items()) or 'free text'}; "
        f"metric {task.metric}",
    ]
    answer = None
    if example is not None:
        answer = task.choices[example["label"]] if task.choices else example["answer"]
        lines.append(f"  example: {example['text']!r} -> {answer!r}")
    return {
        "name": task.name,
        "origin": task.origin,
        "rows": rows,
        "leaked": task.leaked,
        "answers_percent": shares,
        "metric": task.metric,
        "example": None if example is None else {"text": example["text"], "answer": answer},
        "text": "\n".join(lines),
    }
