"""A row that ends its process is found, in few steps, and no other row is blamed for it.

A process that dies is an exception that passes through :func:`score_marked`: what is left of it is its marks.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confscore.marks import STARTS_A_STRIKE, STRIKES, Marks, Turns, score_marked
from confscore.rows import Score

SOON = 20.0
MOST_DEATHS = 8


class Died(BaseException):
    """The process is gone."""


@dataclass
class Block:
    """A block of ``rows`` rows, handed to one process after the other until it is done.

    Attributes
    ----------
    deaths : int
        How many processes have died.
    alone : Counter
        ``alone[i]`` processes died over row i while nothing else was in work.
    calls : list of (int, int)
        What the last process has scored.
    """

    marks: Marks
    rows: int
    first_key: int = 7
    deaths: int = 0
    alone: Counter[int] = field(default_factory=Counter)
    calls: list[tuple[int, int]] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [f"d{self.first_key + i}" for i in range(self.rows)]

    def work(self, turns: Turns, harm: Callable[[int, int], bool]) -> list[Score]:
        """Do what an actor does with a block. ``harm(start, end)`` says whether the process dies."""
        self.calls = []

        def score(start: int, end: int) -> list[Score]:
            assert 0 <= start < end <= self.rows
            if harm(start, end):
                if end - start == 1 and self.deaths >= STRIKES:
                    self.alone[start] += 1
                raise Died
            self.calls.append((start, end))
            return [Score(doc_id, "scored") for doc_id in self.ids[start:end]]

        keys = range(self.first_key, self.first_key + self.rows)
        return score_marked(self.marks, turns, keys, self.ids, score)

    def until_done(self, harm: Callable[[int, int], bool], most_deaths: int = MOST_DEATHS) -> list[Score]:
        while True:
            try:
                return self.work(Turns(), harm)
            except Died:
                self.deaths += 1
                assert self.deaths <= most_deaths, f"too many deaths in a block of {self.rows} rows"


def killed_by(rows: Collection[int]) -> Callable[[int, int], bool]:
    return lambda start, end: any(start <= row < end for row in rows)


def assert_given_up(block: Block, scores: list[Score], rows: Collection[int]) -> None:
    """Assert that exactly these rows are errors, and that the last process has scored every other one once."""
    assert [score.doc_id for score in scores] == block.ids
    assert {i for i, score in enumerate(scores) if score.status == "error"} == set(rows)
    assert all("process ended 2 times" in scores[row].error for row in rows)
    scored = [row for start, end in block.calls for row in range(start, end)]
    assert scored == [row for row in range(block.rows) if row not in rows]


def left_over(marks: Marks) -> list[Path]:
    return list(Path(marks.folder).iterdir())


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    return Marks(str(tmp_path / "scores"), str(tmp_path / "scores.run-1" / "marks"), "a")


def test_without_deaths_nothing_is_cut_or_left_behind(marks: Marks) -> None:
    turns = Turns()
    for number in range(20):
        block = Block(marks, 300, first_key=number * 300)
        assert_given_up(block, block.work(turns, lambda start, end: False), [])
        assert block.calls == [(0, 300)]
    assert left_over(marks) == []


@given(data=st.data(), rows=st.one_of(st.integers(1, 20), st.integers(1, 600)))
@settings(max_examples=60)
def test_one_row_of_a_block_is_found(data: st.DataObject, rows: int) -> None:
    killer = data.draw(st.integers(0, rows - 1), "killer")
    with tempfile.TemporaryDirectory() as folder:
        block = Block(Marks(folder, folder, "a"), rows)
        assert_given_up(block, block.until_done(killed_by([killer])), [killer])
        assert block.alone == {killer: STRIKES}
        assert left_over(block.marks) == []


@given(data=st.data(), rows=st.one_of(st.integers(2, 20), st.integers(2, 600)))
@settings(max_examples=40)
def test_several_rows_of_a_block_are_found_one_after_the_other(data: st.DataObject, rows: int) -> None:
    killers = data.draw(st.sets(st.integers(0, rows - 1), min_size=2, max_size=min(5, rows)), "killers")
    with tempfile.TemporaryDirectory() as folder:
        block = Block(Marks(folder, folder, "a"), rows)
        scores = block.until_done(killed_by(killers), most_deaths=2 + len(killers) * (MOST_DEATHS - 2))
        assert_given_up(block, scores, killers)
        assert block.alone == dict.fromkeys(killers, STRIKES), "what was found once is not tried again"
        assert left_over(block.marks) == []


@given(rows=st.one_of(st.integers(1, 20), st.integers(1, 600)), seed=st.integers(0, 1 << 30), share=st.floats(0, 0.3))
@settings(max_examples=60)
def test_rows_are_not_blamed_for_deaths_from_outside(rows: int, seed: int, share: float) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        block = Block(Marks(folder, folder, "a"), rows)

        def harm(start: int, end: int) -> bool:
            return block.deaths < 30 and chance.random() < share

        scores = block.until_done(harm, most_deaths=30)
        unlucky = [row for row, deaths in block.alone.items() if deaths >= STRIKES]
        blamed = [row for row, score in enumerate(scores) if score.status == "error"]
        assert set(blamed) <= set(unlucky), "was alone twice"
        assert_given_up(block, scores, blamed)
        assert left_over(block.marks) == []


@given(rows=st.one_of(st.integers(1, 20), st.integers(1, 600)), starts=st.integers(0, 2 * STARTS_A_STRIKE - 1))
@settings(max_examples=40)
def test_no_row_is_blamed_for_a_job_that_is_ended_as_a_whole(rows: int, starts: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        block = Block(Marks(folder, folder, "0"), rows)
        for number in range(starts):
            with pytest.raises(Died):
                block.work(Turns(), lambda start, end: True)
            block.marks = replace(block.marks, start=f"{number + 1}")
        assert_given_up(block, block.work(Turns(), lambda start, end: False), [])
        assert block.calls == [(0, rows)], "nor is its block cut up"


def test_a_row_that_ends_the_whole_job_every_time_is_found_in_the_end(marks: Marks) -> None:
    block = Block(marks, 3)
    for number in range(200):
        try:
            scores = block.work(Turns(), killed_by([1]))
            break
        except Died:
            block.marks = replace(marks, start=f"{number}")
    assert_given_up(block, scores, [1])
    assert number == STARTS_A_STRIKE * (STRIKES + STRIKES), "the block, then the row"


def test_processes_that_died_in_an_earlier_start_count(marks: Marks) -> None:
    """An actor that is started again within a start is no end of the job."""
    block = Block(marks, 4)
    for _ in range(3):
        with pytest.raises(Died):
            block.work(Turns(), lambda start, end: True)
    block.marks = replace(marks, start="b")
    assert marks.found(next(Path(marks.folder).iterdir()).name) == 2
    assert_given_up(block, block.work(Turns(), lambda start, end: False), [])
    assert block.calls != [(0, 4)], "it is cut up at once"


def test_a_block_of_one_row_is_not_blamed_for_what_was_in_work_beside_it(marks: Marks) -> None:
    block = Block(marks, 1)
    scores = block.until_done(lambda start, end: block.deaths < STRIKES)
    assert_given_up(block, scores, [])
    assert block.deaths == STRIKES


def test_a_group_that_passed_starts_afresh(marks: Marks) -> None:
    """Deaths from outside that hit a row once in each of its turns do not add up."""
    block = Block(marks, 2)
    seen = Counter[tuple[int, int]]()

    def harm(start: int, end: int) -> bool:
        seen[start, end] += 1
        # Twice the block; then row 0 passes, and the process dies over row 1, again and again.
        return block.deaths < STRIKES or (start, end) == (1, 2)

    assert_given_up(block, block.until_done(harm), [1])
    assert seen[0, 1] == 3, "row 0 was scored again by every process"


# -- several blocks in one process ---------------------------------------------------------------------------


class Process(Turns):
    """Works on blocks side by side until it dies; after that nobody gets a turn."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = threading.Event()

    @contextmanager
    def shared(self) -> Iterator[None]:
        with super().shared():
            self._live()
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        with super().alone():
            self._live()
            yield

    def _live(self) -> None:
        if self.dead.is_set():
            raise Died

    def work(self, block: Block, killers: Collection[int]) -> list[Score] | None:
        def harm(start: int, end: int) -> bool:
            if any(start <= row < end for row in killers):
                self.dead.set()
            # The work of others takes a moment, in which they may die with the process.
            return self.dead.wait(0.01)

        try:
            return block.work(self, harm)
        except Died:
            return None


