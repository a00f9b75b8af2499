"""What all tests share."""

from __future__ import annotations

import gc

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What compiles takes longest, so it comes first: no process is left alone with it in the end."""
    items.sort(key=lambda item: item.get_closest_marker("native") is None)


@pytest.fixture(autouse=True, scope="module")
def imported_modules_are_no_garbage() -> None:
    """Every training looks for garbage, and without this among all that was ever imported: half a second each time."""
    gc.freeze()
