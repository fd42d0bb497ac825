"""Sets of row keys against plain sets of numbers."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confscore.corpus import ROW_KEY
from confscore.row_keys import RowKeys, repeated, row_keys, without

# Few files and rows, so that keys meet; 2**40 rows a file, as in a corpus.
KEYS = st.lists(st.builds(lambda file, row: (file << 40) + row, st.integers(0, 3), st.integers(0, 300)), max_size=60)


def a_table(keys: list[int]) -> pa.Table:
    return pa.table({ROW_KEY: pa.array(keys, pa.int64()), "place": pa.array(range(len(keys)), pa.int64())})


@given(KEYS, KEYS)
def test_what_is_staged_is_left_out_and_the_rest_keeps_its_order(keys: list[int], staged: list[int]) -> None:
    left = without(a_table(keys), row_keys(a_table(staged)))
    assert left.to_pylist() == [
        {ROW_KEY: key, "place": place} for place, key in enumerate(keys) if key not in set(staged)
    ]


@given(KEYS)
def test_keys_of_several_rows_are_told(keys: list[int]) -> None:
    assert list(row_keys(a_table(keys))) == sorted(set(keys))
    assert list(repeated(a_table(keys))) == sorted({key for key in keys if keys.count(key) > 1})


@pytest.mark.parametrize(("step", "most"), [(1, 1_000), (2, 140_000), (50, 50_000)])
def test_a_set_takes_two_bytes_a_row_at_most_and_next_to_nothing_for_rows_in_a_run(step: int, most: int) -> None:
    rows = np.arange(0, 1_000_000, step, dtype=np.int64)
    keys = row_keys(pa.table({ROW_KEY: rows + (5 << 40)}))
    assert len(keys) == len(rows)
    sent = pickle.dumps(keys)
    assert len(sent) < most
    assert pickle.loads(sent) == keys
    assert isinstance(pickle.loads(sent), RowKeys)
