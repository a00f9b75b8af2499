"""MPT's decomposition: one shared prompt, and a low-rank factor per task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import promptkernels as pk
from prompttransfer.prompts.base import PromptModule


class MultitaskPrompt(PromptModule):
    """P_k = P* o (u_k v_k) (Wang et al. 2023, eq. 2); P* (L, H), u (T, L, R), v (T, R, H).

    Without given factors the tasks start at u = v = 1 / sqrt(R), so that every P_k starts at P*.
    """

    def __init__(
        self, shared: Tensor, tasks: int = 1, rank: int = 1, *, u: Tensor | None = None, v: Tensor | None = None
    ) -> None:
        super().__init__(*shared.shape)
        ones = rank**-0.5
        self.shared = nn.Parameter(shared.detach().float().clone())
        self.u = nn.Parameter(torch.full((tasks, self.length, rank), ones) if u is None else u.detach().float().clone())
        self.v = nn.Parameter(
            torch.full((tasks, rank, self.hidden_size), ones) if v is None else v.detach().float().clone()
        )
        if rank > 1 and u is None:
            # Equal columns would receive equal gradients for ever: the rank would stay one.
            noise = torch.Generator().manual_seed(0)
            with torch.no_grad():
                self.u += 0.01 * ones * torch.randn(self.u.shape, generator=noise)

    @property
    def tasks(self) -> int:
        return self.u.shape[0]

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if task_ids is None:
            if self.tasks > 1:
                raise ValueError(
                    f"task_ids: got none, want one id in 0..{self.tasks - 1} per row of a {self.tasks}-task prompt"
                )
            task_ids = torch.zeros(input_embeds.shape[0], dtype=torch.int64, device=input_embeds.device)
        return pk.prepend_prompts(self.shared, self.u, self.v, task_ids, input_embeds)

    @torch.no_grad()
    def composed(self, task: int = 0) -> Tensor:
        ids = torch.tensor([task], device=self.shared.device)
        return pk.compose_prompts(self.shared, self.u, self.v, ids)[0]

    def parameter_groups(self, learning_rate: float, factor_learning_rate: float | None = None) -> list[dict[str, Any]]:
        """Two speeds: P* at learning_rate, u and v at factor_learning_rate (the same when not given)."""
        factors = learning_rate if factor_learning_rate is None else factor_learning_rate
        return [{"params": [self.shared], "lr": learning_rate}, {"params": [self.u, self.v], "lr": factors}]


def average_factors(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Best rank-R fit of the mean task matrix: u (T, L, R), v (T, R, H) -> (1, L, R), (1, R, H).

    Means of u and of v would cancel, because (u, v) and (-u, -v) are the same task; so the mean of W_k = u_k v_k is
    fitted (truncated SVD). Every component gets factors of equal root mean square and a u of non-negative sum.
    """
    rank = u.shape[2]
    left, values, right = torch.linalg.svd((u.double() @ v.double()).mean(dim=0), full_matrices=False)
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    sign = torch.where(left.sum(dim=0) < 0, -1.0, 1.0).to(left)
    length, hidden = left.shape[0], right.shape[1]
    size = (values / (length * hidden) ** 0.5).sqrt() * sign
    new_u = left * (size * length**0.5)
    new_v = right * (size * hidden**0.5)[:, None]
    return new_u[None].to(u.dtype), new_v[None].to(v.dtype)
