"""What every kind of prompt offers to the model, the optimizer and the exporter."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class PromptModule(nn.Module, ABC):
    """A trainable prompt of `length` tokens of width `hidden_size`; parameters are float32.

    per_instance: the prompt depends on the text of its row, or changes it. Such a prompt has no finished matrix
    (`composed` raises TypeError), and rows share nothing of it: it is evaluated as a module, row by row.
    """

    per_instance: ClassVar[bool] = False

    def __init__(self, length: int, hidden_size: int) -> None:
        super().__init__()
        self.length = length
        self.hidden_size = hidden_size

    @property
    def count(self) -> int:
        """How many prompts rows can choose from by their task ids 0..count-1."""
        return 1

    @abstractmethod
    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Input embeddings (B, S, H) -> (B, L+S, H) in their type, prompt first.

        Args:
            task_ids: (B,), choose the prompt of each row.
            mask: (B, S), 1 where a token is text and 0 where it is padding; read by per-instance prompts only. Without
                it all tokens are text.

        Raises:
            ValueError: a prompt of several tasks got no task_ids.
        """

    @abstractmethod
    def composed(self, task: int = 0) -> Tensor:
        """The finished prompt (L, H) of one task, detached float32."""

    def ids_of_rows(self, task_ids: Tensor | None, input_embeds: Tensor) -> Tensor:
        """The task ids (B,) of `prepend`, all 0 where none are given and there is one prompt.

        Raises:
            ValueError: a prompt of several tasks got no task_ids.
        """
        if task_ids is not None:
            return task_ids
        if self.count > 1:
            raise ValueError(
                f"task_ids: got none, want one id in 0..{self.count - 1} per row of a {self.count}-task prompt"
            )
        return torch.zeros(input_embeds.shape[0], dtype=torch.int64, device=input_embeds.device)

    def trainable_parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def tensors(self) -> dict[str, Tensor]:
        """All that the prompts of rows depend on, for a file."""
        return {name: tensor.detach() for name, tensor in (*self.named_parameters(), *self.named_buffers())}

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Take the values of such a file.

        Raises:
            ValueError: a tensor of another shape, or with numbers that are not finite.
        """
        for name, tensor in self.tensors().items():
            if tensors[name].shape != tensor.shape or not tensors[name].isfinite().all():
                got = f"{tuple(tensors[name].shape)} {tensors[name].dtype}"
                raise ValueError(f"tensor {name!r}: got {got}, want finite numbers of shape {tuple(tensor.shape)}")
            tensor.copy_(tensors[name])

    def history(self) -> dict[str, Any]:
        """What this kind of prompt logged at every update, ready for JSON."""
        return {}

    def restore_history(self, history: dict[str, Any]) -> None:
        """Take up the log of an interrupted run."""

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Groups for the optimizer; a kind with several speeds overrides this."""
        return speeds(learning_rate, (list(self.parameters()), None))


def speeds(learning_rate: float, *groups: tuple[Sequence[Tensor], float | None]) -> list[dict[str, Any]]:
    """Groups for the optimizer, each with its rate, or learning_rate where it is None; without frozen parameters."""
    chosen = [([p for p in parameters if p.requires_grad], rate) for parameters, rate in groups]
    return [{"params": some, "lr": learning_rate if rate is None else rate} for some, rate in chosen if some]


def put_first(prompts: Tensor, input_embeds: Tensor) -> Tensor:
    """Concatenate prompts (L, H) or (B, L, H) with input_embeds (B, S, H) in the type of the latter."""
    prompts = prompts.to(input_embeds.dtype)
    if prompts.dim() == 2:
        prompts = prompts.expand(input_embeds.shape[0], -1, -1)
    return torch.cat([prompts, input_embeds], dim=1)


def linear_start(outputs: int, inputs: int, generator: torch.Generator) -> Tensor:
    """Weights (outputs, inputs) with the start of nn.Linear: U(-1 / sqrt(inputs), 1 / sqrt(inputs))."""
    return (2 * torch.rand(outputs, inputs, generator=generator) - 1) / math.sqrt(inputs)
