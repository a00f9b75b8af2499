"""Text input and output: arguments, lines, standard streams and JSON. It is UTF-8, whatever the locale."""

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
    """Return the text after checking that it can be encoded.

    Python decodes arguments that are not UTF-8 to lone surrogates, and JSON and YAML can contain one.

    Raises:
        ValueError: the text has a lone surrogate; the message starts with `what`.
    """
    surrogate = None if text.isascii() else _SURROGATE.search(text)
    if surrogate is None:
        return text
    code, place = ord(surrogate.group()), surrogate.start() + 1
    if 0xDC80 <= code <= 0xDCFF:
        raise ValueError(f"{what}: not UTF-8: byte 0x{code - 0xDC00:02x} at character {place}")
    raise ValueError(f"{what}: not UTF-8: half of a surrogate pair, \\u{code:04x}, at character {place}")


def codec_of(head: bytes, encoding: str = "utf-8") -> str:
    """The codec for a text with these first bytes. Skips a UTF-8 byte order mark, and follows a UTF-16 one."""
    if codecs.lookup(encoding).name != "utf-8":
        return encoding
    return "utf-16" if head[:2] in _MARKS_OF_UTF16 else "utf-8-sig"


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, without a byte order mark. Errors (FileNotFoundError, ValueError) name the file."""
    try:
        content = path.read_bytes()
        check_kind(content[:HEAD], path)
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error


def read_lines(raw: BinaryIO, what: str, encoding: str = "utf-8") -> Iterator[str]:
    """Lines of a byte stream, without line endings (LF, CR LF or CR).

    Args:
        what: name of the stream in messages.

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
    except UnicodeError as error:  # a codec may also raise a plain UnicodeError
        reason = getattr(error, "reason", error)
        raise ValueError(f"{what}, after line {number}: not {encoding.upper()} ({reason})") from error
    finally:
        lines.detach()  # the stream stays open


def input_lines(encoding: str = "utf-8") -> Iterator[str]:
    """Lines of standard input. Raises ValueError if it is closed or a line is not in the encoding."""
    if sys.stdin is None:
        raise ValueError("standard input is closed; give texts as arguments or with --file")
    if sys.stdin.isatty():
        tell("reading texts from the keyboard, one per line; end with Ctrl-D")
    return read_lines(sys.stdin.buffer, "standard input", encoding)


def prepare_streams() -> None:
    """Make the standard streams of this process safe to write to. Call once, before anything is written.

    Characters that a stream cannot encode are written as escapes. A pipe or a file gets UTF-8, unless PYTHONIOENCODING
    sets another encoding; a terminal keeps its own. Output to a closed stream is discarded.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _Nowhere(open(os.devnull, "wb"), "utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            own = stream.isatty() or os.environ.get("PYTHONIOENCODING", "").split(":")[0]
            stream.reconfigure(encoding=None if own else "utf-8", errors="backslashreplace")


class _Nowhere(io.TextIOWrapper):
    """Replacement for a closed standard stream."""


def check_output() -> None:
    """Raise a ValueError if standard output is closed, because nobody would see the result."""
    if isinstance(sys.stdout, _Nowhere):
        raise ValueError("standard output is closed, and this command has no other result; keep it open")


def output_is_written() -> bool:
    """Flush standard output; False if that fails, as on a full disk or in a pipe to `head`."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python reports an error at exit
        return False
    return True


def show(text: str) -> None:
    """Print one or more lines to standard output. Raises OSError on failure, as on a full disk."""
    try:
        print(text, file=sys.stdout, flush=True)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, "standard output") from error


def tell(text: str) -> None:
    """Print one or more lines to standard error."""
    print(text, file=sys.stderr, flush=True)


def show_json(content: Any, *, indent: int | None = 1) -> None:
    """Print JSON to standard output. If its encoding is not UTF-8, non-ASCII characters become JSON escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    show(json.dumps(content, indent=indent, ensure_ascii=codecs.lookup(encoding).name != "utf-8"))
