"""Targets with a defect each, for the test of `tools.fuzz`."""

import ctypes

from tools.fuzz.target import Finding, Target


def crashes(data: bytes) -> bool:
    if data[:1] == b"c":
        ctypes.string_at(0)  # reads address 0
    return len(data) % 2 == 0


def lies(data: bytes) -> bool:
    if data[:1] == b"l":
        raise Finding("a wrong answer")
    return False


def targets() -> dict[str, Target]:
    return {
        "crashes": Target(crashes, [b"a", b"bb", b"c"]),
        "lies": Target(lies, [b"a", b"l"]),
        "honest": Target(lambda data: bool(data), [b"a", b"b"]),
    }
