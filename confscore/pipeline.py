"""The job on a cluster: read, score, stage, publish. The only module that imports Ray."""

from __future__ import annotations

import _thread
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

# Set before Ray is imported: a batch job reports to nobody, and Ray's own notices are not for its readers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
# A thread that outlives its cluster must not join whatever other cluster runs on this machine.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, FilenameProvider, ReadTask
from ray.exceptions import RayError

from confscore import errors
from confscore.actor import Progress, ScoringActor
from confscore.config import ClusterConfig
from confscore.corpus import Part, RowReader
from confscore.errors import ConfscoreError, CorpusError, JobError
from confscore.manifest import NOTHING, Counts, Manifest, add_counts
from confscore.plan import Plan, versions
from confscore.score_table import STAGED, Compacted, compact, plan_compactions, publish

OnProgress = Callable[[Counts, bool], None]
"""Called with the counts so far, and with whether an engine is ready."""

_POLL_S = 0.5
_KNOCK_S = 10.0
_ANY_RAISED = re.compile(r"^\s*((?:\w+\.)*\w*(?:Error|Exception): .+)", re.M)
_RAISED = re.compile(r"confscore\.errors\.(\w+): (.+)")


class CorpusSource(Datasource):  # type: ignore[misc]
    """A corpus as Ray reads it: one task a part."""

    def __init__(self, reader: RowReader, parts: Sequence[Part], rows_per_block: int) -> None:
        super().__init__()
        self._reader = reader
        self._parts = parts
        self._rows_per_block = rows_per_block

    def estimate_inmemory_data_size(self) -> int | None:
        """Return nothing: sizes in memory are not known before reading."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """Return one task a part, however many were asked for."""
        del parallelism, data_context
        return [self._task(part, per_task_row_limit) for part in self._parts]

    def _task(self, part: Part, limit: int | None) -> ReadTask:
        reader, rows = self._reader, self._rows_per_block

        def tables() -> Iterable[pa.Table]:
            return reader.tables(part, rows)

        about = BlockMetadata(num_rows=part.rows, size_bytes=None, input_files=[part.file.path], exec_stats=None)
        return ReadTask(tables, about, schema=reader.schema, per_task_row_limit=limit)


class StagedNames(FilenameProvider):  # type: ignore[misc]
    """Names of staged files. They do not end in ``.parquet``, so that no reader takes them for the table."""

    def get_filename_for_task(self, write_uuid: str, task_index: int) -> str:
        """Return a name that is unique to the write and the task; Ray insists on the word parquet in it."""
        return f"parquet-{write_uuid}-{task_index:06d}-{{i}}{STAGED}"


def run_plan(plan: Plan, on_progress: OnProgress) -> Manifest:
    """Score a corpus and publish its score table.

    Parameters
    ----------
    plan : Plan
        A checked run that has not been committed yet.
    on_progress : callable
        Told of the counts about twice a second.

    Returns
    -------
    Manifest
        The record of the committed run.

    Raises
    ------
    CorpusError
        Document ids are not unique.
    JobError
        The job could not be finished, and the run is not committed. Nothing was published, unless the failure came
        while files were moved into the table: those are replaced by the next start of the same run.
    """
    started = time.time()
    with connected(plan.config.cluster) as ours, _plain_errors():
        if ours:
            _check_resources(plan.config.cluster)
        rows = _check_ids(plan)
        progress = ray.remote(num_cpus=0)(Progress).remote()
        _watch(lambda: _score(plan, progress), progress, on_progress, plan.config.cluster.start_timeout_s)
        _, ready = ray.get(progress.read.remote())
        scored = time.time()
        files = _compact(plan)
    counts = add_counts([each.counts for each in files]) if files else NOTHING
    if rows is not None and counts.read != rows:
        raise JobError(f"{rows} rows were read and {counts.read} scored; nothing was published")
    ready = min(ready or scored, scored)
    manifest = Manifest(
        run_id=plan.run.run_id,
        started_at=_utc(started),
        committed_at=_utc(time.time()),
        startup_seconds=ready - started,
        scoring_seconds=scored - ready,
        counts=counts,
        provenance=plan.provenance,
        versions=versions(),
        input_path=plan.config.input.path,
        input_files=plan.input_files,
        output_files=tuple(each.file for each in files),
        columns=tuple(plan.schema.names),
        partition_by=plan.config.output.partition_by,
    )
    with _plain_errors():
        publish(plan.run, files, manifest)
    return manifest


@contextmanager
def connected(cluster: ClusterConfig) -> Iterator[bool]:
    """Connect to the cluster, or start one on this machine for as long as the context lasts.

    Yields
    ------
    bool
        Whether the cluster is this machine alone, so that it will never grow.
    """
    if ray.is_initialized():
        yield False
        return
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    _knock(address)
    try:
        if address:
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
        else:
            logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it says that it is safe
            # Not whatever cluster was last started on this machine, which Ray would take without the word "local".
            ray.init("local", include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise JobError(f"cluster.address {address}: no Ray cluster answers there: {error}") from error
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is an interrupt like any other
    try:
        yield not address
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _knock(address: str | None) -> None:
    """Refuse an address at which nobody listens; Ray would wait there for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return  # auto, local, or none
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except (OSError, ValueError) as error:
        raise JobError(f"cluster.address {address}: no Ray cluster answers there: {error}") from None


