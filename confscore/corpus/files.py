"""Which files a corpus has, and what their paths say about partitions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import unquote

from pyarrow import fs

from confscore.config import InputFormat
from confscore.corpus.links import refuse_links
from confscore.corpus.stores import in_words, open_address
from confscore.errors import CorpusError, JobError

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


def make_folder(filesystem: fs.FileSystem, path: str) -> None:
    """Make a folder where files need one. In a store they do not, and each level would cost a request and a right."""
    if isinstance(filesystem, fs.LocalFileSystem):
        filesystem.create_dir(path, recursive=True)


def resolve(path: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a local path or URI, and the path on it.

    Raises
    ------
    InputError
        The scheme of a URI is unknown, or it carries credentials.
    """
    if "://" in path:
        return open_address(path)
    local = os.path.expanduser(path)
    # What ".." means after a link is for the file system to say: abspath would only strike out the name before it.
    return fs.LocalFileSystem(), os.path.realpath(local) if ".." in local.split("/") else os.path.abspath(local)


def find_files(
    path: str, kind: InputFormat, *, follow_links: bool = False, where: Mapping[str, str] | None = None
) -> tuple[list[CorpusFile], list[str]]:
    """List the files of a corpus.

    As in Hive and Spark, anything below a name that starts with ``_`` or ``.`` is not part of a data set.

    Parameters
    ----------
    path : str
        ``input.path``: a folder, searched to any depth, or one file.
    kind : {'parquet', 'jsonl', 'csv', 'text'}
        Decides which file names count. A single file counts under any name.
    follow_links : bool
        Whether links in a folder on a disk may lead out of it.
    where : mapping of str to str, optional
        Partition keys and values that a file's path has to have.

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
            return _chosen(path, [_file(info, os.path.basename(root))], where), []
        if isinstance(filesystem, fs.LocalFileSystem):
            refuse_links(root, SUFFIXES[kind], follow=follow_links)
        found = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
        listed = [(info, info.path) for info in found]
    except UnicodeDecodeError as error:
        raise CorpusError(f"input.path {path}: a file name in it is not valid UTF-8 ({error.object!r})") from None
    except OSError as error:
        raise CorpusError(f"input.path {path}: cannot be listed: {in_words(error)}") from None
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
    in_order = sorted(_chosen(path, files, where), key=lambda file: file.name)
    return [replace(file, number=number) for number, file in enumerate(in_order)], sorted(ignored)


def _chosen(path: str, files: list[CorpusFile], where: Mapping[str, str] | None) -> list[CorpusFile]:
    """Return the files of some partitions."""
    wanted = (where or {}).items()
    chosen = [file for file in files if wanted <= dict(file.partition).items()]
    if not chosen:
        parts = ", ".join(f"{key}={value}" for key, value in wanted)
        example = next((file.name for file in files), "")
        raise CorpusError(f"input.path {path}: no file's path has {parts} (input.where); {example} is one of its files")
    return chosen


def refuse_changed(path: str, kind: InputFormat, before: Sequence[CorpusFile]) -> None:
    """Make sure that files of a corpus are still the ones that were found; new files beside them do not matter.

    Raises
    ------
    JobError
        One of them has another size or time, or is gone, or the store does not say.
    """
    try:
        found = {file.path: file for file in find_files(path, kind, follow_links=True)[0]}
    except CorpusError as error:
        raise JobError(f"{error}; it could be read before, and nothing was published") from None
    for file in before:
        _refuse_other(file, found.get(file.path), 1)


def refuse_changed_file(filesystem: fs.FileSystem, file: CorpusFile) -> None:
    """Make sure of one file.

    Raises
    ------
    JobError
        It has another size or time, or is gone.
    """
    info = filesystem.get_file_info(file.path)
    # Stores tell a file's time in whole seconds when asked for one, and some of them more exactly in lists.
    resolution_ns = 1 if isinstance(filesystem, fs.LocalFileSystem) else 10**9
    _refuse_other(file, _file(info, file.name) if info.is_file else None, resolution_ns)


def _refuse_other(file: CorpusFile, now: CorpusFile | None, resolution_ns: int) -> None:
    times = [each.modified_ns // resolution_ns for each in (file, now) if each is not None]
    if now is not None and now.size == file.size and times[0] == times[1]:
        return
    what = "is gone" if now is None else f"was {_looks(file)} and is {_looks(now)} now"
    raise JobError(
        f"{file.path}: {what}, so the corpus has changed while it was read; nothing was published, start the job again "
        "when nobody writes to it"
    )


def _looks(file: CorpusFile) -> str:
    changed = datetime.fromtimestamp(file.modified_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    return f"{file.size:,} bytes of {changed}"


def _file(info: fs.FileInfo, name: str) -> CorpusFile:
    return CorpusFile(info.path, name, info.size or 0, info.mtime_ns or 0, tuple(hive_keys(info.path)))


def hive_keys(path: str) -> Iterator[tuple[str, str | None]]:
    """Yield the ``key=value`` parts of a path's folders."""
    for part in path.split("/")[:-1]:
        key, equals, value = part.partition("=")
        if equals and key:
            yield unquote(key), None if value == HIVE_NULL else unquote(value)
