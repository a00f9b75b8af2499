"""MPT's decomposition: one shared prompt, and low-rank factors per task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import promptkernels as pk
from prompttransfer.prompts.base import PromptModule, speeds


class MultitaskPrompt(PromptModule):
    """P_k = P* o (u_k v_k) (Wang et al. 2023, eq. 2); P* (L, H), u (T, L, R), v (T, R, H).

    Args:
        shared: P*.
        tasks, rank, start: T, R and kind of `starting_factors`; used if u and v are None.
        u, v: factors of all tasks.
    """

    def __init__(
        self,
        shared: Tensor,
        tasks: int = 1,
        rank: int = 1,
        *,
        u: Tensor | None = None,
        v: Tensor | None = None,
        start: str = "ones",
    ) -> None:
        super().__init__(*shared.shape)
        first_u, first_v = starting_factors(tasks, self.length, self.hidden_size, rank, kind=start)
        self.shared = nn.Parameter(shared.detach().float().clone())
        self.u = nn.Parameter(first_u if u is None else _copy(u))
        self.v = nn.Parameter(first_v if v is None else _copy(v))

    @property
    def count(self) -> int:
        return self.u.shape[0]

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return pk.prepend_prompts(self.shared, self.u, self.v, self.ids_of_rows(task_ids, input_embeds), input_embeds)

    @torch.no_grad()
    def composed(self, task: int = 0) -> Tensor:
        ids = torch.tensor([task], device=self.shared.device)
        return pk.compose_prompts(self.shared, self.u, self.v, ids)[0]

    def train_only(self, part: str) -> None:
        """Freeze everything but a part: "both" (freezes nothing), "shared" (freezes u and v) or "factors" (freezes P*).

        Raises:
            ValueError: the part is unknown.
        """
        if part not in ("both", "shared", "factors"):
            raise ValueError(f"part: got {part!r}, want both, shared or factors")
        self.shared.requires_grad_(part != "factors")
        self.u.requires_grad_(part != "shared")
        self.v.requires_grad_(part != "shared")

    def parameter_groups(self, learning_rate: float, factor_learning_rate: float | None = None) -> list[dict[str, Any]]:
        """Groups of P* at learning_rate, and of u and v at factor_learning_rate. Default: learning_rate."""
        return speeds(learning_rate, ([self.shared], None), ([self.u, self.v], factor_learning_rate))


def _copy(factor: Tensor) -> Tensor:
    # Contiguous even for a view: gradients are contiguous, and processes exchange them in the parameter's layout.
    return factor.detach().float().clone(memory_format=torch.contiguous_format)


def starting_factors(
    tasks: int, length: int, hidden: int, rank: int = 1, *, kind: str = "ones"
) -> tuple[Tensor, Tensor]:
    """Initial u (T, L, R) and v (T, R, H).

    "ones": 1 / sqrt(R), so that every P_k starts at P*. "normal": N(0, 0.02^2) as in PEFT, so that P_k starts near 0.
    """
    generator = torch.Generator().manual_seed(0)
    u_noise = torch.randn(tasks, length, rank, generator=generator)
    if kind == "normal":
        return 0.02 * u_noise, 0.02 * torch.randn(tasks, rank, hidden, generator=generator)
    if kind != "ones":
        raise ValueError(f"kind: got {kind!r}, want ones or normal")
    u = torch.full((tasks, length, rank), rank**-0.5)
    # Equal columns would always get equal gradients, so the rank would stay one.
    return u + (0.01 * u * u_noise if rank > 1 else 0), torch.full((tasks, rank, hidden), rank**-0.5)


def mean_factors(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Means of u (T, L, R) and of v (T, R, H) over the tasks, as in PEFT: (1, L, R), (1, R, H)."""
    return u.mean(dim=0, keepdim=True), v.mean(dim=0, keepdim=True)


def average_factors(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Best rank-R fit of the mean task matrix: u (T, L, R), v (T, R, H) -> (1, L, R), (1, R, H).

    Separate means of u and v may cancel, because (u, v) and (-u, -v) are the same task. So the fit is to the mean of
    W_k = u_k v_k, by truncated SVD. Each component has factors of equal root mean square and a u with sum >= 0.
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
