"""What a run keeps of a training beside its results: a file for each row, which the report draws.

Methods write it as a dictionary; a method that is not the package's may add entries of its own, which nobody draws.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter
from typing_extensions import TypedDict  # that of Python 3.10 and 3.11 does not tell pydantic what may be missing

from prompttransfer.settings.base import Number
from prompttransfer.settings.recipes import checked

Curve = list[Annotated[list[Number], Field(min_length=2, max_length=2)]]  # [update, value], from update 1


class Similarity(TypedDict):
    """Cosines (T, T) of the task vectors of named tasks; the target's own, where it is there, is the last."""

    names: list[str]
    matrix: list[list[Number]]


class Related(TypedDict):
    """The sign-flip test of the named sources against the target, see `prompttransfer.prompts.sign_test`."""

    names: list[str]
    cosine: list[Number]
    z: list[Number]
    level: Number


class Particles(TypedDict, total=False):
    """Of BMTPT's source stage: mean distance between the particles, bandwidth of their kernel."""

    mean_distance: Curve
    bandwidth: Curve


def _square(found: Similarity) -> Similarity:
    size = len(found["names"])
    if len(found["matrix"]) != size or any(len(line) != size for line in found["matrix"]):
        raise ValueError(f"want a matrix of {size} rows and columns, as there are names")
    return found


def _one_each(found: Related) -> Related:
    if not len(found["names"]) == len(found["cosine"]) == len(found["z"]):
        raise ValueError("want one cosine and one z for each name")
    return found


Group = tuple[int, list[str]]  # JSON has a list


def _in_order(groups: list[Group]) -> list[Group]:
    updates = [update for update, _ in groups]
    if updates != sorted(set(updates)):
        raise ValueError("want updates that increase")
    return groups


class History(TypedDict, total=False):
    """Of one target and seed.

    Attributes:
        loss: on the target's rows; source_loss: on those of all sources, where they are trained together.
        groups: (update, the sources merged in it).
        attention: mean weight over the training rows, by prompt.
    """

    loss: Curve
    source_loss: Curve
    groups: Annotated[list[Group], AfterValidator(_in_order)]
    similarity: Annotated[Similarity, AfterValidator(_square)]
    related: Annotated[Related, AfterValidator(_one_each)]
    particles: Particles
    attention: dict[str, Number]


_HISTORY = TypeAdapter(History)


def read_history(content: Any, what: str) -> History:
    """A history as it stands in its file.

    Raises:
        ValueError: begins with `what`, then a line for each place that is not as it should be.
    """
    return checked(_HISTORY, content, what)
