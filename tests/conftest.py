"""Fixtures and hooks shared by all tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that compile first, because they take longest and would keep one process busy at the end."""
    items.sort(key=lambda item: item.get_closest_marker("native") is None)


@pytest.fixture(autouse=True, scope="module")
def imported_modules_are_no_garbage() -> None:
    """Every training looks for garbage, and without this among all that was ever imported: half a second each time."""
    gc.freeze()


@pytest.fixture
def methods_restored() -> Iterator[None]:
    """Undo registrations after each test."""
    from prompttransfer.methods import METHODS
    from prompttransfer.settings.run import RunConfig

    kept = [dict(table) for table in (METHODS, RunConfig.known, RunConfig.__pydantic_fields__)]
    yield
    for table, content in zip((METHODS, RunConfig.known, RunConfig.__pydantic_fields__), kept, strict=True):
        table.clear()
        table.update(content)
    RunConfig.model_rebuild(force=True)
