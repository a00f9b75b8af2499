"""DTVG's greedy prefix rule in one program, without a copy to the host."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from promptkernels.backends.many_rows import in_plain_torch
from promptkernels.backends.triton_kernels.launch import launch
from promptkernels.reference.group import select_group as group_of_many

# The similarities are one tile of one program. A tile of 128 rows needs 128 KB of shared memory, which many GPUs lack,
# so plain torch is used beyond 64 rows.
MOST_ROWS = 64


@triton.jit(do_not_specialize=["n", "target"])
def select_kernel(chosen, similarity, n, target, size: tl.constexpr):
    """The sources up to the most consistent prefix of their ranking, and the target."""
    s = tl.arange(0, size)
    value = tl.load(similarity + s * n + target, mask=s < n, other=-1.0).to(tl.float64)
    eligible = (value >= 0) & (s < n) & (s != target)
    value = tl.where(eligible, value, -1.0)
    # before[i, j]: source j is ranked before source i
    before = (value[None, :] > value[:, None]) | ((value[None, :] == value[:, None]) & (s[None, :] < s[:, None]))
    before = before & eligible[None, :] & eligible[:, None]
    rank = tl.sum(before.to(tl.int32), 1)
    inside = (s < n)[:, None] & (s < n)[None, :]
    pair = tl.load(similarity + s[:, None] * n + s[None, :], mask=inside, other=0.0).to(tl.float64)
    pair += tl.load(similarity + s[None, :] * n + s[:, None], mask=inside, other=0.0).to(tl.float64)
    gain = tl.sum(tl.where(before, pair, 0.0), 1)
    upto = (before | (s[None, :] == s[:, None])) & eligible[None, :] & eligible[:, None]
    total = tl.sum(tl.where(upto, gain[None, :], 0.0), 1)
    consistency = total / tl.maximum(rank * (rank + 1), 1).to(tl.float64)
    # NaN ends no group; on a tie, the first prefix wins
    usable = eligible & (consistency == consistency)
    best = tl.max(tl.where(usable, consistency, -float("inf")), 0)
    last = tl.min(tl.where(usable & (consistency == best), rank, size), 0)
    group = (s == target) | (eligible & (rank <= last) & (last < size))
    tl.store(chosen + s, group, mask=s < n)


def select_group(similarity: Tensor, target: int) -> Tensor:
    n = similarity.shape[0]
    if n > MOST_ROWS:
        return in_plain_torch(group_of_many, similarity, target)
    similarity = similarity.contiguous()
    chosen = torch.empty(n, dtype=torch.bool, device=similarity.device)
    size = max(16, triton.next_power_of_2(n))
    launch(select_kernel, (1,), chosen, similarity, n, target, size=size, num_warps=8 if size > 32 else 4)
    return chosen
