"""Choose the source vectors to merge with the target's: the published rule and its alternatives, all on the device.

A group S of sources has two values, both mean similarities: target similarity TS(S), of its members to the target, and
knowledge consistency KC(S), over its ordered pairs (0 for a single source).

=====================  =========================================================================================
consistent-prefix      published code: sources ranked by similarity to the target; the prefix with the largest KC
best-prefix            paper's objective, greedy: the prefix with the largest TS + lambda KC
best-subset            paper's objective, exact: the subset with the largest TS + lambda KC
consistent-subset      the subset with the largest KC, if that is above 0; else no source
positive               all sources with similarity >= 0 to the target
nearest                the one source most similar to the target
=====================  =========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import promptkernels as pk

RULES = ("consistent-prefix", "best-prefix", "best-subset", "consistent-subset", "positive", "nearest")
MAX_SOURCES = 16  # limit of the search over all 2^K subsets

Rule = Callable[[Tensor, int], Tensor]


def group_rule(name: str, *, consistency_weight: float = 1.0, positive_only: bool = True) -> Rule:
    """Return a rule by name: (similarity (T+1, T+1), index of the target) -> bool (T+1,), the target and its group.

    Args:
        consistency_weight: lambda in TS + lambda KC.
        positive_only: merge only sources with similarity >= 0 to the target. If false, all sources are candidates, and
            the target stays alone if the value of the best group is below 0.
    """
    if name not in RULES:
        raise ValueError(f"group rule: got {name!r}, want one of {', '.join(RULES)}")
    if name == "consistent-prefix" and positive_only:
        return lambda similarity, target: pk.select_group(similarity, target)
    if name == "positive":
        return _positive_group
    similarity_weight = 0.0 if name.startswith("consistent") else 1.0
    if name == "nearest":
        consistency_weight = 0.0  # the mean similarity of a prefix falls with its length
    elif name.startswith("consistent"):
        consistency_weight = 1.0

    return partial(
        best_group,
        subsets=name.endswith("subset"),
        similarity_weight=similarity_weight,
        consistency_weight=consistency_weight,
        positive_only=positive_only,
        agreeing=name == "consistent-subset",
    )


def _positive_group(similarity: Tensor, target: int) -> Tensor:
    group = similarity[:, target] >= 0
    group[target] = True
    return group


@torch.no_grad()
def best_group(
    similarity: Tensor,
    target: int,
    *,
    subsets: bool,
    similarity_weight: float = 1.0,
    consistency_weight: float = 1.0,
    positive_only: bool = True,
    agreeing: bool = False,
) -> Tensor:
    """The target and the group with the largest similarity_weight * TS + consistency_weight * KC; see `group_rule`.

    On a tie, the group that ends earlier in the ranking by similarity to the target wins. Sources or pairs whose
    similarity is not finite are left out. All candidates are evaluated at once, without a copy to the host.

    Args:
        similarity: (T+1, T+1).
        subsets: search all 2^T - 1 subsets of the sources; if false, the T prefixes of their ranking.
        agreeing: merge only a group whose value is above 0. By consistency alone, a single source has value 0.
    """
    count, device = similarity.shape[0] - 1, similarity.device
    if subsets and count > MAX_SOURCES:
        raise ValueError(
            f"a search over all subsets takes at most {MAX_SOURCES} sources, got {count}; use a prefix rule"
        )
    ids = torch.arange(count + 1, device=device)
    to_target = similarity[:, target].double()
    allowed = to_target.isfinite() & (ids != target)
    if positive_only:
        allowed &= to_target >= 0
    ranked = torch.where(allowed, to_target, -torch.inf).argsort(descending=True, stable=True)[:count]
    allowed, near = allowed[ranked], to_target[ranked].nan_to_num()
    pairs = similarity[ranked][:, ranked].double()
    unusable = torch.where(torch.eye(count, dtype=torch.bool, device=device), ~allowed, ~pairs.isfinite()).double()
    pairs = pairs.nan_to_num().fill_diagonal_(0.0)

    members = _candidates(count, subsets, device)
    size = members.sum(dim=1)
    value = similarity_weight * (members @ near) / size
    value = value + consistency_weight * ((members @ pairs) * members).sum(dim=1) / (size * (size - 1)).clamp(min=1)
    value = value.masked_fill(((members @ unusable) * members).sum(dim=1) > 0, -torch.inf)
    best, which = value.max(dim=0, keepdim=True)
    chosen = members.index_select(0, which)[0].bool() & (best > 0 if agreeing else best >= 0)
    group = torch.zeros(count + 1, dtype=torch.bool, device=device).index_copy_(0, ranked, chosen)
    group[target] = True
    return group


def _candidates(count: int, subsets: bool, device: torch.device) -> Tensor:
    """Candidate groups (N, count) as 0 and 1, float64: all nonempty subsets of the ranking, or its prefixes."""
    if not subsets:
        return torch.ones(count, count, dtype=torch.float64, device=device).tril()
    number = torch.arange(1, 2**count, device=device)
    return ((number[:, None] >> torch.arange(count, device=device)) & 1).double()
