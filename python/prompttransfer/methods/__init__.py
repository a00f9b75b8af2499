"""The methods: one file each, with its settings, its stages and how it trains a target's prompt."""

from prompttransfer.encoding import EncodedTask
from prompttransfer.methods.base import Method, Scope, Stage
from prompttransfer.methods.context import Context, MethodResult
from prompttransfer.methods.registry import METHODS, register_method

__all__ = ["METHODS", "Context", "EncodedTask", "Method", "MethodResult", "Scope", "Stage", "register_method"]
