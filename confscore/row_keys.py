"""Sets of row keys: which rows of a corpus are staged, or in a finished file.

Roaring bitmaps keep them: rows are scored in runs, so that 10⁹ keys take kilobytes. Where a table is partitioned by a
column that changes with every row, they take two bytes a row at most; and each file of a corpus takes about 90 bytes,
which is what a row takes where every file has only one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyroaring import BitMap64

from confscore.corpus import ROW_KEY

RowKeys = BitMap64


def row_keys(table: pa.Table) -> RowKeys:
    """Return the keys of a table's rows."""
    keys = RowKeys(_keys(table))
    keys.run_optimize()
    return keys


def without(table: pa.Table, staged: RowKeys) -> pa.Table:
    """Return the rows of a table whose keys are not among the ``staged`` ones."""
    keys = _keys(table)
    known = staged & RowKeys(keys)
    return table.filter(pa.array(~np.isin(keys, known.to_array()))) if known else table


def repeated(table: pa.Table) -> RowKeys:
    """Return the keys that more than one row of a table has."""
    keys = np.sort(_keys(table))
    return RowKeys(keys[1:][keys[1:] == keys[:-1]])


def _keys(table: pa.Table) -> npt.NDArray[np.uint64]:
    return np.asarray(table[ROW_KEY].to_numpy(), dtype=np.uint64)
