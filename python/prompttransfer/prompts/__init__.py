"""Kinds of prompts: one `PromptModule` per way to parametrise them."""

from prompttransfer.prompts.attempt import InstancePrompt
from prompttransfer.prompts.base import PromptModule
from prompttransfer.prompts.grouped import GroupedPrompt
from prompttransfer.prompts.grouping import group_rule
from prompttransfer.prompts.init import init_hash, initial_prompt
from prompttransfer.prompts.joined import JoinedPrompt
from prompttransfer.prompts.multitask import MultitaskPrompt, average_factors, mean_factors
from prompttransfer.prompts.offset import OffsetPrompt
from prompttransfer.prompts.particles import ParticlePrompts
from prompttransfer.prompts.soft import FrozenPrompts, SoftPrompt

__all__ = [
    "FrozenPrompts",
    "GroupedPrompt",
    "InstancePrompt",
    "JoinedPrompt",
    "MultitaskPrompt",
    "OffsetPrompt",
    "ParticlePrompts",
    "PromptModule",
    "SoftPrompt",
    "average_factors",
    "group_rule",
    "init_hash",
    "initial_prompt",
    "mean_factors",
]
