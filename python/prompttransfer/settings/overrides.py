"""Settings of a run that can be overridden for single targets and methods."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from prompttransfer.settings.base import Settings

Epochs = Annotated[float, Field(gt=0)]


class TaskSettings(Settings):
    """Settings of a single task; null: as in the run."""

    target_epochs: Epochs | None = None
    """Epochs over the training rows of the task."""
    target_updates: int | None = Field(None, ge=1)
    """Number of updates. Replaces target_epochs."""
    target_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate."""
    batch_size: int | None = Field(None, ge=1)
    """Rows per update."""
    max_length: int | None = Field(None, ge=1)
    """Maximum number of text tokens per row. Overrides the length that the task sets itself."""

    @model_validator(mode="after")
    def _one_budget(self) -> TaskSettings:
        if self.target_epochs is not None and self.target_updates is not None:
            raise ValueError(
                f"got target_epochs={self.target_epochs} and target_updates={self.target_updates}; want one"
            )
        return self


class MethodSettings(Settings):
    """Settings of a single method; null: as in the run. There are no budgets, which are the same for all methods."""

    target_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate on target rows."""
