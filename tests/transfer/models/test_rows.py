"""Training rows in flat arrays: the rows that went in come out."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompttransfer.models.rows import EncodedRow, EncodedRows

TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
ROWS = st.lists(st.builds(EncodedRow, TOKENS, TOKENS, st.integers(0, 9)), max_size=8)


@given(ROWS)
def test_rows_come_out_as_they_went_in(rows: list[EncodedRow]) -> None:
    packed = EncodedRows.of(rows)
    assert list(packed) == rows and len(packed) == len(rows)
    assert packed[1:-1] == rows[1:-1] and packed.lengths == [len(row.ids) for row in rows]
    assert list(EncodedRows.from_tensors(packed.tensors())) == rows
    assert EncodedRows.of(packed) is packed
    if rows:
        assert packed[-1] == rows[-1]
    with pytest.raises(IndexError):
        packed[len(rows)]


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_rows_of_several_tasks_know_their_task(parts: list[list[EncodedRow]]) -> None:
    joined = EncodedRows.one_task_each(parts)
    assert list(joined) == [EncodedRow(row.ids, row.answer, task) for task, part in enumerate(parts) for row in part]


@given(ROWS, ROWS)
def test_the_digest_is_of_the_content(left: list[EncodedRow], right: list[EncodedRow]) -> None:
    assert (EncodedRows.of(left).digest == EncodedRows.of(right).digest) == (left == right)


def test_a_hundred_thousand_rows_take_little_room() -> None:
    def many():
        return (EncodedRow(tuple(range(index % 3, 60 + index % 3)), (1000 + index % 9,)) for index in range(100_000))

    tracemalloc.start()
    rows = EncodedRows.of(many())
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 4 bytes a token, 20 bytes for the ends and the task.
    assert size < 1.1 * 100_000 * (4 * 61 + 20) and peak < 2.5 * size
    assert rows[99_999].answer == (1000,)
