"""Does a score table still hold what its manifests say? Everything is counted again from the files."""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from confscore.corpus.files import resolve
from confscore.errors import ConfigError, JobError, TableError
from confscore.manifest import PARQUET, Counts, Manifest, add_counts
from confscore.run_folder import read_manifests
from confscore.score_table import count_rows
from confscore.table_formats import open_format

_COUNTED = ["doc_id", "status", "run_id", "requests", "prompt_tokens"]


def verify(path: str, run_id: str | None = None) -> list[str]:
    """Hold the files of a score table against its manifests.

    Parameters
    ----------
    path : str
        ``output.path`` of the runs that wrote it.
    run_id : str, optional
        Look at this run only.

    Returns
    -------
    list of str
        What does not agree, one sentence each; empty where everything does.

    Raises
    ------
    TableError
        There is no such run, or a manifest cannot be read.
    """
    manifests = read_manifests(path)
    chosen = [manifest for manifest in manifests if run_id in (None, manifest.run_id)]
    if not chosen:
        known = ", ".join(manifest.run_id for manifest in manifests) or "none"
        raise TableError(f"{path}: has no committed run {run_id or ''}; its runs are: {known}")
    filesystem, root = resolve(path)
    problems = [problem for manifest in chosen for problem in _check(filesystem, root.rstrip("/"), manifest)]
    problems += [problem for manifest in chosen for problem in _not_added(path, manifest)]
    if run_id is None:
        problems += _strays(filesystem, root.rstrip("/"), manifests)
    return problems


def _not_added(path: str, manifest: Manifest) -> list[str]:
    """Look for a run in the table that its files were added to."""
    try:
        table = open_format(path, manifest.published_to)
        if table is None or table.committed(manifest.run_id):
            return []
    except (ConfigError, JobError) as error:
        return [f"{manifest.run_id}: cannot be looked for in its table: {error}"]
    return [f"{manifest.run_id}: is not in the table that the manifest names, {manifest.published_to}"]


def _check(filesystem: fs.FileSystem, root: str, manifest: Manifest) -> list[str]:
    problems = []
    counts: list[Counts] = []
    ids: Counter[str] = Counter()
    for file in manifest.output_files:
        place = f"{root}/{file.path}"
        info = filesystem.get_file_info(place)
        if not info.is_file:
            problems.append(f"{place}: is gone")
            continue
        if info.size != file.bytes:
            problems.append(f"{place}: has {info.size:,} bytes, and the manifest says {file.bytes:,}")
        try:
            table = pq.ParquetFile(filesystem.open_input_file(place)).read(columns=_COUNTED)
        except (OSError, ValueError) as error:
            problems.append(f"{place}: cannot be read: {' '.join(str(error).split())}")
            continue
        if table.num_rows != file.rows:
            problems.append(f"{place}: has {table.num_rows:,} rows, and the manifest says {file.rows:,}")
        if pc.unique(table["run_id"]).to_pylist() != [manifest.run_id]:
            problems.append(f"{place}: has rows of another run")
        ids.update(table["doc_id"].to_pylist())
        counts.append(count_rows(table))
    found = add_counts(counts)
    for name in Counts.model_fields:
        if getattr(found, name) != getattr(manifest.counts, name):
            said = getattr(manifest.counts, name)
            problems.append(f"{manifest.run_id}: {name} is {getattr(found, name):,}, and the manifest says {said:,}")
    whole = manifest.counts
    if whole.read != whole.scored + whole.bounded + whole.error:
        problems.append(f"{manifest.run_id}: its manifest's counts do not add up: read is not scored + bounded + error")
    twice = [doc_id for doc_id, times in ids.items() if times > 1]
    if twice:
        problems.append(f"{manifest.run_id}: {len(twice):,} ids are there twice, such as {twice[0]}")
    return problems


def _strays(filesystem: fs.FileSystem, root: str, manifests: list[Manifest]) -> list[str]:
    """Return the Parquet files that a reader would see and no manifest names.

    A table of another format has files of its own beside the folders of runs, and its readers ask it which to read.
    """
    known = {f"{root}/{file.path}" for manifest in manifests for file in manifest.output_files}
    selector = fs.FileSelector(root, recursive=True)
    found = [info.path for info in filesystem.get_file_info(selector) if info.path.endswith(".parquet")]
    if any(manifest.published_to != PARQUET for manifest in manifests):
        found = [path for path in found if path.startswith(f"{root}/run=")]
    return [f"{path}: is in the table, and no committed run has written it" for path in sorted(set(found) - known)]
