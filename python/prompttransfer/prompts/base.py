"""Interface of every kind of prompt for the model, the optimizer and the exporter."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class PromptModule(nn.Module, ABC):
    """A trainable prompt of `length` tokens of width `hidden_size`. Parameters are float32.

    per_instance: whether the prompt depends on the text of its row, or changes it. Such a prompt has no finished matrix
    (`composed` raises TypeError) and cannot be shared by rows; it is evaluated as a module, row by row.
    """

    per_instance: ClassVar[bool] = False

    def __init__(self, length: int, hidden_size: int) -> None:
        super().__init__()
        self.length = length
        self.hidden_size = hidden_size

    @property
    def count(self) -> int:
        """Number of prompts. Task ids 0..count-1 choose one for each row."""
        return 1

    @abstractmethod
    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Put the prompt before input embeddings: (B, S, H) -> (B, L+S, H), in their type.

        Args:
            task_ids: (B,), index of each row's prompt.
            mask: (B, S), 1 for text and 0 for padding; used by per-instance prompts only. None: all tokens are text.

        Raises:
            ValueError: the prompt has several tasks and task_ids is None.
        """

    @abstractmethod
    def composed(self, task: int = 0) -> Tensor:
        """Finished prompt (L, H) of one task, detached, float32."""

    def ids_of_rows(self, task_ids: Tensor | None, input_embeds: Tensor) -> Tensor:
        """Task ids (B,) for `prepend`; all 0 if task_ids is None and there is only one prompt.

        Raises:
            ValueError: the prompt has several tasks and task_ids is None.
        """
        if task_ids is not None:
            return task_ids
        if self.count > 1:
            raise ValueError(
                f"task_ids: got none, want one id in 0..{self.count - 1} per row of a {self.count}-task prompt"
            )
        return torch.zeros(input_embeds.shape[0], dtype=torch.int64, device=input_embeds.device)

    def trainable_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the rows' prompts depend on, to save in a file."""
        return {name: tensor.detach() for name, tensor in (*self.named_parameters(), *self.named_buffers())}

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Load the tensors of such a file.

        Raises:
            ValueError: a tensor has the wrong shape, or numbers that are not finite.
        """
        for name, tensor in self.tensors().items():
            if tensors[name].shape != tensor.shape or not tensors[name].isfinite().all():
                got = f"{tuple(tensors[name].shape)} {tensors[name].dtype}"
                raise ValueError(f"tensor {name!r}: got {got}, want finite numbers of shape {tuple(tensor.shape)}")
            tensor.copy_(tensors[name])

    def history(self) -> dict[str, Any]:
        """Values logged at every update, as JSON data."""
        return {}

    def restore_history(self, history: dict[str, Any]) -> None:
        """Restore the log of an interrupted run."""

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer. A prompt with several learning rates overrides this."""
        return speeds(learning_rate, (list(self.parameters()), None))


def speeds(learning_rate: float, *groups: tuple[Sequence[Tensor], float | None]) -> list[dict[str, Any]]:
    """Parameter groups for the optimizer, each at its rate (None: learning_rate), without frozen parameters."""
    chosen = [([p for p in parameters if p.requires_grad], rate) for parameters, rate in groups]
    return [{"params": some, "lr": learning_rate if rate is None else rate} for some, rate in chosen if some]


def put_first(prompts: Tensor, input_embeds: Tensor) -> Tensor:
    """Concatenate prompts (L, H) or (B, L, H) and input_embeds (B, S, H), in the type of input_embeds."""
    prompts = prompts.to(input_embeds.dtype)
    if prompts.dim() == 2:
        prompts = prompts.expand(input_embeds.shape[0], -1, -1)
    return torch.cat([prompts, input_embeds], dim=1)


def linear_start(outputs: int, inputs: int, generator: torch.Generator) -> Tensor:
    """Weights (outputs, inputs) initialized as in nn.Linear: U(-1 / sqrt(inputs), 1 / sqrt(inputs))."""
    return (2 * torch.rand(outputs, inputs, generator=generator) - 1) / math.sqrt(inputs)
