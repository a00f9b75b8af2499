"""What all tests share."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def imported_modules_are_no_garbage() -> None:
    """Every training looks for garbage, and without this among all that was ever imported: half a second each time."""
    gc.freeze()
