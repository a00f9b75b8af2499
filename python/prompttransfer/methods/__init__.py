"""The methods by name: each takes (context, target task) and returns a trained target prompt."""

from __future__ import annotations

import re
from collections.abc import Callable

from prompttransfer import config
from prompttransfer.encoding import EncodedTask
from prompttransfer.methods import attempt, bmtpt, dtvg, mpt, multitask_pt, pt, spot, tpv
from prompttransfer.methods.context import Context, MethodResult

Method = Callable[[Context, EncodedTask], MethodResult]

METHODS: dict[str, Method] = {
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


def register(name: str, run: Method, *, transfers: bool = True, source_prompts: bool = True) -> None:
    """Let runs of this process name a method of your own; registered again, a name gets the new function.

    Args:
        name: as in `RunConfig.methods`, and the name of its folder of prompts.
        run: (context, target) -> result. Called once for each target and seed; `Context` has the model, P_init, the
            sources and the target's batches, and keeps finished stages.
        transfers: it learns from source tasks; else it runs without any.
        source_prompts: it asks for a prompt of each source (`shared.source_prompts`), which a run then trains, scores
            and saves.

    Raises:
        ValueError: the name of a method of the package, or one that cannot be the name of a folder.
    """
    if name in config.METHODS:
        raise ValueError(f"name must not be that of a method of the package, got {name!r}")
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(f"name must be letters, digits, '.', '+', '-' and '_', got {name!r}")
    METHODS[name] = run
    if name not in config.known_methods:
        config.known_methods.append(name)
    for names, outside in (
        (config.WITHOUT_SOURCES, not transfers),
        (config.WITHOUT_SOURCE_PROMPTS, not (transfers and source_prompts)),
    ):
        (names.add if outside else names.discard)(name)


__all__ = ["METHODS", "Context", "EncodedTask", "Method", "MethodResult", "register"]
