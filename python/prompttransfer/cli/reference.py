"""The page about the command line, from the commands themselves: `python -m prompttransfer.cli.reference`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer

from prompttransfer.cli import app
from prompttransfer.cli.errors import EXIT_CODES

_HEAD = """# Command line

{commands}

`prompttransfer COMMAND --help` shows the same as this page. `prompttransfer --install-completion` sets up completion in
the shell: of commands, options, and names of tasks, methods, models and recipes.

Results go to standard output, progress and messages to standard error. With `--json`, standard output is JSON and
nothing else. `--quiet` hides progress, but not warnings. Progress bars and colours are for terminals; a pipe or a file
gets plain lines, as wide as `COLUMNS` says. `NO_COLOR=1` turns colours off. An option for several values takes them
separated by commas. An error message says in a line or two what to do; `--debug` shows the traceback.

| exit code | meaning |
|---|---|
{codes}
"""
_WIDTH = 96  # of a command
_COMMON = ("--debug", "--help")  # every command has them
_EXAMPLE = re.compile(r"`([^`]*\bprompttransfer [^`]*)`(?:  ?\((.*)\))?", re.DOTALL)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name, those of groups too, in the order of the help."""
    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        if inner is None:
            yield f"prompttransfer {name}", command
        else:
            yield from ((f"prompttransfer {name} {inside}", each) for inside, each in inner.items())


def examples(command: Any) -> list[str]:
    """The command lines that a help text shows."""
    return [found.group(1) for block in _paragraphs(command) if (found := _EXAMPLE.fullmatch(block))]


def page() -> str:
    """The whole page in Markdown."""
    every = list(commands())
    lines = "\n".join(f"- [`{name}`](#{name.replace(' ', '-')}): {_paragraphs(command)[0]}" for name, command in every)
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    head = _HEAD.format(commands=lines, codes=codes)
    return "\n".join([head, *(_section(name, command) for name, command in every)])


def _section(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.opts[0] not in _COMMON]
    usage = [name, *("[OPTIONS]" if options else "",), *map(_usage, arguments)]
    parts = [f"## {name}\n", f"```\n{' '.join(filter(None, usage))}\n```\n", _text(command)]
    if arguments:
        parts.append(_table("argument", [(_usage(each), each) for each in arguments]))
    if options:
        parts.append(_table("option", [(_names(each), each) for each in options]))
    return "\n".join(parts)


def _paragraphs(command: Any) -> list[str]:
    return [" ".join(block.split("\n")) for block in inspect.cleandoc(command.help or "").split("\n\n")]


def _text(command: Any) -> str:
    """The help text; its examples are one block of code."""
    lines: list[str] = []
    shown: list[str] = []
    for block in _paragraphs(command):
        found = _EXAMPLE.fullmatch(block)
        if found:
            shown += [*([f"# {found.group(2)}"] if found.group(2) else ()), *_wrapped(found.group(1))]
            continue
        lines += _code(shown)
        shown = []
        if block not in ("Example:", "Examples:"):
            lines += [block, ""]
    return "\n".join([*lines, *_code(shown)])


def _code(lines: list[str]) -> list[str]:
    return ["```bash", *lines, "```", ""] if lines else []


def _wrapped(command: str) -> list[str]:
    """A command on lines as long as the page has room for, cut before an option."""
    lines = [""]
    for part in re.split(r" (?=--)", command):
        if lines[-1] and len(f"{lines[-1]} {part}") > _WIDTH:
            lines[-1] += " \\"
            lines.append(f"    {part}")
        else:
            lines[-1] = f"{lines[-1]} {part}".strip()
    return lines


def _usage(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    name = name if argument.nargs == 1 or name.endswith("...") else f"{name}..."
    return name if argument.required else f"[{name}]"


def _names(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))


def _table(title: str, rows: list[tuple[str, Any]]) -> str:
    lines = [f"| {title} | meaning | default |", "|---|---|---|"]
    for name, parameter in rows:
        shown = name if name.startswith("`") else f"`{name}`"
        meaning = " ".join((parameter.help or "").split())
        lines.append(f"| {shown} | {_cell(meaning)} | {_cell(_default(parameter))} |")
    return "\n".join(lines) + "\n"


def _default(parameter: Any) -> str:
    said = getattr(parameter, "show_default", None)
    if isinstance(said, str):
        return said
    value = parameter.default
    if parameter.required or value is None or isinstance(value, bool):
        return ""
    return str(value)


def _cell(text: str) -> str:
    """Inside a table: a bar would end the cell, a star would set italics."""
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    print(page(), end="")
