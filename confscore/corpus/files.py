"""Which files a corpus has, and what their paths say about partitions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import unquote

from pyarrow import fs

from confscore.config import InputFormat
from confscore.errors import CorpusError, InputError

SUFFIXES: dict[InputFormat, tuple[str, ...]] = {
    "parquet": (".parquet", ".parq", ".pq"),
    "jsonl": (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz"),
    "csv": (".csv", ".csv.gz"),
    "text": (".txt", ".text", ".md", ".txt.gz"),
}
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One file of a corpus.

    Attributes
    ----------
    path : str
        Its path on the corpus's filesystem.
    name : str
        Its path relative to ``input.path``, with forward slashes; derived document ids start with it.
    size : int
        In bytes.
    modified_ns : int
        Time of the last change, in nanoseconds since 1970; 0 where the store does not say.
    partition : tuple of (str, str or None)
        Hive partition keys and values in the path, outermost first.
    number : int
        Its place among the files of the corpus, in the order of their names.
    """

    path: str
    name: str
    size: int
    modified_ns: int
    partition: tuple[tuple[str, str | None], ...]
    number: int = 0


def resolve(path: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a local path or URI, and the path on it.

    Raises
    ------
    InputError
        The scheme of a URI is unknown, or its credentials are malformed.
    """
    if "://" not in path:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))
    try:
        filesystem, inner = fs.FileSystem.from_uri(path)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: no filesystem for this address: {' '.join(str(error).split())}") from None
    return filesystem, inner


def find_files(path: str, kind: InputFormat) -> tuple[list[CorpusFile], list[str]]:
    """List the files of a corpus.

    As in Hive and Spark, anything below a name that starts with ``_`` or ``.`` is not part of a data set.

    Parameters
    ----------
    path : str
        ``input.path``: a folder, searched to any depth, or one file.
    kind : {'parquet', 'jsonl', 'csv', 'text'}
        Decides which file names count. A single file counts under any name.

    Returns
    -------
    files : list of CorpusFile
        In the order of their names.
    ignored : list of str
        Names of files that do not look like ``kind``.

    Raises
    ------
    CorpusError
        The path does not exist, cannot be listed, or holds no such file.
    """
    filesystem, root = resolve(path)
    try:
        info = filesystem.get_file_info(root)
        if info.type == fs.FileType.NotFound:
            raise CorpusError(f"input.path {path}: no such file or folder")
        if info.is_file:
            return [_file(info, os.path.basename(root))], []
        found = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
        listed = [(info, info.path) for info in found]
    except UnicodeDecodeError as error:
        raise CorpusError(f"input.path {path}: a file name in it is not valid UTF-8 ({error.object!r})") from None
    except OSError as error:
        raise CorpusError(f"input.path {path}: cannot be listed: {error}") from None
    files: list[CorpusFile] = []
    ignored: list[str] = []
    for info, full in listed:
        name = full[len(root.rstrip("/")) + 1 :]
        if not info.is_file or any(part[:1] in ("_", ".") for part in name.split("/")):
            continue
        if name.lower().endswith(SUFFIXES[kind]):
            files.append(_file(info, name))
        else:
            ignored.append(name)
    if not files:
        also = f"; {len(ignored)} files of other kinds were found, such as {ignored[0]}" if ignored else ""
        raise CorpusError(f"input.path {path}: no {kind} file in it ({', '.join(SUFFIXES[kind])}){also}")
    in_order = sorted(files, key=lambda file: file.name)
    return [replace(file, number=number) for number, file in enumerate(in_order)], sorted(ignored)


def _file(info: fs.FileInfo, name: str) -> CorpusFile:
    return CorpusFile(info.path, name, info.size or 0, info.mtime_ns or 0, tuple(_hive(info.path)))


def _hive(path: str) -> Iterator[tuple[str, str | None]]:
    """Yield the ``key=value`` parts of a path's folders."""
    for part in path.split("/")[:-1]:
        key, equals, value = part.partition("=")
        if equals and key:
            yield unquote(key), None if value == HIVE_NULL else unquote(value)
