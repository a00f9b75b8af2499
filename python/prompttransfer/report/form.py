"""The form of results.json and of the histories, as far as a report relies on it: a run folder may be anybody's."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from prompttransfer.settings.recipes import explain

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Series = list[Annotated[tuple[Number, Number], Field(strict=False)]]  # JSON has lists


def by_metric(given: Any) -> Any:
    """Scores by metric; also of a run of version 0.1, which has them as text, rounded: "f1 81.2, macro-f1 79.0"."""
    if not isinstance(given, str):
        return given
    parts = [part.rpartition(" ") for part in given.split(", ") if part]
    return {metric: float(value) for metric, _, value in parts}


class _Form(BaseModel):
    """What else is there is passed over; what may be missing has a default."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Scored(_Form):
    """What a row of results and a source prompt share."""

    seed: int
    score: Number
    majority: Number
    zero_shot: Number
    collapsed: bool
    test_rows: Count
    train_rows: Count
    leaked_rows: Count = 0
    skipped_rows: Count = 0
    prompt: str | None = None


class SourceRow(Scored):
    source: str
    metric: str = ""
    updates: Count


class Row(Scored):
    method: str
    target: str
    metric: str
    trainable_parameters: Count
    target_updates: Count
    target_examples: Count
    source_updates: Count
    seconds: Number
    scoring: str = ""
    notes: str = ""
    other_scores: Annotated[dict[str, Number], BeforeValidator(by_metric)] = {}


class Content(_Form):
    rows: list[Row]
    sources: list[SourceRow] = []
    settings: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    versions: dict[str, Any] = {}


class Similarity(_Form):
    names: list[str]
    matrix: list[list[Number]]

    @model_validator(mode="after")
    def _square(self) -> Similarity:
        size = len(self.names)
        if len(self.matrix) != size or any(len(line) != size for line in self.matrix):
            raise ValueError(f"matrix: want {size} rows and columns, as there are names")
        return self


class Particles(_Form):
    mean_distance: Series = []
    bandwidth: Series = []


class Related(_Form):
    names: list[str]
    cosine: list[Number]
    z: list[Number]
    level: Number

    @model_validator(mode="after")
    def _one_each(self) -> Related:
        if not len(self.names) == len(self.cosine) == len(self.z):
            raise ValueError("related: want one cosine and one z for each name")
        return self


class History(_Form):
    loss: Series = []
    groups: list[Annotated[tuple[Number, list[str]], Field(strict=False)]] | None = None
    similarity: Similarity | None = None
    related: Related | None = None
    particles: Particles | None = None
    attention: dict[str, Number] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> History:
        updates = [update for update, _ in self.groups or []]
        if updates != sorted(set(updates)):
            raise ValueError("groups: want updates that increase")
        return self


def check_form(form: type[_Form], content: Any, what: str) -> None:
    """Check what JSON holds.

    Raises:
        ValueError: begins with `what`, then a line for each place that is not as it should be.
    """
    try:
        form.model_validate(content)
    except ValidationError as error:
        raise ValueError("\n".join(f"{what}: {text}" for _, text in explain(error))) from error
