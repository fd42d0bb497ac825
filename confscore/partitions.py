"""Partition columns become folders: names and values that no folder can have are found before they are written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from confscore.errors import ConfigError
from confscore.words import printable

_LONGEST_NAME = 255  # bytes of a file name, on nearly every file system
_FORBIDDEN = ("/", "\\", "=", "%")


def refuse_names(partition_by: Sequence[str]) -> None:
    """Refuse columns that would become other folders than ``column=value``, or folders that no reader looks into.

    Values are escaped in folder names; names of columns are not.

    Raises
    ------
    ConfigError
        The message names the column.
    """
    for name in partition_by:
        bad = next((mark for mark in _FORBIDDEN if mark in name), None)
        if bad is not None or not name or not name.isprintable():
            what = f"has a {bad!r} in its name" if bad else "is no printable name"
            raise ConfigError(f"output.partition_by: {printable(name)!r} {what}, which no folder can have; rename it")
        if name[0] in ("_", "."):
            raise ConfigError(
                f"output.partition_by: the folders of {name} would start with {name[0]}, and readers look into no such "
                "folder; rename it"
            )


def without_bad_values(table: pa.Table, partition_by: Sequence[str]) -> pa.Table:
    """Give rows a fault whose partition value cannot be the name of a folder, and no value in its place.

    A zero character would end the name, so that other values came out of the table than went into it.

    Parameters
    ----------
    table : pyarrow.Table
        Corpus rows, with a column ``fault``.
    partition_by : sequence of str
        Columns that become folders.
    """
    for name in partition_by:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        bad = np.array([value is not None and _no_folder(name, value) for value in column.to_pylist()], dtype=bool)
        if not bad.any():
            continue
        fault = f"{name} (output.partition_by) has a value that cannot be the name of a folder"
        mask = pa.array(bad)
        faults = pc.if_else(mask, pc.coalesce(table["fault"], fault), table["fault"])
        cleared = pc.if_else(mask, pa.scalar(None, column.type), column).cast(table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index("fault"), table.schema.field("fault"), faults)
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), cleared)
    return table


def _no_folder(name: str, value: str) -> bool:
    return "\0" in value or len(os.fsencode(f"{name}={quote(value, safe='')}")) > _LONGEST_NAME
