"""A corpus is looked at before it is read: names, footers and headers, and what could not be scored is refused."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs

from confscore.config import InputConfig
from confscore.corpus.files import CorpusFile, find_files, resolve
from confscore.corpus.formats import Part, csv_header, jsonl_keys, parquet_parts
from confscore.corpus.reader import RowReader
from confscore.corpus.stores import patiently
from confscore.errors import CorpusError, StoreError
from confscore.words import name_list

PART_BYTES = 32 << 20
_LOOKS_AT_ONCE = 16
_KEYS_FROM = 16
"""So many JSONL files are looked into; the keys of the first one that can be read are taken for all."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus that has been looked at and can be read.

    Attributes
    ----------
    reader : RowReader
        Reads its parts.
    files : tuple of CorpusFile
        All files, in the order of their names.
    parts : tuple of Part
        All of them, cut into pieces of work; together they hold every row once.
    ignored : tuple of str
        Names of files that were found and do not look like the configured format.
    bad : tuple of (str, str)
        Path and reason of files that cannot be read and are skipped, as ``on_bad_file: skip`` asks for.
    """

    reader: RowReader
    files: tuple[CorpusFile, ...]
    parts: tuple[Part, ...]
    ignored: tuple[str, ...]
    bad: tuple[tuple[str, str], ...] = ()

    @property
    def rows(self) -> int | None:
        """Return how many rows there are, where the files' footers tell."""
        known = [part.rows for part in self.parts if part.rows is not None]
        return sum(known) if len(known) == len(self.parts) else None


def open_corpus(config: InputConfig, carry: Sequence[str] = ()) -> Corpus:
    """Look at a corpus without reading it.

    Parameters
    ----------
    config : InputConfig
        Where it is and which columns it has.
    carry : sequence of str
        Columns to pass through besides ``config.carry_columns``: partition keys or columns of the files.

    Raises
    ------
    CorpusError
        There is no such corpus, a file is unreadable, or a column is missing or of a wrong type.
    """
    files, ignored = find_files(config.path, config.format, follow_links=config.follow_links, where=config.where)
    filesystem, _ = resolve(config.path)
    carried = tuple(dict.fromkeys([*config.carry_columns, *carry]))
    try:
        with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
            looks = list(pool.map(lambda file: patiently(lambda: _look(config, filesystem, file)), files))
    except StoreError as error:
        raise CorpusError(f"input.path {config.path}: {error}") from None
    bad = [(file, look) for file, look in zip(files, looks, strict=True) if isinstance(look, CorpusError)]
    if bad and (config.on_bad_file == "fail" or len(bad) == len(files)):
        raise bad[0][1]
    good = [(file, look) for file, look in zip(files, looks, strict=True) if not isinstance(look, CorpusError)]
    parts = [part for _, look in good for part in look.parts]
    schemas = {file.path: look.schema for file, look in good if look.schema is not None}
    for path, schema in schemas.items():
        _check_types(config, path, schema)
    if config.format == "jsonl":
        _check_keys(config, good)
    fields = [_carried_field(name, files, schemas, config) for name in carried]
    reader = RowReader(config, pa.schema(fields))
    skipped = tuple((file.path, str(error)) for file, error in bad)
    return Corpus(reader, tuple(files), tuple(parts), tuple(ignored), skipped)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a file says before it is read: its parts, its columns if it has a header, its first keys if it is JSONL."""

    parts: list[Part]
    schema: pa.Schema | None = None
    keys: frozenset[str] = frozenset()


def _look(config: InputConfig, filesystem: fs.FileSystem, file: CorpusFile) -> _Look | CorpusError:
    try:
        if config.format == "parquet":
            return _Look(*parquet_parts(filesystem, file, PART_BYTES))
        if config.format == "csv":
            header = csv_header(filesystem, file)
            return _Look([Part(file)], pa.schema([pa.field(name, pa.string()) for name in header]))
        keys = jsonl_keys(filesystem, file) if config.format == "jsonl" and file.number < _KEYS_FROM else set()
        return _Look([Part(file)], keys=frozenset(keys))
    except CorpusError as error:
        return error


def _check_keys(config: InputConfig, looks: Sequence[tuple[CorpusFile, _Look]]) -> None:
    """Refuse a column that no object at the start of the corpus has; later rows without it are faults of theirs."""
    first, look = next(((file, look) for file, look in looks if file.size), (None, None))
    if first is None or look is None or first.number >= _KEYS_FROM:
        return
    if not look.keys:
        raise CorpusError(f"{first.path}: its first lines hold no JSON object; format jsonl is one object a line")
    for key in ("id_column", "text_column", "messages_column"):
        name = getattr(config, key)
        if name is not None and name not in look.keys:
            raise CorpusError(
                f"{first.path}: no object has the key {name} (input.{key}); the first ones have "
                f"{name_list(sorted(look.keys))}"
            )


def _check_types(config: InputConfig, path: str, schema: pa.Schema) -> None:
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary)
    lists = (pa.types.is_list, pa.types.is_large_list)
    wanted = [
        ("id_column", config.id_column, (*texts, pa.types.is_integer), "text or whole numbers"),
        ("text_column", config.text_column, texts, "text"),
        ("messages_column", config.messages_column, (*texts, *lists), "a list of messages, or JSON text"),
    ]
    for key, name, tests, words in wanted:
        if name is None:
            continue
        places = schema.get_all_field_indices(name)
        if len(places) != 1:
            what = "has no column" if not places else "has more than one column"
            raise CorpusError(f"{path}: {what} {name} (input.{key}); its columns are {name_list(schema.names)}")
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not pa.types.is_null(kind) and not any(test(kind) for test in tests):
            raise CorpusError(f"{path}: column {name} (input.{key}) is {kind}, and has to be {words}")


def _carried_field(
    name: str, files: Sequence[CorpusFile], schemas: dict[str, pa.Schema], config: InputConfig
) -> pa.Field:
    if name == config.messages_column:
        raise CorpusError(f"input.carry_columns: {name} is the messages_column, which the score table cannot carry")
    in_path = [name in dict(file.partition) for file in files]
    if all(in_path):
        return pa.field(name, pa.string())
    if any(in_path):
        raise CorpusError(f"{files[in_path.index(False)].path}: its path has no {name}=… part, and others have")
    if config.format == "jsonl":
        return pa.field(name, pa.string())
    types = {}
    for path, schema in schemas.items():
        if schema.get_field_index(name) < 0:
            raise CorpusError(f"{path}: has no column {name}, which the score table is to carry")
        types[path] = schema.field(name).remove_metadata()
    if not types:
        raise CorpusError(f"{files[0].path}: its path has no {name}=… part, which the score table is to carry")
    try:
        joint = pa.unify_schemas([pa.schema([kind]) for kind in types.values()], promote_options="permissive")
    except pa.ArrowException:
        examples = {str(kind.type): path for path, kind in types.items()}
        said = " and ".join(f"{kind} in {path}" for kind, path in examples.items())
        raise CorpusError(
            f"column {name} has different types in different files: {said}; give it one, or carry it neither in "
            "input.carry_columns nor in output.partition_by"
        ) from None
    return joint.field(0).with_nullable(True)
