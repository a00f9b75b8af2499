"""One-call patch of a PEFT model, so that its multitask prompt encoders use the fused kernel.

It changes only prompt encoder *instances*. Parameters, checkpoints and the rest of PEFT stay as they are.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from promptkernels.ops import compose_prompts


def accelerate(model: nn.Module) -> int:
    """Patch every multitask prompt encoder of a PEFT model in place; `restore` undoes it.

    A patched encoder's class is a subclass of its original class. It can be copied and pickled; loading it needs
    promptkernels. Encoders of a class that overrides PEFT's forward are not patched.

    Returns:
        the number of patched encoders.

    Raises:
        ValueError: the model has no multitask prompt encoder.
    """
    encoders = _encoders(model)
    if not encoders:
        raise ValueError(
            f"model must be a PEFT model with a MULTITASK_PROMPT_TUNING adapter, got {type(model).__name__} without one"
        )
    for encoder in encoders:
        if not isinstance(encoder, _Fused):
            plain: Any = type(encoder)
            encoder.__class__ = _fused(plain)
    return len(encoders)


def restore(model: nn.Module) -> int:
    """Restore the original class of every patched encoder; returns the number of encoders that were patched."""
    patched = [module for module in model.modules() if isinstance(module, _Fused)]
    for encoder in patched:
        encoder.__class__ = encoder.plain
    return len(patched)


def _encoders(model: nn.Module) -> list[Any]:
    from peft.tuners.multitask_prompt_tuning import MultitaskPromptEmbedding

    encoders = [module for module in model.modules() if isinstance(module, MultitaskPromptEmbedding)]
    return [e for e in encoders if isinstance(e, _Fused) or type(e).forward is MultitaskPromptEmbedding.forward]


class _Fused:
    """Forward of a patched encoder, mixed into its original class."""

    plain: Any

    def forward(self: Any, indices: Tensor, task_ids: Tensor) -> Tensor:
        """Compose prompts (B, L, H). indices: (B, L), all prompt tokens in every row; task_ids: (B,), or one id."""
        if task_ids is None:
            raise ValueError("task_ids cannot be None")
        if isinstance(task_ids, Tensor) and task_ids.dim() == 0:
            task_ids = task_ids.reshape(1)
        weight, rows = self.embedding.weight, indices.shape[0]
        prompts = compose_prompts(weight, self.prefix_task_cols, self.prefix_task_rows, task_ids).to(weight.dtype)
        if task_ids.shape[0] not in (1, rows):
            raise ValueError(f"task_ids must have one id, or one for each of the {rows} rows, got {task_ids.shape[0]}")
        return prompts.expand(rows, -1, -1)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle by the original class, because this class is created at run time."""
        return _empty, (self.plain,), *super().__reduce_ex__(max(protocol, 2))[2:]


@functools.cache
def _fused(plain: Any) -> Any:
    members: dict[str, Any] = {"plain": plain, "__doc__": plain.__doc__}
    return type(f"Fused{plain.__name__}", (_Fused, plain), members)


def _empty(plain: Any) -> Any:
    """Create an empty patched encoder, for unpickling."""
    return object.__new__(_fused(plain))
