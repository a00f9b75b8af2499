"""Training curves and other facts that the report draws, one file for each row of the results.

Methods write them as a dictionary. Your own method may add entries, which the report ignores.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic cannot see missing keys of Python 3.10's and 3.11's own

from prompttransfer.settings.base import Number
from prompttransfer.settings.recipes import checked

Curve = list[Annotated[list[Number], Field(min_length=2, max_length=2)]]  # [update, value], from update 1


class Similarity(TypedDict):
    """Cosines (T, T) of the task vectors of named tasks. The target's own, if present, comes last."""

    names: list[str]
    matrix: list[list[Number]]


class Related(TypedDict):
    """Sign-flip test of the named sources against the target, see `prompttransfer.methods.related.sign_test`."""

    names: list[str]
    cosine: list[Number]
    z: list[Number]
    level: Number


class Particles(TypedDict, total=False):
    """BMTPT's source stage: mean distance between the particles, and bandwidth of their kernel."""

    mean_distance: Curve
    bandwidth: Curve


def _square(similarity: Similarity) -> Similarity:
    size = len(similarity["names"])
    if len(similarity["matrix"]) != size or any(len(line) != size for line in similarity["matrix"]):
        raise ValueError(f"want a matrix of {size} rows and columns, one for each name")
    return similarity


def _one_each(related: Related) -> Related:
    if not len(related["names"]) == len(related["cosine"]) == len(related["z"]):
        raise ValueError("want one cosine and one z for each name")
    return related


Group = tuple[int, list[str]]  # JSON has a list


def _in_order(groups: list[Group]) -> list[Group]:
    updates = [update for update, _ in groups]
    if updates != sorted(set(updates)):
        raise ValueError("want increasing updates")
    return groups


class History(TypedDict, total=False):
    """Training history of one target and seed.

    Attributes:
        loss: loss on the target's rows; source_loss: loss on the rows of all sources, if they train together.
        groups: pairs of an update and the sources merged in it.
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
    """Validate the content of a history file."""
    return checked(_HISTORY.validate_python, content, what)
