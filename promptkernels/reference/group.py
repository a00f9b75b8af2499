"""DTVG's choice of source tasks, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def select_group(similarity: Tensor, target: int) -> Tensor:
    sim = similarity.to(torch.float64)
    n = sim.shape[0]
    to_target = sim[:, target]
    eligible = to_target >= 0
    eligible[target] = False
    order = torch.where(eligible, to_target, -torch.inf).argsort(descending=True, stable=True)
    ranked = sim[order][:, order].fill_diagonal_(0.0)
    size = torch.arange(1, n + 1, device=sim.device, dtype=sim.dtype)
    pairs = (size * (size - 1)).clamp_min(1)
    consistency = ranked.cumsum(0).cumsum(1).diagonal() / pairs
    consistency = torch.where(eligible[order], consistency, -torch.inf).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
    chosen = (torch.arange(n, device=sim.device) <= consistency.argmax()) & eligible[order]
    chosen = torch.zeros_like(eligible).index_copy_(0, order, chosen)
    chosen[target] = True
    return chosen
