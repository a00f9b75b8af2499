"""Whether two task vectors are alike beyond chance: a sign-flip test over their tokens.

With p_i the dot product of token i of both vectors, z = sum_i p_i / sqrt(sum_i p_i^2). If the tasks had nothing in
common, the sign of every p_i would be a coin flip, and z would have mean 0 and variance 1. Related vectors agree in
nearly every token, and z comes close to its maximum sqrt(L).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

import promptkernels as pk


@dataclass(frozen=True)
class SignTest:
    """Sources tested against a target, in their order.

    Attributes:
        cosine, z: of each source's task vector with the target's.
        level: the z that a related source reaches.
    """

    cosine: Sequence[float]
    z: Sequence[float]
    level: float

    @property
    def related(self) -> list[int]:
        """Places of the sources that pass."""
        return [place for place, z in enumerate(self.z) if z >= self.level]

    def note(self, names: Sequence[str]) -> str:
        """Such as "related: amazon (z 3.9), tweets (z 3.9)"."""
        shown = [f"{names[place]} (z {self.z[place]:.1f})" for place in self.related]
        return f"related: {', '.join(shown)}" if shown else "no related source: prompt tuning"

    def history(self) -> dict[str, Any]:
        """For JSON; `SignTest(**history)` is the test again."""
        return asdict(self)


def sign_test(own: Tensor, sources: Tensor, start: Tensor, level: float) -> SignTest:
    """Test sources (K, L, H) against a target's prompt (L, H); all of them were tuned from start (L, H).

    Args:
        level: share of the largest z, sqrt(L), that a related source reaches, 0 to 1.
    """
    cosine, z = pk.task_similarity(own[None], start, sources, return_z=True)
    return SignTest(cosine[0].tolist(), z[0].tolist(), level * math.sqrt(own.shape[0]))
