"""Nights: which partitions a corpus or a score table has, by their dates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.dataset as pds

from confscore.config import InputConfig
from confscore.corpus.files import CorpusFile, find_files, hive_keys, resolve
from confscore.errors import ConfigError, TableError
from confscore.manifest import Provenance
from confscore.rows import Columns, score_schema
from confscore.score_table import PROVENANCE_KEY, open_table

RUN = "run"
"""The partition key of a score table's runs."""


@dataclass(frozen=True, slots=True)
class CorpusNight:
    """A night's part of a corpus.

    Attributes
    ----------
    night : date
    where : dict of str to str
        The partition values of its files, as they are spelled in their paths.
    signature : str
        Digest of its files' names, sizes and times.
    """

    night: date
    where: dict[str, str]
    signature: str


@dataclass(frozen=True, slots=True)
class TableNight:
    """A night's part of a score table.

    Attributes
    ----------
    night : date
    where : dict of str to str
        As in :class:`CorpusNight`.
    signature : str
        Digest of its files' names and sizes.
    path : str
        The score table.
    files : tuple of str
        Its files on the table's filesystem.
    runs : tuple of str
        The runs that wrote them.
    empty : pyarrow.Schema or None
        The schema of a night without documents, which has no file to say it.
    """

    night: date
    where: dict[str, str]
    signature: str
    path: str
    files: tuple[str, ...]
    runs: tuple[str, ...]
    empty: pa.Schema | None = None

    def open(self) -> pds.Dataset:
        """Return its rows as a score table."""
        filesystem, root = resolve(self.path)
        if self.empty is not None:
            return pds.FileSystemDataset([], self.empty, pds.ParquetFileFormat(), filesystem)
        return pds.dataset(
            list(self.files), filesystem=filesystem, format="parquet", partitioning="hive", partition_base_dir=root
        )


def corpus_nights(config: InputConfig, columns: Sequence[str]) -> dict[date, CorpusNight]:
    """Return the nights of a corpus.

    Raises
    ------
    CorpusError
        There is no such corpus.
    ConfigError
        A file is in no partition of a night.
    """
    files, _ = find_files(config.path, config.format, follow_links=config.follow_links, where=config.where)
    groups: dict[date, list[CorpusFile]] = {}
    for file in files:
        groups.setdefault(_night(file.path, dict(file.partition), columns), []).append(file)
    found = {}
    for night, own in groups.items():
        where = _where([dict(file.partition) for file in own], columns, f"{config.path}: night {night}")
        found[night] = CorpusNight(night, where, digest([[file.name, file.size, file.modified_ns] for file in own]))
    return found


def table_nights(path: str, columns: Sequence[str]) -> dict[date, TableNight]:
    """Return the nights of a score table.

    Raises
    ------
    TableError
        There is no such table.
    ConfigError
        A file is in no partition of a night.
    """
    filesystem, root = resolve(path)
    infos = filesystem.get_file_info(sorted(open_table(path).files))
    groups: dict[date, list[tuple[str, int]]] = {}
    for info in infos:
        keys = dict(hive_keys(info.path))
        groups.setdefault(_night(info.path, keys, columns), []).append((info.path, info.size or 0))
    found = {}
    for night, own in groups.items():
        keys_of_all = [dict(hive_keys(file)) for file, _ in own]
        runs = sorted({keys[RUN] for keys in keys_of_all if keys.get(RUN) is not None})  # type: ignore[type-var]
        where = _where(keys_of_all, columns, f"{path}: night {night}")
        signature = digest([[file[len(root) :], size] for file, size in own])
        found[night] = TableNight(night, where, signature, path, tuple(file for file, _ in own), tuple(map(str, runs)))
    return found


def night_without_documents(path: str, night: CorpusNight, provenance: Provenance) -> TableNight:
    """Return a night whose run has found no document, and so has written no file."""
    schema = score_schema(Columns(tuple(provenance.categories)))
    schema = schema.with_metadata({PROVENANCE_KEY: provenance.model_dump_json().encode()})
    return TableNight(night.night, night.where, digest([]), path, (), (), schema)


def nights_between(nights: Mapping[date, object], first: date | None, last: date | None) -> list[date]:
    """Return nights in order, from the first to the last of a range; both ends may be open."""
    return sorted(night for night in nights if (first is None or night >= first) and (last is None or night <= last))


def digest(content: object) -> str:
    """Return the SHA-256 of plain JSON values, the first 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _night(path: str, keys: Mapping[str, str | None], columns: Sequence[str]) -> date:
    missing = [column for column in columns if keys.get(column) is None]
    if missing:
        raise ConfigError(
            f"{path}: its path has no {missing[0]}=… part, so it belongs to no night; night_column names the partition "
            "key of the nights"
        )
    spelled = [str(keys[column]) for column in columns]
    try:
        return date.fromisoformat(spelled[0]) if len(spelled) == 1 else date(*(int(part) for part in spelled))
    except (ValueError, TypeError):
        raise ConfigError(f"{path}: {'-'.join(spelled)} is no date such as 2026-11-22 (night_column)") from None


def _where(keys_of_all: Sequence[Mapping[str, str | None]], columns: Sequence[str], what: str) -> dict[str, str]:
    spellings = {tuple(str(keys[column]) for column in columns) for keys in keys_of_all}
    if len(spellings) > 1:
        one, other = sorted("-".join(each) for each in spellings)[:2]
        raise ConfigError(f"{what} is spelled in two ways, {one} and {other}; give it one partition")
    (spelled,) = spellings
    return dict(zip(columns, spelled, strict=True))


def refuse_none(path: str, nights: Mapping[date, object]) -> None:
    """Refuse a table without any night."""
    if not nights:
        raise TableError(f"{path}: has no file yet, so there is no night to audit")
