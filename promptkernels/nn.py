"""A drop-in prompt module with the parameter names and shapes of PEFT's multitask prompt tuning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from promptkernels.ops import compose_prompts, prepend_prompts


class MultitaskPrompt(nn.Module):
    """One shared prompt and rank-R factors per task: ``embedding * (prefix_task_cols[t] @ prefix_task_rows[t])``.

    The state dict is that of PEFT's ``MultitaskPromptEmbedding`` (``embedding.weight`` (L, H), ``prefix_task_cols``
    (T, L, R), ``prefix_task_rows`` (T, R, H)), so each can load the other's. Unlike in PEFT, the factors start at
    1 / sqrt(R), so every task starts at the shared prompt. Products of PEFT's N(0, 0.02^2) factors nearly erase it.

    Args:
        num_tasks: number of tasks T.
        num_virtual_tokens: prompt length L.
        token_dim: hidden size H.
        num_ranks: rank R.
        shared: start of the shared prompt (L, H), for instance sampled vocabulary rows. Default: N(0, 1).

    Raises:
        ValueError: a size is below 1, or ``shared`` has the wrong shape.
    """

    def __init__(
        self, num_tasks: int, num_virtual_tokens: int, token_dim: int, num_ranks: int = 1, shared: Tensor | None = None
    ) -> None:
        super().__init__()
        sizes = {"num_tasks": num_tasks, "num_virtual_tokens": num_virtual_tokens, "token_dim": token_dim}
        for name, size in {**sizes, "num_ranks": num_ranks}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.embedding = nn.Embedding(num_virtual_tokens, token_dim)
        if shared is not None:
            if shared.shape != (num_virtual_tokens, token_dim):
                raise ValueError(f"shared must have shape {(num_virtual_tokens, token_dim)}, got {tuple(shared.shape)}")
            with torch.no_grad():
                self.embedding.weight.copy_(shared)
        start = num_ranks**-0.5
        self.prefix_task_cols = nn.Parameter(torch.full((num_tasks, num_virtual_tokens, num_ranks), start))
        self.prefix_task_rows = nn.Parameter(torch.full((num_tasks, num_ranks, token_dim), start))
        if num_ranks > 1:
            # Equal columns would always get equal gradients, so the rank would stay one.
            with torch.no_grad():
                self.prefix_task_cols.mul_(1 + 0.01 * torch.randn_like(self.prefix_task_cols))

    def forward(self, task_ids: Tensor) -> Tensor:
        """Compose the prompts (B, L, H) of rows with task ids (B,); see `promptkernels.compose_prompts`."""
        return compose_prompts(self.embedding.weight, self.prefix_task_cols, self.prefix_task_rows, task_ids)

    def prepend(self, task_ids: Tensor, input_embeds: Tensor) -> Tensor:
        """Prepend the prompts of task ids (B,) to (B, S, H): (B, L+S, H); see `promptkernels.prepend_prompts`."""
        return prepend_prompts(
            self.embedding.weight, self.prefix_task_cols, self.prefix_task_rows, task_ids, input_embeds
        )
