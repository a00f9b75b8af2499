"""Train and compare soft prompts of many tasks on one frozen language model (PT, SPoT, MPT, BMTPT, DTVG)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompttransfer.methods import register_method
    from prompttransfer.models import Backbone
    from prompttransfer.settings.run import RunConfig

__all__ = ["Backbone", "RunConfig", "register_method"]

# RunConfig by way of the methods, which add their settings to it.
_HOME = {"Backbone": "models", "RunConfig": "methods.registry", "register_method": "methods.registry"}


def __getattr__(name: str) -> object:
    # Imported on first use: torch and transformers take seconds, `prompttransfer --help` must not.
    if name not in _HOME:
        raise AttributeError(f"module 'prompttransfer' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"prompttransfer.{_HOME[name]}"), name)
