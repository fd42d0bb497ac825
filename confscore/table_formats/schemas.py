"""Which columns a table format can hold, and how two schemas differ. Works on Arrow schemas only."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from confscore.errors import TableError

_PARTITION_TYPES = "text, a whole number, a date or true/false"
_NOT_IN_DELTA_NAMES = " ,;{}()\n\t="  # Delta protocol, "Column Mapping": not in names that are not mapped
_KNOWN = (
    pa.types.is_boolean,
    pa.types.is_signed_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_date32,
    pa.types.is_decimal128,
)


def refuse_columns(schema: pa.Schema, partition_by: Sequence[str], table_format: str) -> None:
    """Refuse columns that a table format does not have, or whose values its readers would get changed.

    The formats' libraries take unsigned numbers, half floats and nanoseconds for something near; here they are refused.

    Raises
    ------
    TableError
        The message names the column.
    """
    for field in schema:
        bad = _unknown_type(field.type)
        if bad is not None:
            raise TableError(
                f"column {field.name}: is {bad}, which tables of output.format {table_format} cannot hold unchanged; "
                "cast it in the corpus, or choose output.format parquet"
            )
        if table_format == "delta" and any(mark in field.name for mark in _NOT_IN_DELTA_NAMES):
            raise TableError(
                f"column {field.name!r}: output.format delta allows no spaces and none of ,;{{}}()= in a name; rename "
                "it in the corpus"
            )
    for name in partition_by:
        kind = schema.field(name).type
        tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_date32)
        if not any(test(kind) for test in (*tests, pa.types.is_boolean)):
            raise TableError(
                f"output.partition_by: column {name} is {kind}, and output.format {table_format} takes "
                f"{_PARTITION_TYPES}"
            )


def _unknown_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the first type in a type that not both formats have."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _unknown_type(kind.value_type)
    if pa.types.is_struct(kind):
        found = (_unknown_type(field.type) for field in kind.fields)
        return next((bad for bad in found if bad is not None), None)
    if pa.types.is_timestamp(kind):
        return kind if kind.unit == "ns" or kind.tz not in (None, "UTC") else None
    return None if any(test(kind) for test in _KNOWN) else kind


def first_difference(ours: pa.Schema, theirs: pa.Schema) -> str | None:
    """Return in words how a table's schema differs from the one of scored rows; ``None`` where the rows fit.

    Parameters
    ----------
    ours : pyarrow.Schema
        Of scored rows.
    theirs : pyarrow.Schema
        Of the table, as its library gives it.
    """
    for name in ours.names:
        if name not in theirs.names:
            return f"lacks column {name}"
    for field in theirs:
        if field.name not in ours.names:
            return f"has column {field.name}, which this run does not write"
        own = ours.field(field.name)
        if _plain(own.type) != _plain(field.type):
            return f"has column {field.name} as {_plain(field.type)}, and this run writes {_plain(own.type)}"
        if own.nullable and not field.nullable:
            return f"allows no null in column {field.name}, and this run may write some"
    return None


def different_partitions(ours: Sequence[str], theirs: Sequence[str]) -> str | None:
    """Return in words how a table's partitions differ from those of a run; ``None`` where they do not."""
    if list(ours) == list(theirs):
        return None
    return f"is partitioned by {', '.join(theirs) or 'nothing'}, and this run by {', '.join(ours) or 'nothing'}"


def described(schema: pa.Schema, key: str) -> pa.Schema:
    """Return a schema whose fields have their meaning and unit under the key where a library looks for it."""
    fields = []
    for field in schema:
        about = field.metadata or {}
        words = [about[name].decode() for name in (b"meaning", b"unit") if name in about]
        fields.append(field.with_metadata({key: "; ".join(words)} if words else {}))
    return pa.schema(fields)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return a type without what Arrow alone tells apart: sizes of offsets, names in lists, short integers."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in kind.fields])
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if pa.types.is_integer(kind) and kind.bit_width < 32:
        return pa.int32()
    return {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(kind, kind)
