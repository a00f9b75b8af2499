"""Train and compare soft prompts of many tasks on one frozen language model (PT, SPoT, MPT, BMTPT, DTVG)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompttransfer.files.progress import Progress
    from prompttransfer.library import Library
    from prompttransfer.methods import Context, EncodedTask, Method, MethodResult, register_method
    from prompttransfer.models import Backbone
    from prompttransfer.models.loading import load_model
    from prompttransfer.runs.compare import compare
    from prompttransfer.serving.evaluate import evaluate_file
    from prompttransfer.serving.predict import Predictor
    from prompttransfer.settings.recipes import read_recipe, run_config
    from prompttransfer.settings.run import RunConfig
    from prompttransfer.tasks import load_task

__all__ = [
    "Backbone",
    "Context",
    "EncodedTask",
    "Library",
    "Method",
    "MethodResult",
    "Predictor",
    "Progress",
    "RunConfig",
    "compare",
    "evaluate_file",
    "load_model",
    "load_task",
    "read_recipe",
    "register_method",
    "run_config",
]

_HOME = {
    "Backbone": "models",
    "Context": "methods",
    "EncodedTask": "models.encoding",
    "Library": "library",
    "Method": "methods",
    "MethodResult": "methods",
    "Predictor": "serving.predict",
    "Progress": "files.progress",
    "RunConfig": "settings.run",
    "compare": "runs.compare",
    "evaluate_file": "serving.evaluate",
    "load_model": "models.loading",
    "load_task": "tasks",
    "read_recipe": "settings.recipes",
    "register_method": "methods",
    "run_config": "settings.recipes",
}


def __getattr__(name: str) -> object:
    # Imported on first use: torch and transformers take seconds, `prompttransfer --help` must not.
    if name not in _HOME:
        raise AttributeError(f"module 'prompttransfer' has no attribute {name!r}")
    from importlib import import_module

    import_module("prompttransfer.methods")  # they add their settings to RunConfig
    return getattr(import_module(f"prompttransfer.{_HOME[name]}"), name)
