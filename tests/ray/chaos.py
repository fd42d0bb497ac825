"""Kill a job at random moments, start it again, and see that nothing is lost and nothing is there twice.

``python tests/ray/chaos.py --kills 50`` is the long form (``make chaos``); the tests do the same with a few kills.
With ``--nodes N`` the job runs on N simulated nodes, which are killed too; with ``--engine vllm`` it runs the shipped
guard.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from nodes import Nodes

from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.demo.world import generate

JOB = Path(__file__).with_name("table_job.py")
KINDS = ("driver", "actor", "worker", "raylet", "gcs")
KINDS_OF_NODES = ("driver", "actor", "worker", "node", "cluster")
KINDS_OF_VLLM = ("driver", "actor", "engine")
TABLE_SETTINGS = {"tolerance": 0.3, "max_requests_per_document": 2}
MODELS = {
    "table": {"engine": "transformers"},
    "vllm": {
        "engine_args": {
            "dtype": "float32",
            "max_model_len": 512,
            "enforce_eager": True,
            "kv_cache_memory_bytes": 1 << 28,
        }
    },
}
ON_NODES = {"cpus_per_actor": 2}
"""A simulated node has three CPUs, so that it holds one actor and tasks beside it."""
READY = r"^progress [1-9]\d* 1|documents, [\d,]+/s"
"""What a driver's log shows once documents are being scored."""
_ENDS = ("ray::", "raylet", "gcs_server", "VLLM::")


@dataclass
class Job:
    """A corpus, its configuration, and a driver process for it.

    Attributes
    ----------
    root : Path
        Where everything is.
    engine : {'table', 'vllm'}
        A table of made-up probabilities, or the shipped guard on vLLM through the command line.
    nodes : Nodes, optional
        The cluster; by default every driver starts one of its own.
    starts, kills : int, Counter
        How often the driver was started, and what was killed.
    resumed : list of int
        How many rows each start found staged.
    """

    root: Path
    documents: int
    engine: Literal["table", "vllm"] = "table"
    nodes: Nodes | None = None
    starts: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    resumed: list[int] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.root / "score.yaml"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def scores(self) -> Path:
        return self.root / "scores"

    def texts(self) -> dict[str, str]:
        """Return the text of every document, by its id."""
        texts = [document.text for document in generate(min(self.documents, 2000), seed=77)]
        return {f"doc-{i:06d}": f"{texts[i % len(texts)]} No. {i}." for i in range(self.documents)}

    def prepare(self, harm: dict[int, str] | None = None, changes: dict[str, dict] | None = None) -> None:
        """Write the corpus and the configuration.

        ``harm[i]`` is put into document i, and ``changes`` into sections of the configuration.
        """
        harm = harm or {}
        ids, texts = zip(*self.texts().items(), strict=True)
        folder = self.root / "corpus"
        folder.mkdir(parents=True)
        for number, rows in enumerate(np.array_split(np.arange(self.documents), 8)):
            columns = {"doc_id": [ids[i] for i in rows], "text": [harm.get(int(i), "") + texts[i] for i in rows]}
            pq.write_table(pa.table(columns), folder / f"part-{number}.parquet", row_group_size=2000)
        settings = {
            "input": {"path": str(folder), "id_column": "doc_id"},
            "guard": str(GUARD_YAML),
            "model": {"source": str(GUARD_FOLDER), **MODELS[self.engine]},
            "scoring": TABLE_SETTINGS if self.engine == "table" else {"tolerance": 0.05},
            "cluster": {"actors": 1, "gpus_per_actor": 0, "rows_per_block": 256},
            "output": {"path": str(self.scores)},
        }
        for section, values in (changes or {}).items():
            settings[section] = {**settings[section], **values}
        self.config.write_text(yaml.safe_dump(settings))

    def start(self) -> subprocess.Popen[bytes]:
        """Start a driver."""
        self.starts += 1
        words = [JOB, self.config] if self.engine == "table" else ["-m", "confscore", "score", "--config", self.config]
        environment = os.environ | ({} if self.nodes is None else {"RAY_ADDRESS": self.nodes.address()})
        # To a file: what a killed driver leaves behind would keep a pipe open.
        with self.log.open("w") as log:
            return subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, env=environment)

    def run(self, killer: Killer | None = None, most_starts: int = 200) -> str:
        """Start drivers until one commits; return what the last one said."""
        while self.starts < most_starts:
            driver, killed = self.start(), self.kills.total()
            said = self._follow(driver, killer)
            if driver.returncode == 0:
                return said
            assert self.kills.total() > killed, f"a start failed that nobody had killed:\n{said}"
        raise AssertionError(f"not done after {self.starts} starts: {said}")

    def _follow(self, driver: subprocess.Popen[bytes], killer: Killer | None) -> str:
        family: set[int] = set()
        if killer is not None:
            killer.attach(driver.pid, family)
        driver.wait()
        if killer is not None:
            killer.detach()
        _bury(family)
        said = self.log.read_text()
        told = re.search(r"^progress (\d+)|^An earlier start had scored ([\d,]+) ", said, re.M)
        self.resumed += [int((told[1] or told[2]).replace(",", ""))] if told else []
        return said

    def rows(self) -> dict[str, tuple[float, ...]]:
        """Return every published row's probabilities; an id that is there twice is an error."""
        names = [name for name in pq.read_schema(next(self.scores.rglob("*.parquet"))).names if name.startswith("p_")]
        found = duckdb.sql(f"SELECT doc_id, status, {', '.join(names)} FROM '{self.scores}/**/*.parquet'").fetchall()
        rows = {row[0]: row[1:] for row in found}
        assert len(rows) == len(found), "an id is there twice"
        return rows


