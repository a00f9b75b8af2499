"""What tests of every folder may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def methods_restored() -> Iterator[None]:
    """What a test registers stays in this test."""
    from prompttransfer.methods import METHODS
    from prompttransfer.settings.run import RunConfig

    kept = [dict(table) for table in (METHODS, RunConfig.known, RunConfig.__pydantic_fields__)]
    yield
    for table, content in zip((METHODS, RunConfig.known, RunConfig.__pydantic_fields__), kept, strict=True):
        table.clear()
        table.update(content)
    RunConfig.model_rebuild(force=True)