def test_blocks_beside_a_bad_one_keep_all_their_rows(marks: Marks) -> None:
    sizes = [1, 40, 300, 1, 17, 2]
    blocks = [Block(marks, size, first_key=1000 * number) for number, size in enumerate(sizes)]
    killers = {2: [123]}
    done: dict[int, list[Score]] = {}
    deaths = 0
    with ThreadPoolExecutor(4) as pool:
        while len(done) < len(blocks):
            process = Process()
            waiting = [number for number in range(len(blocks)) if number not in done]
            results = pool.map(lambda n, p=process: p.work(blocks[n], killers.get(n, [])), waiting)
            done |= {n: scores for n, scores in zip(waiting, results, strict=True) if scores is not None}
            deaths += process.dead.is_set()
            assert deaths <= MOST_DEATHS
    for number, block in enumerate(blocks):
        assert_given_up(block, done[number], killers.get(number, []))
    assert left_over(marks) == []


def test_who_waits_for_a_turn_is_not_marked(marks: Marks) -> None:
    """A process that dies meanwhile has not died over it."""
    turns = Turns()
    block = Block(marks, 10)
    with turns.alone():
        waiting = threading.Thread(target=block.work, args=(turns, lambda start, end: False))
        waiting.start()
        poll(lambda: bool(turns._changed._waiters))
        assert not Path(marks.folder).exists() or left_over(marks) == []
    waiting.join(SOON)
    assert block.calls == [(0, 10)]


