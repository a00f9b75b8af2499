"""The methods by name, in the order of the documentation. Importing this module declares them to `RunConfig`."""

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
    """Register your own method and its settings for runs in this process. Also works as a class decorator.

    Registering a name again replaces its class.

    Raises:
        ValueError: the name belongs to a method of the package or cannot be a folder name, or the name of a settings
            block is already a setting of the run.
    """
    name = method.name
    if name in {built_in.name for built_in in _BUILT_IN}:
        raise ValueError(f"name must differ from the names of the package's methods, got {name!r}")
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(f"name must consist of letters, digits, '.', '+', '-' and '_', got {name!r}")
    METHODS[name] = method()
    RunConfig.declare([METHODS[name]])
    return method
