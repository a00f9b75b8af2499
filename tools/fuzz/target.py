"""Interface of a fuzzing target, and conversion of its inputs to choices."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Choice = TypeVar("Choice")
PART = b"\x1e"  # separates the files of an input with several


class Finding(AssertionError):
    """A bug: a wrong answer, a refusal of valid input, or a refusal without a clear reason."""


@dataclass(frozen=True)
class Target:
    """A function to test with arbitrary bytes.

    Attributes:
        check: returns True for an accepted input and False for one that was properly refused. Any exception is a
            finding.
        seeds: inputs to start from.
        words: typical parts of such inputs, for mutations.
        longest: largest size of an input in bytes.
    """

    check: Callable[[bytes], bool]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    longest: int = 4096


class Draw:
    """Draws choices from bytes. After the end of the bytes, every choice is its first option."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def below(self, count: int) -> int:
        """0..count-1, count <= 65536."""
        return (self.byte() if count <= 256 else self.byte() << 8 | self.byte()) % count

    def of(self, choices: Sequence[Choice]) -> Choice:
        return choices[self.below(len(choices))]

    def one_in(self, count: int) -> bool:
        return self.below(count) == count - 1


def check_message(error: BaseException, names: Iterable[str]) -> None:
    """Check that a refusal names the argument or file.

    Raises:
        Finding: it does not.
    """
    if not any(re.search(rf"(?<!\w){re.escape(name)}", str(error)) for name in names):
        raise Finding(f"the message names none of {', '.join(names)}: {error!r}") from error


def refuses(read: Callable[[], Any], *names: str) -> bool:
    """Whether reading is properly refused, with a `ValueError` or `FileNotFoundError` that names the file.

    Raises:
        Finding: the message has none of `names`, or the error is an internal one of the reader.
    """
    try:
        read()
    except (UnicodeError, json.JSONDecodeError) as error:
        raise Finding(f"an internal error of the reader escaped: {error!r}") from error
    except (ValueError, FileNotFoundError) as error:
        check_message(error, names)
        return True
    return False


class Folder(tempfile.TemporaryDirectory):  # type: ignore[type-arg]
    """A new folder for the files of an input."""

    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())
