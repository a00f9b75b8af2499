"""What a fuzzing target is, and how its inputs become choices."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Choice = TypeVar("Choice")
PART = b"\x1e"  # between the files of an input that is several


class Finding(AssertionError):
    """A defect: a wrong answer, a refusal of what is right, or one that does not say what is wrong."""


@dataclass(frozen=True)
class Target:
    """Something that is handed arbitrary bytes.

    Attributes:
        check: True for an input that was accepted, False for one that was refused as it should be; anything else that
            is raised is a finding.
        seeds: inputs to start from.
        words: what inputs of this kind are made of, for mutations.
        longest: bytes of an input at most.
    """

    check: Callable[[bytes], bool]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    longest: int = 4096


class Draw:
    """Choices out of bytes; where the bytes end, the first of every choice."""

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
    """A refusal says which argument or which file it is about.

    Raises:
        Finding: it does not.
    """
    if not any(re.search(rf"(?<!\w){re.escape(name)}", str(error)) for name in names):
        raise Finding(f"the message names none of {', '.join(names)}: {error!r}") from error


def refuses(read: Callable[[], Any], *names: str) -> bool:
    """Whether reading is refused as it should be: with a `ValueError` or `FileNotFoundError` that names the file.

    Raises:
        Finding: the message names none of `names`, or the error is one of those inside.
    """
    try:
        read()
    except (UnicodeError, json.JSONDecodeError) as error:
        raise Finding(f"the reader's own error came out: {error!r}") from error
    except (ValueError, FileNotFoundError) as error:
        check_message(error, names)
        return True
    return False


class Folder(tempfile.TemporaryDirectory):  # type: ignore[type-arg]
    """A new folder for the files of an input."""

    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())
