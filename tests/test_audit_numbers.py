"""The audit's numbers against worlds whose answers are known: draws of labels, plain NumPy, and quiet nights."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from confscore.audit.build import Night, category_numbers, overall_numbers
from confscore.audit.drift import (
    BINS,
    count_bins,
    normalized_wasserstein,
    population_stability_index,
    upper_band,
)
from confscore.audit.excerpts import LONGEST, excerpt
from confscore.audit.expected import expected_quality, wilson
from confscore.audit.history import History, of_kind
from confscore.audit.record import Cost, NightRecord
from confscore.audit.tally import MOST_REASONS, NightCounts, count_night
from confscore.identity import Identity
from confscore.population import Tally, Totals
from confscore.rules import Rule, make_rules

TODAY = date(2026, 6, 1)
IDENTITY = Identity(
    guard="g",
    guard_hash="0",
    categories={"A": "a"},
    model="m",
    model_hash="a" * 64,
    revision=None,
    tokenizer_hash="0",
    prompt_hash="0",
    procedure="exact",
    paper=None,
    normalization="global",
    long_documents="chunk",
)


# -- a table of one night ------------------------------------------------------------------------------------


def table_of(folder: Path, probs: np.ndarray, codes: tuple[str, ...], order: np.ndarray | None = None) -> pds.Dataset:
    """Write documents in files of several row groups; some are errors, bounded, truncated."""
    count = len(probs)
    number = np.arange(count)
    failed = number % 7 == 3
    order = number if order is None else order
    columns = {
        "doc_id": pa.array([f"d{i:05d}" for i in number]),
        "run_id": pa.array([f"run-{i % 2}" for i in number]),
        "status": pa.array(np.where(failed, "error", np.where(number % 5 == 0, "bounded", "scored"))),
        "error": pa.array([f"reason {i % 30}" if bad else None for i, bad in zip(number, failed, strict=True)]),
        "truncated": pa.array(number % 11 == 0),
        "residual": pa.array(np.where(number % 13 == 0, 0.2, 0.1), pa.float64(), mask=failed),
        "off_grammar": pa.array((number % 8) / 64, pa.float32(), mask=failed),
        "requests": pa.array(number % 4, pa.int32()),
        "prompt_tokens": pa.array(number, pa.int32()),
        **{f"p_{code}": pa.array(probs[:, j], pa.float32(), mask=failed) for j, code in enumerate(codes)},
    }
    table = pa.table(columns).take(pa.array(order))
    folder.mkdir()
    half = max(count // 2, 1)
    for part, piece in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(piece, folder / f"{part}.parquet", row_group_size=max(count // 7, 1))
    return pds.dataset(folder, format="parquet")


def numbers_of(counts: NightCounts, rules: tuple[Rule, ...]) -> tuple:
    codes = tuple(rule.code for rule in rules)
    cost = Cost(
        runs=(),
        requests=0,
        prompt_tokens=0,
        startup_seconds=None,
        scoring_seconds=None,
        actor_hours=None,
        documents_per_second=None,
    )
    state = Night(codes, codes, rules, counts, history([]), None, cost, {})
    return overall_numbers(state), category_numbers(state)


def test_a_night_is_counted_as_plain_arrays_are_in_any_order_of_its_rows(tmp_path: Path) -> None:  # noqa: PLR0915
    rng = np.random.default_rng(1)
    codes = ("A", "B", "C")
    probs = np.round(rng.beta(0.3, 2.0, (700, 3)), 2).astype(np.float32)  # with many ties, some at the threshold
    rules = make_rules(None, ["A=0.25", "B=0.5", "C=0.9"], codes)
    one = count_night("t", table_of(tmp_path / "one", probs, codes), rules, 4)
    number = np.arange(700)
    good = number % 7 != 3
    p = probs[good].astype(np.float64)
    z = probs[good] >= np.array([0.25, 0.5, 0.9], np.float32)
    assert (one.scored, one.failed) == (good.sum(), (~good).sum())
    assert one.bounded == (good & (number % 5 == 0)).sum()
    assert one.truncated == (good & (number % 11 == 0)).sum()
    assert one.wide == (good & (number % 13 == 0)).sum()
    assert one.flagged_any == z.any(axis=1).sum()
    assert (one.requests, one.prompt_tokens) == ((number % 4).sum(), number.sum()), "errors have taken some, too"
    assert one.off_grammar == pytest.approx((number[good] % 8).sum() / 64)
    assert one.runs == ("run-0", "run-1")
    np.testing.assert_allclose(one.totals.expected, p.sum(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(one.totals.flagged, z.sum(axis=0))
    np.testing.assert_allclose(one.totals.expected_flagged, (z * p).sum(axis=0), rtol=1e-9)
    np.testing.assert_allclose(one.variance, (p * (1 - p)).sum(axis=0))
    np.testing.assert_allclose(one.variance_flagged, (z * p * (1 - p)).sum(axis=0))
    np.testing.assert_array_equal(one.together, z.T.astype(int) @ z.astype(int))
    with np.errstate(divide="ignore"):
        log_odds = np.log(p / (1 - p))
    inner = np.r_[-np.inf, np.linspace(-10, 10, 41), np.inf]
    for j in range(3):
        want = [((log_odds[:, j] >= low) & (log_odds[:, j] < high)).sum() for low, high in pairwise(inner)]
        want[-1] += np.isposinf(log_odds[:, j]).sum()
        np.testing.assert_array_equal(one.histograms[j], want)
    np.testing.assert_array_equal(one.largest, count_bins(p.max(axis=1)))
    ids = [f"d{i:05d}" for i in number[good]]
    for j in range(3):
        best = sorted(range(len(ids)), key=lambda i, j=j: (-p[i, j], ids[i]))[:4]
        assert [top.doc_id for top in one.tops[j]] == [ids[i] for i in best]
        assert [top.flagged for top in one.tops[j]] == z[best, j].tolist()
    assert sum(one.errors.values()) == one.failed
    assert len(one.errors) == MOST_REASONS + 1
    assert max(one.errors, key=one.errors.__getitem__) == "other reasons"

    other = count_night("t", table_of(tmp_path / "other", probs, codes, rng.permutation(700)), rules, 4)
    np.testing.assert_array_equal(one.totals.expected, other.totals.expected)
    np.testing.assert_array_equal(one.totals.expected_flagged, other.totals.expected_flagged)
    np.testing.assert_array_equal(one.histograms, other.histograms)
    np.testing.assert_array_equal(one.together, other.together)
    assert one.tops == other.tops
    assert (one.scored, one.failed, one.flagged_any) == (other.scored, other.failed, other.flagged_any)

    overall, categories = numbers_of(one, rules)
    assert overall.metrics["flag_rate"] == z.any(axis=1).mean()
    assert overall.metrics["wide_rate"] == one.wide / one.scored
    assert overall.metrics["bounded_rate"] == one.bounded / 700
    assert overall.metrics["off_grammar"] == one.off_grammar / one.scored
    assert overall.metrics["tokens_per_document"] == number.sum() / 700
    assert overall.metrics["precision"] == pytest.approx((z * p).sum() / z.sum())
    assert overall.metrics["recall"] == pytest.approx((z * p).sum() / p.sum())
    assert overall.metrics["prevalence"] == pytest.approx(p.mean())
    assert categories[1].metrics["expected"] == pytest.approx(p[:, 1].sum())


@pytest.mark.parametrize(("value", "flagged"), [(0.0, False), (1.0, True)])
def test_scores_of_0_and_1_have_finite_numbers(tmp_path: Path, value: float, flagged: bool) -> None:
    rules = make_rules(None, ["0.5"], ("A",))
    counts = count_night("t", table_of(tmp_path / "t", np.full((30, 1), value), ("A",)), rules, 2)
    assert counts.histograms[0, -1 if value else 0] == counts.scored == 26
    overall, (only,) = numbers_of(counts, rules)
    for numbers in (overall, only):
        assert numbers.metrics["prevalence"] == value
        assert (numbers.intervals["prevalence"].low, numbers.intervals["prevalence"].high) == (value, value)
        assert numbers.metrics["precision"] == (1.0 if flagged else None)
        assert numbers.metrics["recall"] == (1.0 if flagged else None)
        assert numbers.metrics["f1"] == (1.0 if flagged else None)
    assert [top.doc_id for top in only.top] == ["d00000", "d00001"]


def test_one_document_and_none(tmp_path: Path) -> None:
    rules = make_rules(None, ["0.5"], ("A",))
    counts = count_night("t", table_of(tmp_path / "one", np.array([[0.75]]), ("A",)), rules, 3)
    overall, (only,) = numbers_of(counts, rules)
    assert (counts.scored, counts.failed, counts.together.tolist()) == (1, 0, [[1]])
    assert only.metrics["precision"] == only.metrics["prevalence"] == 0.75
    assert only.metrics["recall"] == 1.0
    assert overall.metrics["error_rate"] == 0
    failed = table_of(tmp_path / "none", np.full((4, 1), 0.9), ("A",), np.array([3]))
    counts = count_night("t", failed, rules, 3)
    overall, (only,) = numbers_of(counts, rules)
    assert (counts.scored, counts.failed, counts.tops) == (0, 1, ((),))
    assert overall.metrics["error_rate"] == 1.0
    for name in ("flag_rate", "prevalence", "precision", "recall", "f1", "psi", "wasserstein"):
        assert overall.metrics[name] is None
        assert only.metrics[name] is None


# -- estimates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.4, 0.8])
def test_labels_that_are_drawn_from_the_probabilities_lie_in_their_intervals_as_often_as_said(threshold: float) -> None:
    rng = np.random.default_rng(7)
    p = np.concatenate([rng.beta(0.2, 6.0, 2600), rng.beta(4.0, 2.0, 400)])
    z = p >= threshold
    counts = NightCounts(
        *(len(p), 0, 0, 0, 0, int(z.sum()), 0, 0, 0.0),
        totals=_totals(p, z),
        variance=np.array([(p * (1 - p)).sum()]),
        variance_flagged=np.array([(z * p * (1 - p)).sum()]),
        histograms=np.zeros((1, BINS), np.int64),
        largest=np.zeros(BINS, np.int64),
        together=np.zeros((1, 1), np.int64),
        errors={},
        tops=((),),
        runs=(),
    )
    found = expected_quality(counts.expected([0]))
    labels = rng.random((3000, len(p))) < p
    true, positives = labels[:, z].sum(axis=1), labels.sum(axis=1)
    drawn = {
        "prevalence": positives / len(p),
        "precision": true / z.sum(),
        "recall": true / positives,
        "f1": 2 * true / (z.sum() + positives),
    }
    for name, values in drawn.items():
        share = found[name]
        assert share is not None
        assert share.value == pytest.approx(values.mean(), abs=4 * values.std() / np.sqrt(3000) + 2e-4), name
        covered = ((values >= share.low) & (values <= share.high)).mean()
        assert 0.935 < covered < 0.965, name  # 95 %, and binomial noise of 3000 draws is 0.4 %


def _totals(p: np.ndarray, z: np.ndarray) -> Totals:
    tally = Tally(1)
    tally.add(p[:, None], z[:, None])
    return tally.totals()


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_intervals_are_those_that_newcombe_printed_in_1998(
    count: int, of: int, low: float, high: float
) -> None:
    share = wilson(count, of)
    assert share is not None
    assert (share.value, round(share.low, 4), round(share.high, 4)) == (count / of, low, high)
    assert wilson(0, 0) is None


# -- what earlier nights say ---------------------------------------------------------------------------------


def record(night: date, kind: str = "k", size: float = 1000, **metrics: float | None) -> NightRecord:
    """Make the record of a night of so many documents; its metrics are those of category A."""
    return NightRecord(
        night=str(night),
        audit_id=f"audit-{40 - night.day}",  # says nothing of the order
        signature="s",
        kind=kind,
        identity=IDENTITY,
        provenance_hash="h",
        verdict="ok",
        summary="",
        folder="",
        sample=None,
        metrics={"overall": {"documents": size}, "A": metrics},
        histograms={"A": (night.day, *[0] * (BINS - 1))},
        replaces=None,
        created_at="",
    )


def history(records: list[NightRecord], alpha: float = 0.0005) -> History:
    return History(tuple(records), TODAY, 7, 28, alpha)


def nights_before(values: np.ndarray, metric: str, documents: float) -> list[NightRecord]:
    first = TODAY - timedelta(days=len(values))
    return [
        record(first + timedelta(days=i), size=documents, **{metric: float(value)}) for i, value in enumerate(values)
    ]


def test_windows_reach_as_far_as_they_say() -> None:
    days = [40, 29, 28, 10, 3]
    found = history([record(TODAY - timedelta(days=back), flag_rate=back / 100) for back in days])
    assert [each.night for each in found.trailing] == ["2026-05-04", "2026-05-22", "2026-05-29"], "28 days, and no more"
    assert found.gap_days() == 3
    assert found.look_up("A", "flag_rate", "previous") == 0.03
    assert found.look_up("A", "flag_rate", "trailing_median") == 0.10
    assert found.look_up("A", "flag_rate", "band") is None, "of three nights"
    assert found.look_up("A", "psi", "previous") is None
    shorter = replace(found, baseline_nights=2)
    counts = shorter.baseline_histogram("A")
    assert counts is not None
    assert counts[0] == (TODAY - timedelta(days=40)).day + (TODAY - timedelta(days=29)).day
    assert shorter.baseline_histogram("S9") is None
    assert history([]).baseline_histogram("A") is None


def test_a_late_night_comes_into_the_order_of_nights_and_other_kinds_do_not() -> None:
    back = {number: TODAY - timedelta(days=number) for number in range(6)}
    records = [record(back[4]), record(back[1]), record(back[2], "other"), record(back[3]), record(back[0])]
    assert [each.night for each in of_kind(records, "k", TODAY)] == [str(back[4]), str(back[3]), str(back[1])]
    assert [each.night for each in of_kind(records, "k", back[3])] == [str(back[4])]


def test_a_band_is_the_bound_that_its_formula_says() -> None:
    values = np.exp([0.0, 0.1, -0.1, 0.3, 0.0, -0.2, 0.1, 5.0])
    logs = np.log(values)
    spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    plain = np.median(logs) + stats.t.ppf(0.99, 7) * spread * np.sqrt(1 + 1 / 8)
    assert upper_band(values.tolist(), 0.01) == pytest.approx(np.exp(plain))
    pooled = np.sqrt((10 * 0.3**2 + 8 * spread**2) / 18)
    own = np.median(logs) + stats.t.ppf(0.99, 17) * pooled * np.sqrt(1 + 1 / 8)
    assert upper_band(values.tolist(), 0.01, 0.3) == pytest.approx(np.exp(own))
    wider = np.median(logs) + stats.t.ppf(0.99, 17) * np.sqrt(pooled**2 * (1 + 1 / 8) + 0.04)
    assert upper_band(values.tolist(), 0.01, 0.3, 0.04) == pytest.approx(np.exp(wider))
    assert upper_band(values[:6].tolist(), 0.01) is None
    assert upper_band(values[:7].tolist(), 0.01) is not None


@pytest.mark.parametrize("metric", ["flag_rate", "prevalence", "error_rate"])
@pytest.mark.parametrize(("documents", "rate"), [(200, 0.05), (2000, 0.002), (20_000, 0.01), (20_000, 0.3)])
@pytest.mark.parametrize("tonight", [1.0, 0.1])
def test_rates_of_quiet_nights_exceed_their_band_no_more_often_than_alpha(
    metric: str, documents: int, rate: float, tonight: float
) -> None:
    # Measured over 200 to 20,000 documents, rates of 0.0005 to 0.3 and 7 to 28 nights: at most 0.0006 for an alpha of
    # 0.0005 and 0.012 for 0.01; of a night with a tenth of the documents at most 0.0034 for 0.01.
    rng = np.random.default_rng(3)
    size = int(documents * tonight)
    for alpha in (0.0005, 0.01):
        exceeded = []
        for _ in range(15):
            earlier = rng.binomial(documents, rate, 21) / documents
            found = replace(history(nights_before(earlier, metric, documents), alpha), documents=size, scored=size)
            band = found.band("A", metric)
            assert band is not None
            exceeded.append(stats.binom.sf(np.floor(band * size + 1e-9), size, rate))  # the exact chance
        assert np.mean(exceeded) <= 1.6 * alpha


def test_a_doubling_is_seen_where_there_are_documents_enough() -> None:
    # Measured with 28 nights: 80 % of doublings of 40 flagged documents a night, and all of 200.
    rng = np.random.default_rng(4)
    seen = []
    for _ in range(30):
        band = history(nights_before(rng.binomial(20_000, 0.01, 28) / 20_000, "flag_rate", 20_000)).band(
            "A", "flag_rate"
        )
        assert band is not None
        seen.append(stats.binom.sf(np.floor(band * 20_000), 20_000, 0.02))
    assert np.mean(seen) > 0.999


@pytest.mark.parametrize("metric", ["psi", "wasserstein"])
@pytest.mark.parametrize("shape", ["guard", "narrow"])
def test_distances_of_quiet_nights_stay_below_their_band_on_small_nights_too(metric: str, shape: str) -> None:
    # Measured: of nights of one size none of 540 for psi and at most 0.002 for wasserstein, with an alpha of 0.0005. A
    # night of a tenth of the documents exceeded a band that did not know of it nearly always (psi), or one time in
    # three (wasserstein); now at most 0.002.
    distance = population_stability_index if metric == "psi" else normalized_wasserstein
    rng = np.random.default_rng(5)
    normal = rng.normal(size=200_000)
    log_odds = np.where(rng.random(200_000) < 0.03, 2 + 1.5 * normal, -6 + 1.5 * normal)
    shares = count_bins(1 / (1 + np.exp(-(log_odds if shape == "guard" else 0.4 * normal - 9)))) / 200_000
    quiet, small, moved = [], [], []
    for _ in range(12):
        nights = rng.multinomial(2000, shares, 24)
        baseline = nights[:7].sum(axis=0)
        values = np.array([distance(night, baseline) for night in nights[7:]])
        found = history(nights_before(values, metric, 2000))
        band, of_small = found.band("A", metric), replace(found, scored=200).band("A", metric)
        assert band is not None
        assert of_small is not None
        quiet += [distance(night, baseline) > band for night in rng.multinomial(2000, shares, 10)]
        small += [distance(night, baseline) > of_small for night in rng.multinomial(200, shares, 10)]
        moved += [distance(night, baseline) > band for night in rng.multinomial(2000, np.roll(shares, 1), 2)]
        assert replace(found, scored=20_000).band("A", metric) == band, "more documents make no band narrower"
    assert np.mean(quiet) <= 0.02
    assert np.mean(small) <= 0.02
    assert np.mean(moved) > 0.9, "half a unit of log-odds is seen"


@pytest.mark.parametrize(
    ("metric", "value"), [("off_grammar", 0.001), ("f1", 0.3), ("tokens_per_document", 120.0), ("documents", 1000.0)]
)
def test_bands_of_other_metrics_are_near_what_they_were(metric: str, value: float) -> None:
    rng = np.random.default_rng(6)
    values = value * np.exp(rng.normal(0, 0.02, 14))
    band = history(nights_before(values, metric, 1000)).band("A", metric)
    assert band is not None
    assert np.median(values) * 1.05 < band < np.median(values) * 1.3


# -- excerpts ------------------------------------------------------------------------------------------------

_PIECES = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["ann.other+x@example.org", "https://example.org/a?b", "www.example.org", "@ann", "0151 2345 6789"]
    ),
    st.from_regex(r"[0-9]{4,30}", fullmatch=True),
    st.text("ab1", min_size=41, max_size=900),
    st.sampled_from(["\n", "\r", "\u2028", "\x85", "\x0b", "\x1c", " " * 700]),
)


@given(st.lists(_PIECES, max_size=12).map(" ".join))
def test_an_excerpt_is_one_short_line_without_what_it_promises_to_leave_out(text: str) -> None:
    assert excerpt(text, "none") is None
    for how in ("full", "redacted"):
        line = excerpt(text, how)
        assert line is not None
        assert len(line) <= LONGEST
        assert len(line.splitlines()) <= 1
    redacted = excerpt(text, "redacted")
    assert redacted is not None
    for promised in ("@example", "example.org", "@ann", "0151", "6789"):
        assert promised not in redacted
    assert not any(redacted[i : i + 4].isdecimal() for i in range(len(redacted) - 3))
    assert max(map(len, redacted.split()), default=0) <= 40
