"""Sets of tickets: which launch of the CUDA backend counts where."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest

from promptkernels.backends.cuda import Tickets

FIRST, TICKETS = 1 << 20, 256


def tickets(sets: int = 4) -> Tickets:
    return Tickets(SimpleNamespace(TICKETS=TICKETS, TICKET_SETS=sets, ticket_sets=lambda: FIRST))


def test_eager_calls_share_a_set_by_stream_and_captured_calls_share_none() -> None:
    pool = tickets()
    one, other = pool.of(0, 7, False), pool.of(0, 8, False)
    captured = [pool.of(0, 7, True), pool.of(0, 7, True)]
    assert one == FIRST == pool.of(0, 7, False) and other == pool.of(0, 8, False)
    assert {one, other, *captured} == {FIRST + 4 * TICKETS * place for place in range(4)}


def test_devices_have_sets_of_their_own() -> None:
    pool = tickets(1)
    assert pool.of(0, 7, False) == FIRST == pool.of(1, 7, False)
    assert pool.of(0, 8, False) is None


def test_without_a_free_set_there_is_none() -> None:
    pool = tickets(2)
    assert pool.of(0, 7, True) is None  # before the first eager call: the module may not be loaded yet
    pool.of(0, 7, False)
    assert pool.of(0, 7, True) is not None
    assert pool.of(0, 7, True) is None and pool.of(0, 8, False) is None
    assert pool.of(0, 7, False) == FIRST


@pytest.mark.emulation
@pytest.mark.slow
def test_the_sets_of_the_module_are_zero_and_apart(emulated_backend) -> None:
    native = sys.modules["promptkernels._C_cuda_emulated"]
    size = native.TICKETS * native.TICKET_SETS
    counters = (ctypes.c_uint32 * size).from_address(native.ticket_sets())
    assert native.ticket_sets() == native.ticket_sets() and not any(counters)
