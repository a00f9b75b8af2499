"""Every backend that can run here, one test id each."""

from __future__ import annotations

import pytest

import promptkernels as pk

AVAILABLE = [name for name, status in pk.backends().items() if status.available and "cuda" not in status.devices]


@pytest.fixture(params=AVAILABLE)
def backend(request):
    with pk.use_backend(request.param):
        yield request.param
