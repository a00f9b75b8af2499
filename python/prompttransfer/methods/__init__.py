"""The methods by name: each takes (context, target task) and returns a trained target prompt."""

from __future__ import annotations

from collections.abc import Callable

from prompttransfer.methods import attempt, bmtpt, dtvg, mpt, multitask_pt, pt, spot, tpv
from prompttransfer.methods.context import Context, EncodedTask, MethodResult

METHODS: dict[str, Callable[[Context, EncodedTask], MethodResult]] = {
    "PT": pt.run,
    "Multi-PT": multitask_pt.run,
    "SPoT": spot.run,
    "TPV": tpv.run,
    "ATTEMPT": attempt.run,
    "MPT": mpt.run,
    "MPT-group": mpt.run_group,
    "BMTPT": bmtpt.run,
    "DTVG": dtvg.run,
}

__all__ = ["METHODS", "Context", "EncodedTask", "MethodResult"]
