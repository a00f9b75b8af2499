"""One-call patch of a PEFT model: its multitask prompt encoders compose their prompts with the fused kernel.

Only prompt encoder *instances* are touched; parameters, checkpoints and the rest of PEFT stay as they are.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor, nn

from promptkernels.ops import compose_prompts


def accelerate(model: nn.Module) -> int:
    """Patch every multitask prompt encoder of a PEFT model in place; `restore` undoes it.

    Returns:
        the number of encoders that are patched now.

    Raises:
        ValueError: the model has no multitask prompt encoder.
    """
    encoders = _encoders(model)
    if not encoders:
        raise ValueError(
            f"model must be a PEFT model with a MULTITASK_PROMPT_TUNING adapter, got {type(model).__name__} without one"
        )
    for encoder in encoders:
        encoder.forward = MethodType(_forward, encoder)
    return len(encoders)


def restore(model: nn.Module) -> int:
    """Give every patched encoder its own forward again; returns how many were patched."""
    patched = [encoder for encoder in _encoders(model) if "forward" in vars(encoder)]
    for encoder in patched:
        del encoder.forward
    return len(patched)


def _encoders(model: nn.Module) -> list[Any]:
    from peft.tuners.multitask_prompt_tuning import MultitaskPromptEmbedding

    return [module for module in model.modules() if isinstance(module, MultitaskPromptEmbedding)]


def _forward(self: Any, indices: Tensor, task_ids: Tensor) -> Tensor:
    """PEFT hands over all token indices of the prompt, one row per batch row, and the tasks of the rows (or of all)."""
    if task_ids is None:
        raise ValueError("task_ids cannot be None")
    weight = self.embedding.weight
    prompts = compose_prompts(weight, self.prefix_task_cols, self.prefix_task_rows, task_ids).to(weight.dtype)
    return prompts.expand(indices.shape[0], -1, -1) if task_ids.shape[0] == 1 else prompts
