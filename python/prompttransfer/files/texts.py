"""Text on its way in and out: arguments, lines, standard streams, JSON. It is UTF-8, whatever the locale says."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from prompttransfer.files.file_kinds import HEAD, check_kind

_MARKS_OF_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_text(text: str, what: str) -> str:
    """The text itself, if it can be encoded.

    Python decodes bytes of arguments that are not UTF-8 to lone surrogates, and JSON and YAML can spell one.

    Raises:
        ValueError: it holds a lone surrogate; begins with `what`.
    """
    found = None if text.isascii() else _SURROGATE.search(text)
    if found is None:
        return text
    code, place = ord(found.group()), found.start() + 1
    if 0xDC80 <= code <= 0xDCFF:
        raise ValueError(f"{what}: not UTF-8: byte 0x{code - 0xDC00:02x} at character {place}")
    raise ValueError(f"{what}: not UTF-8: half of a surrogate pair, \\u{code:04x}, at character {place}")


def codec_of(head: bytes, encoding: str = "utf-8") -> str:
    """The codec for a text with these first bytes: the mark of UTF-8 is no part of it, one of UTF-16 is believed."""
    if codecs.lookup(encoding).name != "utf-8":
        return encoding
    return "utf-16" if head[:2] in _MARKS_OF_UTF16 else "utf-8-sig"


def read_text(path: Path) -> str:
    """A text file in UTF-8, without a mark at its start; an error (FileNotFoundError, ValueError) names the file."""
    try:
        content = path.read_bytes()
        check_kind(content[:HEAD], path)
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error


def read_lines(raw: BinaryIO, what: str, encoding: str = "utf-8") -> Iterator[str]:
    """Lines of a stream of bytes without their ends (LF, CR LF or CR).

    Args:
        what: names the stream in messages.

    Raises:
        ValueError: a line is not in the encoding; names the line.
    """
    buffer = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)  # type: ignore[type-var]
    head = buffer.peek(HEAD)[:HEAD]
    check_kind(head, what, codecs.lookup(encoding).name)
    codec = codec_of(head, encoding)
    lines = io.TextIOWrapper(buffer, codec, "surrogateescape" if codec == "utf-8-sig" else "strict")
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            yield check_text(line.rstrip("\n"), f"{what}, line {number}")
    except UnicodeError as error:  # a codec may also raise the bare error
        reason = getattr(error, "reason", error)
        raise ValueError(f"{what}, after line {number}: not {encoding.upper()} ({reason})") from error
    finally:
        lines.detach()  # the stream stays open


def input_lines(encoding: str = "utf-8") -> Iterator[str]:
    """Lines of standard input; raises ValueError where it is closed or a line is not in the encoding."""
    if sys.stdin is None:
        raise ValueError("standard input is closed; want texts as arguments or --file")
    if sys.stdin.isatty():
        tell("reading texts from the keyboard, one on a line; Ctrl-D ends them")
    return read_lines(sys.stdin.buffer, "standard input", encoding)


def prepare_streams() -> None:
    """Make the standard streams of this process safe to write to; to be called once, before anything is written.

    What they cannot encode is written as an escape. A pipe or a file gets UTF-8, unless PYTHONIOENCODING names another
    encoding; a terminal keeps its own. A closed stream swallows what is written.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _Nowhere(open(os.devnull, "wb"), "utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            own = stream.isatty() or os.environ.get("PYTHONIOENCODING", "").split(":")[0]
            stream.reconfigure(encoding=None if own else "utf-8", errors="backslashreplace")


class _Nowhere(io.TextIOWrapper):
    """In place of a standard stream that is closed."""


def check_output() -> None:
    """Raise ValueError where standard output is closed, so that nobody can see what is shown."""
    if isinstance(sys.stdout, _Nowhere):
        raise ValueError("standard output is closed, and this command has no other result; want it open")


def output_is_written() -> bool:
    """Whether standard output takes what is still in its buffer; it does not on a full disk or behind `head`."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return False
    return True


def show(text: str) -> None:
    """A line, or several, on standard output; raises OSError where it does not take them, as on a full disk."""
    try:
        print(text, file=sys.stdout, flush=True)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, "standard output") from error


def tell(text: str) -> None:
    """A line, or several, on the error stream."""
    print(text, file=sys.stderr, flush=True)


def show_json(content: Any, *, indent: int | None = 1) -> None:
    """JSON on standard output; in an encoding that is not UTF-8, letters beyond ASCII are escaped as JSON does it."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    show(json.dumps(content, indent=indent, ensure_ascii=codecs.lookup(encoding).name != "utf-8"))
