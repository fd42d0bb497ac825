"""Alert rules say what they seem to say, and refuse everything else."""

from __future__ import annotations

import pytest

from confscore.audit.alerts import Alert, read_rule
from confscore.errors import ConfigError

METRICS = {"overall": ("error_rate", "documents"), "category": ("flag_rate", "psi")}
CODES = ("S1", "S4")
TONIGHT = {
    ("S4", "flag_rate", None): 0.03,
    ("S4", "flag_rate", "trailing_median"): 0.01,
    ("S4", "flag_rate", "band"): 0.02,
    ("S1", "flag_rate", None): 0.01,
    ("S1", "flag_rate", "trailing_median"): 0.01,
    ("S4", "psi", None): 0.3,
    ("overall", "error_rate", None): 0.0,
    ("overall", "documents", None): 900.0,
    ("overall", "documents", "previous"): 1000.0,
}


def alerts(text: str) -> list[Alert]:
    rule = read_rule(text, "warn", METRICS, CODES, "alerts.0.when")
    return rule.alerts(lambda scope, metric, history: TONIGHT.get((scope, metric, history)))


@pytest.mark.parametrize(
    ("text", "fired"),
    [
        ("S4.flag_rate > 2 * trailing_median", True),
        ("S4.flag_rate > 4 * trailing_median", False),
        ("S4.flag_rate > trailing_median(S4.flag_rate) + 0.015", True),
        ("S4.flag_rate > band and S4.psi > 0.2", None),
        ("S4.flag_rate > band(S4.flag_rate) and S4.psi > 0.2", True),
        ("0.01 < S4.flag_rate <= 0.03", True),
        ("not S4.psi < 0.2", True),
        ("overall.error_rate != 0", False),
        ("overall.documents < 0.95 * previous", True),
        ("overall.documents / 0 > 1", None),
        ("-overall.documents < -1", True),
        ("S4.psi > 0.1 or S1.psi > 0.1", True),
        ("S1.psi > 0.1", None),
        ("S1.psi > 0.1 and overall.error_rate > 0.5", False),
        ("S1.psi > 0.1 or overall.error_rate > 0.5", None),
    ],
)
def test_a_rule_says_what_it_seems_to_say(text: str, fired: bool | None) -> None:
    if text == "S4.flag_rate > band and S4.psi > 0.2":
        with pytest.raises(ConfigError, match=r"has several metrics; write band\(…\) of one of them"):
            alerts(text)
        return
    (alert,) = alerts(text)
    assert alert.fired is fired
    assert alert.rule == text


def test_a_rule_that_yaml_keeps_on_several_lines_is_said_on_one() -> None:
    (alert,) = alerts("(S4.flag_rate\n   > 0.02)\n")
    assert (alert.rule, alert.fired) == ("(S4.flag_rate > 0.02)", True)


def test_each_is_one_rule_for_every_category() -> None:
    first, second = alerts("each.flag_rate > 2 * trailing_median")
    assert (first.scope, first.fired) == ("S1", False)
    assert (second.scope, second.fired) == ("S4", True)
    assert second.values == {"S4.flag_rate": 0.03, "trailing_median(S4.flag_rate)": 0.01}


def test_the_numbers_of_a_rule_are_kept_whether_they_are_known_or_not() -> None:
    (alert,) = alerts("S1.psi > band")
    assert alert.values == {"S1.psi": None, "band(S1.psi)": None}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("S4.flag_rate", "compares nothing"),
        ("-S4.flag_rate", "compares nothing"),
        ("not S4.flag_rate", "compares nothing"),
        ("S4.flag_rate and S4.psi > 1", "compares nothing"),
        ("(S4.flag_rate > 0) + 1 > 0", "takes a comparison for a number"),
        ("S4.flag_rate > (not S4.psi > 1)", "takes a comparison for a number"),
        ("S4.flag_rate > (S4.psi > 1 and S4.psi > 2)", "takes a comparison for a number"),
        ("S4.flag_rate > " + "9" * 400, "which no rule may have"),
        ("-" * 600 + "S4.flag_rate > 1", "a rule has at most 500"),
        ("S4.flag_rate >", "is no rule"),
        ("S9.flag_rate > 1", "names S9; known are overall, each, S1, S4"),
        ("S4.flags > 1", "the metrics there are flag_rate, psi"),
        ("overall.psi > 1", "the metrics there are error_rate, documents"),
        ("1 > 0", "names no metric"),
        ("S4.flag_rate > median", "has median, which is neither a metric"),
        ("S4.flag_rate > 2 ** 3", "which no rule may have"),
        ("S4.flag_rate > '1'", "which no rule may have"),
        ("S4.flag_rate in (1, 2)", "which no rule may have"),
        ("S4.flag_rate > mean(S4.flag_rate)", "which no rule may have"),
        ("S4.flag_rate > band(2)", "which no rule may have"),
        ("S4.flag_rate.real > 1", "which no rule may have"),
        ("__import__('os').getpid() > 1", "which no rule may have"),
        ("[x for x in (1,)] > 1", "which no rule may have"),
        ("S4.flag_rate > True", "which no rule may have"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_key(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        alerts(text)
    assert str(caught.value).startswith("alerts.0.when: ")
    assert reason in str(caught.value)
