"""The job on a cluster: look through, restore, score, stage, publish. The only package that imports Ray."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

# Set before Ray is imported: a batch job reports to nobody, and Ray's own notices are not for its readers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
# A thread that outlives its cluster must not join whatever other cluster runs on this machine.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.context import AutoscalingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from confscore.actor import OpenScorer, Progress, Reports, ScoringActor
from confscore.corpus.files import refuse_changed
from confscore.errors import JobError, TableError
from confscore.loading import open_scorer
from confscore.lock import locked
from confscore.manifest import NOTHING, Manifest, PeakMemory, add_counts
from confscore.memory import peak_memory
from confscore.pipeline.cluster import (
    StorePeak,
    connected,
    limited_memory,
    most_actors,
    plain_errors,
    threads_each,
)
from confscore.pipeline.completeness import check_complete, unfinished
from confscore.pipeline.meters import RayMeters
from confscore.pipeline.preflight import Preflight, look_through
from confscore.pipeline.restore import checkpointing, restore
from confscore.pipeline.room import OnWait, wait_for_room
from confscore.pipeline.source import CorpusSource, StagedNames
from confscore.pipeline.watch import Limits, watch
from confscore.plan import Plan
from confscore.publication import Compacted, compact, finish, plan_compactions, publish, retire
from confscore.row_keys import RowKeys
from confscore.run_folder import MANIFEST, PREPARED
from confscore.run_log import OnProgress
from confscore.supervise import raise_if_stopped
from confscore.table_formats import output_table
from confscore.versions import versions

__all__ = ["OnProgress", "OnWait", "connected", "run_plan"]


@dataclass(frozen=True, slots=True)
class _Engines:
    """At most so many at once, with so many threads each where they have no GPU, and how one is loaded."""

    most: int
    threads: int
    open_scorer: OpenScorer


def _tell_nobody(sentence: str) -> None:
    del sentence


def run_plan(
    plan: Plan, on_progress: OnProgress, open_scorer: OpenScorer = open_scorer, on_wait: OnWait = _tell_nobody
) -> Manifest:
    """Score a corpus and publish its score table.

    What an earlier start of the same run has staged is not scored again.

    Parameters
    ----------
    plan : Plan
        A checked run that has not been committed yet.
    on_progress : callable
        Told of the counts about twice a second.
    open_scorer : callable
        Loads an engine in an actor.
    on_wait : callable
        Told what the job waits for, where the cluster has no room for an engine yet.

    Returns
    -------
    Manifest
        The record of the committed run.

    Raises
    ------
    CorpusError
        Document ids are not unique, or a file cannot be read.
    JobError
        The job could not be finished, the corpus has changed meanwhile, or another start is writing to the table.
        Nothing was published, and what was staged is kept for the next start.
    """
    run = plan.run
    with plain_errors(run.output), locked(run.filesystem, run.locks, run.output, run.run_id) as still_ours:
        committed = run.read_manifest(MANIFEST)
        if committed is not None:
            return committed  # by a start that ended while this one waited for the lock
        table_format = plan.table_format
        if table_format is not None:
            table_format.create(plan.schema, plan.config.output.partition_by)
        prepared = run.read_manifest(PREPARED)
        if prepared is not None:
            finish(run, prepared, table_format)
            retire(run, plan.replaces)
            return prepared
        with connected(plan.config.cluster) as alone:
            wait_for_room(plan.config.cluster, alone, on_wait)
            most = most_actors(plan.config.cluster, alone)
            engines = _Engines(most, threads_each(plan.config.cluster, alone, most), open_scorer)
            manifest = _work(plan, engines, on_progress, still_ours)
            raise_if_stopped()
        try:
            publish(run, manifest, still_ours, table_format)
        except TableError as error:  # what could be refused was refused before: now it is a failure of the job
            raise JobError(f"{error}; what was scored is kept, run the same command again") from error
        retire(run, plan.replaces)
    return manifest


def _work(plan: Plan, engines: _Engines, on_progress: OnProgress, still_ours: Callable[[], None]) -> Manifest:
    """Do everything up to publication."""
    started = time.time()
    found = look_through(plan)
    staged = restore(plan.run)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    progress = ray.remote(num_cpus=0)(Progress).options(scheduling_strategy=here).remote()
    rows = sum(found.rows)
    before = NOTHING.model_copy(update={"read": len(staged), "scored": len(staged)})
    limits = Limits(plan.config, rows - len(staged), engines.most, still_ours)
    store = StorePeak()
    with limited_memory(plan.config.cluster):
        watch(
            lambda: _score(plan, engines, found, staged, progress),
            progress,
            on_progress,
            limits,
            before,
            store,
        )
    told: Reports = ray.get(progress.read.remote())
    scored = time.time()
    skipped = {file.path for file in found.skipped}
    read = [file for file in plan.corpus.files if file.path not in skipped]
    refuse_changed(plan.config.input.path, plan.config.input.format, read)
    files = _compact(plan)
    check_complete(plan, found, files)
    ready = min(told.first_ready or scored, scored)
    return Manifest(
        run_id=plan.run.run_id,
        started_at=_utc(started),
        committed_at=_utc(time.time()),
        startup_seconds=ready - started,
        scoring_seconds=scored - ready,
        resumed=len(staged),
        engine_seconds=told.engine_seconds,
        peak_memory=PeakMemory(driver=peak_memory(descendants=False), actor=told.peak_memory, object_store=store.bytes),
        counts=add_counts([each.counts for each in files]) if files else NOTHING,
        provenance=plan.provenance,
        versions=versions(),
        input_path=plan.config.input.path,
        input_files=plan.input_files,
        skipped_files=found.skipped,
        output_files=tuple(each.file for each in files),
        published_to=output_table(plan.config.output),
        replaces=plan.replaces,
        columns=tuple(plan.schema.names),
        partition_by=plan.config.output.partition_by,
    )


def _score(plan: Plan, engines: _Engines, found: Preflight, staged: RowKeys, progress: Any) -> None:
    """Read the rows that are not staged yet, score them, and stage them."""
    parts = unfinished(found, staged)
    if not parts:
        return
    cluster = plan.config.cluster
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what matters of it is said in one sentence
    source = CorpusSource(plan.corpus.reader, parts, cluster.rows_per_block, ray.put(staged))
    context.checkpoint_config = checkpointing(plan.run)
    # Twice as many actors as soon as all have what they can take: engines load for minutes, and one more each time
    # would take hours. Fewer when they have a quarter of it: those that have just come have nothing yet.
    before = context.autoscaling_config
    context.autoscaling_config = AutoscalingConfig(
        actor_pool_util_upscaling_threshold=0.5, actor_pool_util_downscaling_threshold=0.25
    )
    of_plan = (plan.guard, plan.config, plan.columns, plan.run)
    of_start = (uuid.uuid4().hex, progress, engines.open_scorer, RayMeters, engines.threads)
    try:
        rows = ray.data.read_datasource(source, override_num_blocks=max(1, len(parts)))
        blocks = rows.repartition(target_num_rows_per_block=cluster.rows_per_block)
        # map_batches itself refuses GPUs together with batch_size=None, and checks nothing else.
        scored = blocks.map_batches_internal(
            ScoringActor,
            fn_constructor_args=(*of_plan, *of_start),
            batch_format="pyarrow",
            batch_size=None,  # a block: with a number, a short one waits in its task for the one after it
            compute=ActorPoolStrategy(
                min_size=cluster.actor_range[0],
                max_size=engines.most,
                max_concurrent_calls_per_actor=cluster.blocks_in_flight,
                # None waits behind them: it could go to no other actor any more, however slow this one is.
                max_tasks_in_flight_per_actor=cluster.blocks_in_flight,
                enable_true_multi_threading=True,
            ),
            num_cpus=cluster.cpus_per_actor,
            num_gpus=cluster.gpus_per_actor,
            memory=cluster.memory_per_actor,
        )
        # Never with mode="overwrite", which would remove what earlier starts have staged.
        scored.write_parquet(
            plan.run.staging,
            filesystem=plan.run.filesystem,
            partition_cols=list(plan.config.output.partition_by) or None,
            filename_provider=StagedNames(),
            write_page_checksum=True,  # pages that never came to the disk may read as other numbers
        )
    finally:
        context.checkpoint_config = None
        context.autoscaling_config = before


def _compact(plan: Plan) -> list[Compacted]:
    output = plan.config.output
    folders = output.format == "parquet"  # readers of the others take partition columns from files, not from paths
    inside = [field for field in plan.schema if not folders or field.name not in output.partition_by]
    schema = pa.schema(inside)
    task = ray.remote(num_cpus=1, retry_exceptions=[OSError])(compact)  # it may be done again
    jobs = plan_compactions(plan.run, output.rows_per_file, partition_folders=folders)
    started = [task.remote(plan.run, job, schema, plan.provenance, output.rows_per_group) for job in jobs]
    files: list[Compacted] = ray.get(started)
    return files


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