def _score(plan: Plan, progress: Any) -> None:
    """Read the corpus, score it and stage the rows."""
    if not plan.corpus.parts:
        return
    cluster = plan.config.cluster
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what matters of it is said in one sentence
    least, most = cluster.actor_range
    source = CorpusSource(plan.corpus.reader, plan.corpus.parts, cluster.rows_per_block)
    rows = ray.data.read_datasource(source, override_num_blocks=max(1, len(plan.corpus.parts)))
    scored = rows.repartition(target_num_rows_per_block=cluster.rows_per_block).map_batches(
        ScoringActor,
        fn_constructor_args=(plan.guard, plan.config, plan.columns, plan.run.run_id, progress),
        batch_format="pyarrow",
        batch_size=cluster.rows_per_block,
        compute=ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_concurrent_calls_per_actor=cluster.blocks_in_flight,
            max_tasks_in_flight_per_actor=2 * cluster.blocks_in_flight,
            enable_true_multi_threading=True,
        ),
        num_cpus=cluster.cpus_per_actor,
        num_gpus=cluster.gpus_per_actor,
    )
    scored.write_parquet(
        plan.run.staging,
        filesystem=plan.run.filesystem,
        partition_cols=list(plan.config.output.partition_by) or None,
        filename_provider=StagedNames(),
    )


def _compact(plan: Plan) -> list[Compacted]:
    output = plan.config.output
    inside = [field for field in plan.schema if field.name not in output.partition_by]
    schema = pa.schema(inside)
    task = ray.remote(num_cpus=1)(compact)
    jobs = plan_compactions(plan.run, output.rows_per_file)
    started = [task.remote(plan.run, job, schema, plan.provenance, output.rows_per_group) for job in jobs]
    files: list[Compacted] = ray.get(started)
    return files


def _check_ids(plan: Plan) -> int | None:
    """Refuse a corpus whose ids are not unique, and return its number of rows where it is known.

    Each id costs 8 bytes here: only hashes come back, and those that occur twice are looked at again.
    """
    corpus, column = plan.corpus, plan.config.input.id_column
    if column is None:
        return corpus.rows
    hashes_of = ray.remote(num_cpus=1)(RowReader.id_hashes)
    ids_of = ray.remote(num_cpus=1)(RowReader.find_ids)
    reader = ray.put(corpus.reader)
    hashes = np.sort(
        np.concatenate([np.empty(0, np.uint64), *ray.get([hashes_of.remote(reader, p) for p in corpus.parts])])
    )
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if len(twice):
        seen: dict[str, str] = {}
        for found in ray.get([ids_of.remote(reader, part, twice) for part in corpus.parts]):
            for doc_id, place in found:
                if doc_id in seen:
                    raise CorpusError(
                        f"column {column} (input.id_column): the id {doc_id!r} occurs twice, in {seen[doc_id]} and in "
                        f"{place}; ids have to be unique, or leave input.id_column out to have them derived from "
                        "file and row"
                    )
                seen[doc_id] = place
    return len(hashes)


def _check_resources(cluster: ClusterConfig) -> None:
    """Refuse at once what this machine will never have."""
    here = ray.cluster_resources()
    wanted = {"GPU": cluster.gpus_per_actor, "CPU": cluster.cpus_per_actor}
    for name, count in wanted.items():
        best = here.get(name, 0.0)
        if count > best:
            key = f"cluster.{name.lower()}s_per_actor"
            raise JobError(
                f"{key} is {count:g}, and this machine has {best:g}; set {key} to {best:g}, or connect to a "
                "cluster with cluster.address"
            )


def _watch(work: Callable[[], None], progress: Any, on_progress: OnProgress, start_timeout_s: float) -> None:
    """Do ``work``, and tell of its progress from a thread beside it.

    The work stays on the calling thread, so that an interrupt reaches Ray Data, which then stops its tasks in order.
    Reading starts while engines load, so a cluster that never gets what an actor needs would look busy for ever.

    Raises
    ------
    JobError
        No engine was ready in time.
    """
    done = threading.Event()
    problems: list[Exception] = []
    last = time.monotonic() + start_timeout_s

    def watch() -> None:
        try:
            while not done.wait(_POLL_S):
                counts, ready = ray.get(progress.read.remote())
                on_progress(counts, ready is not None)
                if ready is None and time.monotonic() > last:
                    raise JobError(
                        f"no engine was ready within cluster.start_timeout_s ({start_timeout_s:g} s); does the cluster "
                        "have what cluster.gpus_per_actor and cluster.cpus_per_actor ask for?"
                    )
        except Exception as error:
            problems.append(error)
            if not done.is_set():
                _thread.interrupt_main()

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        work()
    except KeyboardInterrupt:
        if problems:
            raise problems[0] from None
        raise
    finally:
        done.set()
        watcher.join(timeout=_KNOCK_S)
    on_progress(ray.get(progress.read.remote())[0], True)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn Ray's errors into one sentence: the innermost confscore error if there is one."""
    try:
        yield
    except (RayError, OSError) as error:
        inner = _ours(error)
        if inner is not None:
            raise inner from error
        raised = _ANY_RAISED.findall(str(error)) or [line for line in str(error).splitlines() if line.strip()]
        raise JobError(f"the cluster could not finish the job: {raised[-1] if raised else repr(error)}") from error


def _ours(error: BaseException) -> ConfscoreError | None:
    """Return the confscore error that a worker raised. Ray brings home its text, but not the object."""
    found = _RAISED.findall(str(error))
    if not found:
        return None
    name, message = found[-1]
    kind = getattr(errors, name, JobError)
    return kind(message) if issubclass(kind, ConfscoreError) else JobError(message)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
