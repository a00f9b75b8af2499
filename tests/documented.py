"""The commands of the command line, and those that the README and the pages show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_STARTS = (
    "prompttransfer ",
    "python -m ",
    r"python [\w/]+\.py",
    "torchrun ",
    "accelerate launch ",
    "make ",
    r"[\w/]+\.sh",
)


def cli_commands() -> dict[str, Any]:
    """Every command of prompttransfer by its full name, those of groups too, in the order of the help."""
    from typer.main import get_command

    from prompttransfer.cli import app

    every = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {"": command})
        every |= {f"prompttransfer {name} {inside}".strip(): each for inside, each in inner.items()}
    return every


def examples(command: Any) -> list[str]:
    """The command lines that a help text shows."""
    example = re.compile(r"^ *`?((?:cat \S+ \| )?prompttransfer [^`\n]+)`?(?:  \(.*\))?$", re.MULTILINE)
    return example.findall(command.help)


def shown(page: Path) -> list[str]:
    """Commands of the blocks of a page, one a line, without remarks."""
    return [command for language, text in _parts(page) if language in ("", "bash") for command in _commands(text)]


def named(page: Path) -> list[str]:
    """Commands within its sentences and tables."""
    spans = [span for language, text in _parts(page) if language is None for span in re.findall(r"`([^`]+)`", text)]
    return [command for span in spans for command in _commands(span)]


def _parts(page: Path) -> Iterator[tuple[str | None, str]]:
    """Split a page into code blocks with their language ("" if there is none) and the text between them (None)."""
    lines: list[str] = []
    language: str | None = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("```"):
            lines.append(line)
            continue
        yield language, "\n".join(lines)
        lines, language = [], line[3:] if language is None else None
    yield language, "\n".join(lines)


def _commands(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s+)#.*", "", line).strip()
        command = re.sub(r"^cat \S+ \| ", "", command)
        if re.match("|".join(_STARTS), command) and "[OPTIONS]" not in command:
            yield " ".join(command.split(" > ")[0].split())
