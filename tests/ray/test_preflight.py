"""What is compared before a job, by processes that share the ids out: against plain counting."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confscore.config import parse
from confscore.errors import CorpusError, JobError
from confscore.manifest import NOTHING, OutputFile
from confscore.plan import Plan, make_plan
from confscore.publication import Compacted
from confscore.row_keys import RowKeys

pytestmark = pytest.mark.ray
HASHES = st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 1 << 58, 1 << 63, 2**64 - 1]), max_size=20)


@pytest.fixture
def plan(tmp_path: Path, settings: dict) -> Plan:
    """Two files of three rows, and another one of two."""
    (tmp_path / "corpus").mkdir()
    for number, ids in enumerate([["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]):
        pq.write_table(pa.table({"doc_id": ids, "text": ["quiet"] * len(ids)}), tmp_path / f"corpus/{number}.parquet")
    return make_plan(parse(settings, "test"))


@given(st.lists(HASHES, max_size=5))
def test_a_share_finds_what_occurs_twice_in_the_parts_that_count(parts: list[list[int]]) -> None:
    from confscore.pipeline.preflight import Share

    share = Share()
    for number, hashes in enumerate(parts):
        for _ in range(2):  # by a task that is done again
            share.add(number, np.sort(np.array(hashes, dtype=np.uint64)))
    counted = Counter(each for number, hashes in enumerate(parts) if number != 1 for each in hashes)
    found = share.twice([number for number in range(len(parts)) if number != 1])
    assert found.tolist() == sorted(each for each, count in counted.items() if count > 1)


def test_a_share_tells_some_where_nearly_all_occur_twice() -> None:
    from confscore.pipeline.preflight import Share

    share = Share()
    for part in range(2):
        share.add(part, np.arange(5000, dtype=np.uint64))
    assert len(share.twice([0, 1])) == 1000


@pytest.fixture
def two_shares(ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster of several nodes with a large corpus."""
    import ray

    from confscore.pipeline import preflight

    def start(plan: Plan) -> Sequence[object]:
        del plan
        return [ray.remote(num_cpus=0)(preflight.Share).remote() for _ in range(2)]

    monkeypatch.setattr(preflight, "_shares", start)


def test_several_shares_have_all_ids_between_them(two_shares: None, plan: Plan) -> None:
    from confscore.pipeline.preflight import look_through

    assert look_through(plan).rows == (3, 3, 2)
    where = Path(plan.config.input.path)
    for number, (mine, theirs) in enumerate([("a", 0), ("e", 1)]):
        again = pa.table({"doc_id": [f"new {number}", mine], "text": ["quiet", "quiet"]})
        pq.write_table(again, where / "again.parquet")
        with pytest.raises(CorpusError, match=rf"the id '{mine}' occurs twice, in .*{theirs}\.parquet row .*again"):
            look_through(make_plan(plan.config))


@pytest.fixture
def dying_shares(ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A share whose process ends when it is told something, as often as there are files in a folder."""
    import ray
    from ray import cloudpickle

    from confscore.pipeline import preflight

    deaths = tmp_path / "deaths"
    deaths.mkdir()

    class Dying(preflight.Share):
        def add(self, part: int, hashes: np.ndarray) -> None:
            for death in deaths.iterdir():
                death.unlink()
                os._exit(1)
            super().add(part, hashes)

    def start(plan: Plan) -> Sequence[object]:
        del plan
        return [ray.remote(num_cpus=0)(Dying).remote()]

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(preflight, "_shares", start)
    yield deaths
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.parametrize("deaths", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_share_that_is_lost_with_its_node_is_made_up_for(dying_shares: Path, plan: Plan, deaths: int) -> None:
    from confscore.pipeline.preflight import look_through

    for number in range(deaths):
        (dying_shares / str(number)).touch()
    assert look_through(plan).rows == (3, 3, 2)
    assert not list(dying_shares.iterdir())


def test_shares_that_are_lost_again_and_again_end_the_job(dying_shares: Path, plan: Plan) -> None:
    from confscore.pipeline.preflight import look_through

    for number in range(9):
        (dying_shares / str(number)).touch()
    with pytest.raises(
        JobError, match=r"^ids could not be compared: .* was lost 3 times: killed from outside, or for want"
    ):
        look_through(plan)


# -- afterwards: every row is there, once ---------------------------------------------------------------------


def finished(keys: Sequence[int], repeated: Sequence[int] = ()) -> Compacted:
    return Compacted(OutputFile(path="part", rows=len(keys), bytes=1), NOTHING, RowKeys(keys), RowKeys(repeated))


def in_file(number: int, *rows: int) -> list[int]:
    return [(number << 40) + row for row in rows]


ALL = [*in_file(0, 0, 1, 2), *in_file(1, 0, 1, 2), *in_file(2, 0, 1)]


def test_a_whole_corpus_is_complete_however_its_files_are_cut(ray_here: None, plan: Plan) -> None:
    from confscore.pipeline.completeness import check_complete, unfinished
    from confscore.pipeline.preflight import look_through

    found = look_through(plan)
    for cut in range(len(ALL) + 1):
        check_complete(plan, found, [finished(ALL[:cut:2]), finished(ALL[1:cut:2]), finished(ALL[cut:])])
    assert [part.file.number for part in unfinished(found, RowKeys(ALL[1:-1]))] == [0, 2]
    assert unfinished(found, RowKeys(ALL)) == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([finished(ALL[:4]), finished(ALL[3:])], r"1 rows were scored twice, the first of them .*1\.parquet row 0;"),
        ([finished(ALL, ALL[6:])], r"2 rows were scored twice, the first of them .*2\.parquet row 0;"),
        ([finished(ALL[:4]), finished(ALL[5:])], r"8 rows were read and 7 scored, the first of them in .*1\.parquet;"),
        ([], r"8 rows were read and 0 scored, the first of them in .*0\.parquet;"),
        ([finished([*ALL, *in_file(2, 9)])], r"8 rows were read and 9 scored;"),
    ],
)
def test_rows_that_are_missing_or_there_twice_are_told(
    ray_here: None, plan: Plan, files: list[Compacted], said: str
) -> None:
    from confscore.pipeline.completeness import check_complete
    from confscore.pipeline.preflight import look_through

    with pytest.raises(JobError, match=said + " nothing was published; remove .* and start the job again"):
        check_complete(plan, look_through(plan), files)
