"""The methods: one file each, with its settings, its stages and how it trains a target's prompt.

This package exports what a custom method needs.
"""

from prompttransfer.methods.base import Method, Scope, SizedTask, Stage
from prompttransfer.methods.context import Context, MethodResult
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.registry import METHODS, register_method
from prompttransfer.methods.shared import own_prompt, own_share, source_cost, source_prompts
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.settings.base import Settings

__all__ = [
    "METHODS",
    "Context",
    "EncodedTask",
    "Method",
    "MethodResult",
    "Scope",
    "Settings",
    "SizedTask",
    "Stage",
    "own_prompt",
    "own_share",
    "register_method",
    "source_cost",
    "source_prompts",
    "task_loss",
]
