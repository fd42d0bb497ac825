"""Rules: what flags a document with a category, from a fit, from thresholds on the command line, or from both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from confscore.curves import Curve
from confscore.errors import InputError
from confscore.fitted import FittedModel
from confscore.words import printable

Outcome = Literal["threshold", "nothing", "abstained"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What flags a document with one category.

    Attributes
    ----------
    code : str
        The category.
    outcome : {'threshold', 'nothing', 'abstained'}
        Flag where the score is at least the threshold; flag no document; or nobody knows, so that flags are null.
    threshold : float or None
        A float32 number, as scores are, so that float32 and float64 compare alike.
    curve : curve or None
        From score to calibrated probability, where there was a fit.
    """

    code: str
    outcome: Outcome
    threshold: float | None
    curve: Curve | None = None


def make_rules(
    model: FittedModel | None, thresholds: Sequence[str] = (), codes: Sequence[str] | None = None
) -> tuple[Rule, ...]:
    """Return the rules of a fit, or those that a command line gives, which come before those of a fit.

    Parameters
    ----------
    model : FittedModel, optional
        The fit.
    thresholds : sequence of str
        Each ``CODE=P`` for one category, or ``P`` for all others. P is on the score, not on the calibrated probability.
    codes : sequence of str, optional
        The taxonomy's codes, where they are known.

    Returns
    -------
    tuple of Rule
        In the order of the taxonomy. Without a fit only the named categories have rules, or all, with a bare ``P``.

    Raises
    ------
    InputError
        A threshold cannot be understood, or there is no rule at all.
    """
    given = _parse(thresholds)
    fitted = {each.code: each for each in model.categories} if model else {}
    known = list(fitted) or (None if codes is None else list(codes))
    unknown = [code for code in given if code is not None and known is not None and code not in known]
    if unknown:
        raise InputError(
            f"--threshold {printable(unknown[0])}: is no category of the scores; they are {', '.join(known or ())}"
        )
    if None in given and known is None:
        raise InputError("--threshold: which categories there are is not known here; write it as CODE=P for each")
    rules = []
    for code in known if known is not None else given:
        if code is None:
            continue
        own, curve = fitted.get(code), fitted[code].curve if code in fitted else None
        limit = given.get(code, given.get(None))
        if limit is not None:
            rules.append(Rule(code, "threshold", limit, curve))
        elif own is not None:
            # A result is text, and people may have changed it.
            exact = None if own.threshold is None else float(np.float32(own.threshold))
            rules.append(Rule(code, own.outcome, exact, curve))
    if not rules:
        raise InputError("there is no rule to flag by; give --model, or --threshold CODE=P")
    return tuple(rules)


def _parse(thresholds: Sequence[str]) -> dict[str | None, float]:
    """Return thresholds by code; the one for all others is under ``None``."""
    found: dict[str | None, float] = {}
    for words in thresholds:
        code, equals, number = words.rpartition("=")
        key = code.strip() if equals else None
        try:
            value = float(number)
        except ValueError:
            value = np.nan
        if not 0 <= value <= 1 or key == "":
            raise InputError(f"--threshold {printable(words)}: write it as CODE=P, such as S3=0.9, with P in [0, 1]")
        if key in found:
            raise InputError(f"--threshold {printable(words)}: this is the second one for {key or 'all categories'}")
        found[key] = float(np.float32(value))
    return found


def rules_for_sets(codes: Sequence[str]) -> tuple[Rule, ...]:
    """Return a rule for each category that says nothing: sets of categories are decided as a whole."""
    return tuple(Rule(code, "abstained", None) for code in codes)


def describe_rules(rules: Sequence[Rule], model: str | None, how: str | None) -> str:
    """Return what decides about flags, as JSON: kept in the files that flags are written to."""
    limits = {rule.code: rule.threshold for rule in rules}
    about = {"version": 1, "model": model, "decide": how, "thresholds": None if how else limits}
    return json.dumps(about, ensure_ascii=False)
