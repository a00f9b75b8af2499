"""Test whether two task vectors are more similar than by chance: a sign-flip test over their tokens.

Let p_i be the dot product of token i of both vectors, and z = sum_i p_i / sqrt(sum_i p_i^2). If the tasks have nothing
in common, the sign of every p_i is a coin flip, and z has mean 0 and variance 1. Related vectors agree in nearly every
token, and z comes close to its maximum sqrt(L).
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
    """Result of testing sources against a target, in the order of the sources.

    Attributes:
        cosine, z: cosine and z of each source's task vector with the target's.
        level: smallest z of a related source.
    """

    cosine: Sequence[float]
    z: Sequence[float]
    level: float

    @property
    def related(self) -> list[int]:
        """Indices of the sources that pass the test."""
        return [place for place, z in enumerate(self.z) if z >= self.level]

    def note(self, names: Sequence[str]) -> str:
        """A note such as "related: amazon (z 3.9), tweets (z 3.9)"."""
        shown = [f"{names[place]} (z {self.z[place]:.1f})" for place in self.related]
        return f"related: {', '.join(shown)}" if shown else "no related source: prompt tuning"

    def history(self) -> dict[str, Any]:
        """The test as JSON data, so that `SignTest(**history)` restores it."""
        return asdict(self)


def sign_test(own: Tensor, sources: Tensor, start: Tensor, level: float) -> SignTest:
    """Test sources (K, L, H) against a target's prompt (L, H), all tuned from start (L, H).

    Args:
        level: smallest z of a related source, as a fraction (0 to 1) of the maximum sqrt(L).
    """
    cosine, z = pk.task_similarity(own[None], start, sources, return_z=True)
    return SignTest(cosine[0].tolist(), z[0].tolist(), level * math.sqrt(own.shape[0]))
