"""Reports of an audit, made by hand: a month of a corpus in which something happens, and what is awkward to show."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from confscore.audit.drift import BINS, count_bins, normalized_wasserstein, population_stability_index
from confscore.audit.record import (
    CATEGORY_METRICS,
    OVERALL_METRICS,
    AlertRecord,
    Artefact,
    Baseline,
    CategoryReport,
    Cost,
    Interval,
    LabelsIn,
    NightRecord,
    Notice,
    Numbers,
    Report,
    SampleDrawn,
    TopDocument,
    TrendPoint,
)
from confscore.identity import Identity

LAST = date(2026, 11, 25)
NAMES = ("Insults", "Spam", "Personal Data", "Medical Advice", "Legal Advice", "Financial Advice", "Gambling")
MISSING = (9, 10, 19)
"""Nights that were not audited, counted from the first one."""


def identity(names: tuple[str, ...] = NAMES) -> Identity:
    return Identity(
        guard="demo-guard",
        guard_hash="a1" * 32,
        categories={f"S{place}": name for place, name in enumerate(names, 1)},
        model="demo/guard",
        model_hash="b2" * 32,
        revision=None,
        tokenizer_hash="c3" * 32,
        prompt_hash="d4" * 32,
        procedure="exact",
        paper=None,
        normalization="answers",
        long_documents="chunk",
    )


def _around(value: float, by: float = 0.08) -> Interval:
    return Interval(low=value * (1 - by), high=value * (1 + by))


def month(nights: int = 28, names: tuple[str, ...] = NAMES, *, seed: int = 1) -> Report:
    """Return the report of the last of some nights; on it, much is said of the fourth category."""
    rng = np.random.default_rng(seed)
    codes = [f"S{place}" for place in range(1, len(names) + 1)]
    days = [LAST - timedelta(days=nights - 1 - each) for each in range(nights) if each not in MISSING or nights < 20]
    documents = rng.integers(46_000, 52_000, len(days))
    base = {code: 0.002 * 1.7 ** rng.uniform(-2, 4) for code in codes}
    trend, histograms = [], {}
    for place, day in enumerate(days):
        metrics: dict[str, dict[str, float | None]] = {}
        tonight = place == len(days) - 1
        for code in codes:
            surge = 2.6 if tonight and code == "S4" and nights > 1 else 1.0
            rate = base[code] * surge * rng.uniform(0.93, 1.07)
            share = min(0.5, 1.3 * rate)
            log_odds = np.where(rng.random(4000) < share, rng.normal(3, 2, 4000), rng.normal(-7, 1.6, 4000))
            counts = count_bins(1 / (1 + np.exp(-log_odds)))
            first = histograms.setdefault(code, counts)
            metrics[code] = dict.fromkeys(CATEGORY_METRICS) | {
                "flagged": float(round(rate * documents[place])),
                "flag_rate": rate,
                "expected": 1.1 * rate * documents[place],
                "prevalence": 1.1 * rate,
                "psi": population_stability_index(counts, first) if place else None,
                "wasserstein": normalized_wasserstein(counts, first) if place else None,
                "precision": 0.9 - 0.3 * surge / 10,
                "recall": 0.81,
                "f1": 0.84,
                "audited_prevalence": 1.05 * rate if place > 3 else None,
                "audited_precision": 0.88 if place > 3 else None,
                "audited_recall": 0.79 if place > 3 else None,
                "audited_f1": 0.832 if place > 3 else None,
            }
            histograms[f"{code}.tonight"] = counts
        every = [each for each in metrics.values() if each["flag_rate"] is not None]
        metrics["overall"] = dict.fromkeys(OVERALL_METRICS) | {
            "documents": float(documents[place]),
            "gap_days": float((day - days[place - 1]).days) if place else None,
            "error_rate": 0.00006 * rng.uniform(0, 3),
            "bounded_rate": 0.012,
            "truncated_rate": 0.0,
            "wide_rate": 0.0031,
            "off_grammar": 0.00042,
            "tokens_per_document": 812.4,
            "requests_per_document": 1.37,
            "flag_rate": 0.8 * sum(each["flag_rate"] or 0 for each in every),
            "prevalence": float(np.mean([each["prevalence"] for each in every])),
            "psi": 0.004 * rng.uniform(0.7, 1.3) * (4 if tonight else 1) if place else None,
            "wasserstein": 0.021 if place else None,
            "precision": 0.873,
            "recall": 0.791,
            "f1": 0.83,
            "audited_precision": 0.88 if place > 3 else None,
            "audited_recall": 0.8 if place > 3 else None,
            "audited_f1": 0.838 if place > 3 else None,
            "documents_per_second": 61.2,
            "actor_hours": 0.91,
        }
        trend.append(TrendPoint(night=f"{day}", verdict="warn" if tonight else "ok", metrics=metrics))
    last = trend[-1].metrics
    many = len(days) > 7
    categories = tuple(
        _category(code, name, last[code], histograms, many) for code, name in zip(codes, names, strict=True)
    )
    flagged = [int(last[code]["flagged"] or 0) for code in codes]
    shares = rng.uniform(0, 0.3, (len(codes), len(codes)))
    together = [
        [each if j == k else int(min(each, flagged[k]) * shares[min(j, k), max(j, k)]) for k in range(len(codes))]
        for j, each in enumerate(flagged)
    ]
    surge = base["S4"] * 2.6 if len(codes) > 3 else 0.0
    fired = (
        AlertRecord(
            rule="each.flag_rate > band(each.flag_rate) and each.flag_rate > 1.25 * trailing_median(each.flag_rate)",
            scope="S4",
            severity="warn",
            fired=many,
            values={
                "S4.flag_rate": surge,
                "band(S4.flag_rate)": 0.44 * surge,
                "trailing_median(S4.flag_rate)": 0.38 * surge,
            },
        ),
        AlertRecord(
            rule="overall.psi > band",
            scope="overall",
            severity="fail",
            fired=many or None,
            values={"overall.psi": last["overall"]["psi"], "band(overall.psi)": 0.0071 if many else None},
        ),
        AlertRecord(
            rule="overall.error_rate > 0.05",
            scope="overall",
            severity="fail",
            fired=False,
            values={"overall.error_rate": 0.00006},
        ),
        *(
            AlertRecord(
                rule="each.psi > band",
                scope=code,
                severity="warn",
                fired=False if many else None,
                values={f"{code}.psi": 0.01, f"band({code}.psi)": 0.03 if many else None},
            )
            for code in codes
        ),
    )
    scores = np.concatenate([rng.normal(-6, 1.6, 48_000), rng.normal(2, 2, 1600)])
    tonight_counts = count_bins(1 / (1 + np.exp(-scores)))
    return Report(
        audit_id="audit-0123456789abcdef",
        night=f"{LAST}",
        created_at="2026-11-26T03:12:44Z",
        verdict="fail" if many else "ok",
        summary=(
            "Drift of all documents is above its band; S4 Medical Advice was flagged 2.61 times as often as usual."
            if many
            else "The first night of this kind of scores: the baseline begins here, and nothing can be compared yet."
        ),
        kind="kind-89abcdef",
        identity=identity(names),
        calibrated=many,
        tolerance=0.01,
        baseline=Baseline(
            began=f"{days[0]}", reason="the first audited night", nights=tuple(f"{each}" for each in days[:7])
        ),
        overall=Numbers(
            metrics=last["overall"],
            intervals={
                name: _around(last["overall"][name] or 0)
                for name in ("flag_rate", "prevalence", "precision", "recall", "f1", "audited_f1", "error_rate")
                if last["overall"][name] is not None
            },
            bands={"psi": 0.0071, "flag_rate": 0.09} if many else {},
            histogram=tuple(tonight_counts.tolist()),
            baseline_histogram=tuple((np.roll(tonight_counts, -1) * 7).tolist()) if many else None,
        ),
        categories=categories,
        cooccurrence=tuple(tuple(row) for row in together),
        alerts=fired,
        notices=(
            Notice(severity="info", text="The nights 2026-11-07, 2026-11-08 and 2026-11-17 were not audited."),
            Notice(severity="warn", text="The labels of 2026-11-01 are of another kind of scores and were left out."),
        )
        if many
        else (),
        sample=SampleDrawn(path=f"{LAST}/audit-0123456789abcdef/sample.parquet", design="f1", budget=200, drawn=200),
        labels=LabelsIn(night="2026-11-18", sampled=200, labelled=187, files=("labels/2026-11-18.csv",))
        if many
        else None,
        cost=Cost(
            runs=("run-20261126-0101", "run-20261126-0140"),
            requests=68_213,
            prompt_tokens=40_412_908,
            startup_seconds=48.2,
            scoring_seconds=813.0,
            actor_hours=0.91,
            documents_per_second=61.2,
        ),
        excerpts="full",
        errors={"the document is longer than the model reads": 2, "the document's id is missing": 1},
        trend=tuple(trend),
        artefacts=(
            Artefact(name="score table", path="s3://lake/audit/scores", sha256=None),
            Artefact(name="fit", path="s3://lake/audit/fits/2026-10.json", sha256="e5" * 32),
        ),
        settings={"night_column": "dt", "sample": {"budget": 200, "design": "f1"}, "alerts": ["each.psi > band"]},
        versions={"confscore": "0.1.0", "python": "3.11.9", "numpy": "2.3.5"},
        interval_says={
            "flag_rate": "95 %, Wilson's, of the share",
            "f1": "95 %: how true labels scatter about the probabilities, if those are calibrated",
            "audited": "90 %, from the labelled sample",
        },
        metrics_say={"overall": OVERALL_METRICS, "category": CATEGORY_METRICS},
    )


def _category(
    code: str, name: str, metrics: dict[str, float | None], histograms: dict[str, np.ndarray], many: bool
) -> CategoryReport:
    outcomes = {"S5": "nothing", "S7": "abstained"}
    outcome = outcomes.get(code, "threshold")
    told = ("flag_rate", "prevalence", "precision", "recall", "f1", "audited_prevalence", "audited_f1")
    excerpt = "A friend of mine swears by it: take two of them with warm milk and the headache is gone by noon. " * 3
    return CategoryReport(
        code=code,
        name=name,
        metrics=metrics,
        intervals={each: _around(metrics[each] or 0) for each in told if metrics[each] is not None},
        bands={"psi": 0.03, "flag_rate": (0.44 if code == "S4" else 1.2) * (metrics["flag_rate"] or 0)} if many else {},
        histogram=tuple(histograms[f"{code}.tonight"].tolist()),
        baseline_histogram=tuple((histograms[code] * 7).tolist()) if many else None,
        outcome=outcome,
        threshold=0.62 if outcome == "threshold" else None,
        top=tuple(
            TopDocument(
                doc_id=f"forum/2026/11/25/{code.lower()}-{place:06d}",
                score=0.999 - 0.01 * place,
                prob=0.97 - 0.02 * place,
                flagged=None if outcome == "abstained" else outcome == "threshold",
                excerpt=excerpt[: 60 + 40 * place],
            )
            for place in range(5)
        ),
    )


def nothing_known(names: tuple[str, ...] = ("Insults", "Spam")) -> Report:
    """Return a report of one night of which no number is known, and that has nothing that need not be there."""
    codes = [f"S{place}" for place in range(1, len(names) + 1)]
    empty = (0,) * BINS
    point = TrendPoint(
        night=f"{LAST}",
        verdict="ok",
        metrics={
            "overall": dict.fromkeys(OVERALL_METRICS),
            **{code: dict.fromkeys(CATEGORY_METRICS) for code in codes},
        },
    )
    return Report(
        audit_id="audit-0123456789abcdef",
        night=f"{LAST}",
        created_at="2026-11-26T03:12:44Z",
        verdict="ok",
        summary="Nothing is known.",
        kind="kind-89abcdef",
        identity=identity(names),
        calibrated=False,
        tolerance=0.01,
        baseline=Baseline(began=f"{LAST}", reason="the first audited night", nights=(f"{LAST}",)),
        overall=Numbers(metrics=dict.fromkeys(OVERALL_METRICS), intervals={}, histogram=empty),
        categories=tuple(
            CategoryReport(
                code=code,
                name=name,
                metrics=dict.fromkeys(CATEGORY_METRICS),
                intervals={},
                histogram=empty,
                outcome="abstained",
                threshold=None,
                top=(),
            )
            for code, name in zip(codes, names, strict=True)
        ),
        cooccurrence=((0,) * len(names),) * len(names),
        alerts=(),
        notices=(),
        sample=None,
        labels=None,
        cost=None,
        excerpts="none",
        trend=(point,),
        artefacts=(),
        settings={},
        versions={},
        interval_says={},
        metrics_say={},
    )


def night_record(report: Report, night: date, folder: str) -> NightRecord:
    return NightRecord(
        night=f"{night}",
        audit_id=report.audit_id,
        signature="f6" * 32,
        kind=report.kind,
        identity=report.identity,
        provenance_hash="a7" * 32,
        verdict=report.verdict,
        summary=report.summary,
        folder=folder,
        sample=report.sample,
        metrics=report.trend[-1].metrics,
        histograms={},
        replaces=None,
        created_at=report.created_at,
    )