class Killer:
    """Kills processes of a driver and its cluster, one every few seconds.

    Parameters
    ----------
    job : Job
        Counts the kills.
    kinds : sequence of str
        What is killed, see ``KINDS``.
    kills : int
        How many in all.
    pause : tuple of float
        Least and most seconds before the next one.
    after : str
        A pattern that the driver's log has to show before that, so that a kill hits documents in flight.
    patience : float
        How often that is waited for; otherwise kills hit a job that is starting, too.
    """

    def __init__(
        self,
        job: Job,
        kinds: Sequence[str],
        kills: int,
        pause: tuple[float, float],
        seed: int = 0,
        after: str = "",
        patience: float = 1.0,
    ) -> None:
        self.left = kills
        self._after, self._patience = after, patience
        self._job, self._kinds, self._pause = job, kinds, pause
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def attach(self, driver: int, family: set[int]) -> None:
        """Begin to kill; every process of the family that is seen is noted in ``family``."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_killing, args=(driver, family), daemon=True)
        self._thread.start()

    def detach(self) -> None:
        """Stop killing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _keep_killing(self, driver: int, family: set[int]) -> None:
        try:
            self._kill(driver, family)
        except BaseException as error:
            self._failure = error

    def _kill(self, driver: int, family: set[int]) -> None:
        due = time.monotonic() + self._random.uniform(*self._pause)
        patient = self._random.random() < self._patience
        while not self._stop.wait(0.2):
            processes = _family(driver)
            family |= {process.pid for process in processes}
            if time.monotonic() < due or (patient and not re.search(self._after, self._job.log.read_text(), re.M)):
                continue
            if self._job.nodes is not None:
                self._job.nodes.add()  # where one was lost before, another one comes
            if self.left <= 0:
                continue
            kind = self._random.choice(self._kinds)
            if self._strike(kind, driver, processes):
                self.left -= 1
                self._job.kills[kind] += 1
                due = time.monotonic() + self._random.uniform(*self._pause)
                patient = self._random.random() < self._patience

    def _strike(self, kind: str, driver: int, processes: Sequence[psutil.Process]) -> bool:
        """Kill something of a kind; say whether there was any."""
        nodes = self._job.nodes
        if nodes is not None:
            if kind == "node":
                return nodes.lose(self._random)
            if kind == "cluster":
                return nodes.end()
            processes = [*processes, *psutil.Process().children(recursive=True)]
        victims = [process for process in processes if _is(kind, process, driver)]
        if victims:
            _end(self._random.choice(victims))
        return bool(victims)