def test_a_block_that_another_process_has_finished_meanwhile_is_no_error(marks: Marks) -> None:
    """Ray may hand a block on while the process that it gave up is still alive."""
    slow, quick = Block(marks, 10), Block(marks, 10)

    def overtaken(start: int, end: int) -> bool:
        quick.work(Turns(), lambda start, end: False)
        return False

    assert_given_up(slow, slow.work(Turns(), overtaken), [])
    assert_given_up(quick, quick.work(Turns(), lambda start, end: False), [])


# -- turns ---------------------------------------------------------------------------------------------------


def poll(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def test_shared_groups_run_side_by_side() -> None:
    turns, meet = Turns(), threading.Barrier(4, timeout=SOON)

    def run() -> None:
        with turns.shared():
            meet.wait()  # nobody passes before all four are here

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(run) for _ in range(4)]:
            each.result()


def test_alone_waits_for_the_others_and_keeps_newcomers_out() -> None:
    turns, log = Turns(), list[str]()
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with turns.shared():
            entered.set()
            assert leave.wait(SOON)
            log.append("first leaves")

    def alone() -> None:
        with turns.alone():
            log.append("alone enters")
            poll(lambda: len(turns._changed._waiters) >= 2)  # both newcomers are waiting
            log.append("alone leaves")

    def newcomer() -> None:
        with turns.shared():
            log.append("newcomer")

    with ThreadPoolExecutor(4) as pool:
        began = [pool.submit(first)]
        assert entered.wait(SOON)
        began.append(pool.submit(alone))
        poll(lambda: turns._alone)  # it has asked
        began += [pool.submit(newcomer), pool.submit(newcomer)]
        poll(lambda: len(turns._changed._waiters) == 3)
        assert log == []
        leave.set()
        for each in began:
            each.result(SOON)
    assert log == ["first leaves", "alone enters", "alone leaves", "newcomer", "newcomer"]


def test_nobody_runs_beside_one_that_is_alone() -> None:
    turns, lock, running = Turns(), threading.Lock(), Counter[str]()
    together = 0

    def run(kind: str) -> None:
        nonlocal together
        for _ in range(50):
            with turns.alone() if kind == "alone" else turns.shared():
                with lock:
                    running[kind] += 1
                    assert running["alone"] <= (kind == "alone")
                    assert not (running["alone"] and running["shared"])
                    together = max(together, running["shared"])
                time.sleep(0.0002)
                with lock:
                    running[kind] -= 1

    with ThreadPoolExecutor(6) as pool:
        for each in [pool.submit(run, kind) for kind in ["shared"] * 4 + ["alone"] * 2]:
            each.result(SOON)
    assert together > 1


def test_a_turn_ends_with_an_exception() -> None:
    turns = Turns()
    for turn in (turns.shared, turns.alone, turns.shared, turns.alone):
        with pytest.raises(ZeroDivisionError), turn():
            raise ZeroDivisionError
