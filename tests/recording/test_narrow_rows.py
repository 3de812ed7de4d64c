"""Rows of tallies are read as narrow columns, which mean the same as those that were written."""

from __future__ import annotations

import numpy as np
import pytest

from gradprobe.recording.op_rows import ROW_DTYPES, OpCounts, concatenate, make_rows, pack_rows, unpack_rows

ROWS = {
    "small": [(1 << 60, 7, *OpCounts(calls=255))],
    "larger": [(2, 1 << 20, *OpCounts(calls=256, nodes=1 << 40))],
    "negative": [(3, 1, *OpCounts(calls=-1, nodes=2))],
}


def test_narrow_rows_have_the_numbers_that_were_written() -> None:
    parts = []
    for rows in ROWS.values():
        written = make_rows("tallies", rows)
        read = unpack_rows("tallies", pack_rows("tallies", written), len(rows))
        assert read.tolist() == rows
        assert read.itemsize < written.itemsize
        parts.append({"tallies": read})
    joined = concatenate(parts)["tallies"]
    assert joined.tolist() == [row for rows in ROWS.values() for row in rows]
    again = unpack_rows("tallies", pack_rows("tallies", joined), len(joined))
    assert again.tolist() == joined.tolist(), "a recording that was read can be saved"


@pytest.mark.parametrize("kind", sorted(set(ROW_DTYPES) - {"tallies"}))
def test_other_rows_keep_their_layout(kind: str) -> None:
    written = np.ones(3, ROW_DTYPES[kind])
    read = unpack_rows(kind, pack_rows(kind, written), 3)
    assert read.dtype == written.dtype
    assert read.tolist() == written.tolist()


def test_no_rows_are_read_as_none() -> None:
    assert len(unpack_rows("tallies", pack_rows("tallies", make_rows("tallies", [])), 0)) == 0
