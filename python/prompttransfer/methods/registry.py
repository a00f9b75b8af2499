"""The methods by name, in the order of the documentation; importing this declares them to `RunConfig`."""

from __future__ import annotations

import re

from prompttransfer.methods.attempt import ATTEMPT
from prompttransfer.methods.base import Method
from prompttransfer.methods.bmtpt import BMTPT
from prompttransfer.methods.crosspt import CrossPT
from prompttransfer.methods.dept import DePT
from prompttransfer.methods.dtvg import DTVG
from prompttransfer.methods.mpt import MPT, MPTGroup
from prompttransfer.methods.multitask_pt import MultiPT
from prompttransfer.methods.panda import PANDA
from prompttransfer.methods.pt import PT
from prompttransfer.methods.spot import SPoT
from prompttransfer.methods.tpv import TPV
from prompttransfer.settings.run import RunConfig

_BUILT_IN = (PT, MultiPT, SPoT, TPV, ATTEMPT, MPT, MPTGroup, BMTPT, DTVG, CrossPT, DePT, PANDA)

METHODS: dict[str, Method] = {method.name: method() for method in _BUILT_IN}
RunConfig.declare(METHODS.values())


def register_method(method: type[Method]) -> type[Method]:
    """Let runs of this process name a method of your own, with its settings; may stand above a class as a decorator.

    Registered again, a name gets the new class.

    Raises:
        ValueError: the name of a method of the package, or one that cannot be the name of a folder; a block of settings
            that is a setting of the run already.
    """
    name = method.name
    if name in {built_in.name for built_in in _BUILT_IN}:
        raise ValueError(f"name must not be that of a method of the package, got {name!r}")
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(f"name must be letters, digits, '.', '+', '-' and '_', got {name!r}")
    METHODS[name] = method()
    RunConfig.declare([METHODS[name]])
    return method
