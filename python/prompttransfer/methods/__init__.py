"""The methods by name: each takes (context, target task) and returns a trained target prompt."""

from __future__ import annotations

from collections.abc import Callable

from prompttransfer.methods import bmtpt, dtvg, mpt, pt, spot
from prompttransfer.methods.context import Context, EncodedTask, MethodResult

METHODS: dict[str, Callable[[Context, EncodedTask], MethodResult]] = {
    "PT": pt.run,
    "SPoT": spot.run,
    "MPT": mpt.run,
    "BMTPT": bmtpt.run,
    "DTVG": dtvg.run,
}

__all__ = ["METHODS", "Context", "EncodedTask", "MethodResult"]