def _family(driver: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(driver)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _is(kind: str, process: psutil.Process, driver: int) -> bool:
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return False
    at_work = words.startswith("ray::")
    return {
        "driver": process.pid == driver,
        "actor": at_work and "ScoringActor" in words,
        "worker": at_work and "ScoringActor" not in words and "Progress" not in words,
        "engine": words.startswith("VLLM::EngineCore"),
        "raylet": not at_work and "/raylet/raylet " in f"{words} ",
        "gcs": "/gcs/gcs_server" in words,
    }[kind]


def _end(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _bury(pids: set[int]) -> None:
    """End what a killed driver has left running, so that the machine does not fill up."""
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if any(word in " ".join(process.cmdline()) for word in _ENDS):
                process.kill()
        except psutil.Error:
            continue


def assert_same(
    found: dict[str, tuple[float | str | None, ...]],
    expected: dict[str, tuple[float | str | None, ...]],
    tolerance: float = 0.0,
) -> None:
    """Compare two tables, row by row: bit by bit, or up to what an engine's batches make of one number."""
    assert set(found) == set(expected), "documents are lost or made up"
    different = [doc_id for doc_id, row in expected.items() if not _close(found[doc_id], row, tolerance)]
    assert not different, f"{len(different)} rows differ, such as {different[0]}"


def _close(a: tuple[float | str | None, ...], b: tuple[float | str | None, ...], tolerance: float) -> bool:
    if not tolerance or None in a or None in b:
        return a == b
    return a[0] == b[0] and float(np.abs(np.subtract(a[1:], b[1:])).max()) <= tolerance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--engine", default="table", choices=["table", "vllm"])
    parser.add_argument("--nodes", type=int, default=0, help="simulated nodes; 0: each driver has a cluster of its own")
    parser.add_argument("--pause", nargs=2, type=float, default=[2.0, 10.0])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kinds = KINDS_OF_VLLM if given.engine == "vllm" else KINDS_OF_NODES if given.nodes else KINDS
    changes = {"cluster": ON_NODES | {"actors": [1, given.nodes]} if given.nodes else {}}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        nodes = stack.enter_context(Nodes(given.nodes)) if given.nodes else None
        calm = Job(Path(folder) / "calm", given.documents, given.engine)
        calm.prepare()
        calm.run()
        kills: Counter[str] = Counter()
        while kills.total() < given.kills:  # a job that is done is followed by another one
            seed = given.seed + kills.total()
            wild = Job(Path(folder) / f"wild-{seed}", given.documents, given.engine, nodes)
            wild.prepare(changes=changes)
            pause = (given.pause[0], given.pause[1])
            left = given.kills - kills.total()
            began = time.monotonic()
            wild.run(Killer(wild, kinds, left, pause, seed, READY, patience=0.6))
            assert_same(wild.rows(), calm.rows(), tolerance=1e-3 if given.engine == "vllm" else 0.0)
            kills += wild.kills
            print(
                f"{given.documents:,} documents ({given.engine}): {dict(wild.kills)} killed, {wild.starts} starts, "
                f"{time.monotonic() - began:.0f} s, found staged {wild.resumed}: 0 lost, 0 twice, all values equal",
                flush=True,
            )
        on = "" if nodes is None else f" on {given.nodes} nodes, {nodes.lost} lost and {nodes.added} added"
        print(f"{kills.total()} kills{on}: {dict(kills)}; nothing lost, nothing twice")


if __name__ == "__main__":
    main()
