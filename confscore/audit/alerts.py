"""Alert rules: sentences such as ``S4.flag_rate > 2 * trailing_median`` over the numbers of a night.

A rule is a comparison, or several joined by ``and``, ``or`` and ``not``. In it stand

- numbers, and ``+ - * /``;
- metrics: ``overall.error_rate``, or of a category, ``S4.flag_rate``; ``each.flag_rate`` makes one rule of it for every
  category;
- what a metric was before: ``previous(S4.flag_rate)``, ``trailing_median(…)``, and ``band(…)``, which it exceeds by
  chance once in so many nights as the configuration says. Where a rule has one metric, ``(…)`` may be left out.

A rule over a number that is not known tonight, or a history that is too short, does not fire, and says that it did not
speak.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from confscore.errors import ConfigError
from confscore.words import one_line

Severity = Literal["warn", "fail"]
OVERALL = "overall"
EACH = "each"
HISTORIES = ("previous", "trailing_median", "band")
_LONGEST = 500  # characters: a tree that is deeper cannot be walked
_MOST = 1e300  # whole numbers have no end, and floats do

Known = Callable[[str, str, str | None], float | None]
"""``known(scope, metric, history)`` is a metric of tonight, or of its history; ``None`` where there is none."""

_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule that fired, or could not speak.

    Attributes
    ----------
    rule : str
        As it was written.
    scope : str
        The category's code, or ``overall``.
    severity : {'warn', 'fail'}
        What firing means for the exit status.
    fired : bool or None
        ``None``: a number in it is not known.
    values : dict of str to float or None
        The numbers in it, by their names.
    """

    rule: str
    scope: str
    severity: Severity
    fired: bool | None
    values: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that has been read and refers to what exists.

    Attributes
    ----------
    text : str
        As it was written.
    severity : {'warn', 'fail'}
        What it means when it fires.
    tree : ast.expr
        The expression, of the forms that this module allows.
    scopes : tuple of str
        What ``each`` stands for; a rule without it has one scope.
    """

    text: str
    severity: Severity
    tree: ast.expr
    scopes: tuple[str, ...]

    def alerts(self, known: Known) -> list[Alert]:
        """Return what the rule says tonight, once for each scope."""
        return [self._alert(scope, known) for scope in self.scopes]

    def _alert(self, scope: str, known: Known) -> Alert:
        values: dict[str, float | None] = {}

        def look_up(asked: str, metric: str, history: str | None) -> float | None:
            named = scope if asked == EACH else asked
            value = known(named, metric, history)
            name = f"{named}.{metric}"
            values[name if history is None else f"{history}({name})"] = value
            return value

        fired = _truth(self.tree, look_up, _metrics(self.tree))
        return Alert(self.text, scope, self.severity, fired, values)


def read_rule(
    text: str, severity: Severity, metrics: Mapping[str, Sequence[str]], codes: Sequence[str], where: str
) -> Rule:
    """Read a rule.

    Parameters
    ----------
    text : str
        The rule.
    severity : {'warn', 'fail'}
        What it means when it fires.
    metrics : mapping of str to sequence of str
        The metrics of ``overall`` and of ``category``.
    codes : sequence of str
        The taxonomy's codes.
    where : str
        The configuration key, for messages.

    Raises
    ------
    ConfigError
        It is no rule, or names what does not exist.
    """
    text = one_line(text)  # YAML may fold or keep line breaks, and a verdict is one line
    if len(text) > _LONGEST:
        raise ConfigError(f"{where}: has {len(text):,} characters; a rule has at most {_LONGEST}")
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ConfigError(f"{where}: {text!r} is no rule: {error.msg}") from None
    _check(tree, text, where)
    if not _compares(tree):
        raise ConfigError(
            f"{where}: {text!r} compares nothing, or takes a comparison for a number; a rule reads like "
            "S4.flag_rate > 2 * trailing_median"
        )
    used = _metrics(tree)
    for scope, metric in used:
        if scope not in (OVERALL, EACH, *codes):
            raise ConfigError(f"{where}: {text!r} names {scope}; known are overall, each, {', '.join(codes)}")
        there = metrics[OVERALL if scope == OVERALL else "category"]
        if metric not in there:
            raise ConfigError(f"{where}: {text!r} names {scope}.{metric}; the metrics there are {', '.join(there)}")
    if not used:
        raise ConfigError(f"{where}: {text!r} names no metric, so it is always the same")
    if _bare(tree) and len(used) != 1:
        raise ConfigError(f"{where}: {text!r} has several metrics; write {_bare(tree)[0]}(…) of one of them")
    each = any(scope == EACH for scope, _ in used)
    named = sorted({scope for scope, _ in used})
    return Rule(text, severity, tree, tuple(codes) if each else (named[0] if len(named) == 1 else OVERALL,))


def _check(tree: ast.expr, text: str, where: str) -> None:
    """Refuse everything but the forms that :func:`_truth` and :func:`_number` know."""
    allowed = (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Constant, ast.Name, ast.Attribute, ast.Call)
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and not isinstance(node, allowed):
            raise ConfigError(f"{where}: {text!r} has {ast.unparse(node)!r}, which no rule may have")
        wrong = (
            (
                isinstance(node, ast.Constant)
                and (isinstance(node.value, bool) or not isinstance(node.value, int | float) or node.value > _MOST)
            )
            or (isinstance(node, ast.BinOp) and type(node.op) not in _ARITHMETIC)
            or (isinstance(node, ast.Compare) and any(type(op) not in _COMPARISONS for op in node.ops))
            or (isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not | ast.USub))
            or (isinstance(node, ast.Attribute) and not isinstance(node.value, ast.Name))
            or (isinstance(node, ast.Call) and not _is_history(node))
        )
        if wrong:
            assert isinstance(node, ast.expr)
            raise ConfigError(f"{where}: {text!r} has {ast.unparse(node)!r}, which no rule may have")
    bare = [node.id for node in _names(tree) if node.id not in HISTORIES]
    if bare:
        raise ConfigError(
            f"{where}: {text!r} has {bare[0]}, which is neither a metric, such as {bare[0]}.flag_rate, nor one of "
            f"{', '.join(HISTORIES)}"
        )


def _compares(tree: ast.expr) -> bool:
    """Say whether a tree of allowed forms is a truth made of comparisons of numbers, as :func:`_truth` takes it."""
    match tree:
        case ast.BoolOp(values=parts):
            return all(_compares(part) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _compares(operand)
        case ast.Compare(left=left, comparators=others):
            truths = (ast.Compare, ast.BoolOp, ast.Not)
            return not any(isinstance(node, truths) for each in (left, *others) for node in ast.walk(each))
    return False


def _is_history(node: ast.Call) -> bool:
    named = isinstance(node.func, ast.Name) and node.func.id in HISTORIES
    return named and not node.keywords and len(node.args) == 1 and isinstance(node.args[0], ast.Attribute)


def _names(tree: ast.expr) -> list[ast.Name]:
    """Return the names that stand alone: no metric's scope, and no call's function."""
    inside = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    inside |= {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in inside]


def _bare(tree: ast.expr) -> list[str]:
    return [node.id for node in _names(tree)]


def _metrics(tree: ast.expr) -> list[tuple[str, str]]:
    found = [
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    return list(dict.fromkeys(found))


def _truth(tree: ast.expr, known: Known, metrics: Sequence[tuple[str, str]]) -> bool | None:
    """Return what a rule says, in the logic of three values: a number that is not known makes what hangs on it so."""
    match tree:
        case ast.BoolOp(op=op, values=parts):
            said = [_truth(part, known, metrics) for part in parts]
            decisive = isinstance(op, ast.Or)
            if decisive in said:
                return decisive
            return None if None in said else not decisive
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _truth(operand, known, metrics)
            return None if inner is None else not inner
        case ast.Compare(left=left, ops=ops, comparators=others):
            numbers = [_number(each, known, metrics) for each in (left, *others)]
            pairs = zip(ops, numbers, numbers[1:], strict=False)
            said = [None if a is None or b is None else _COMPARISONS[type(op)](a, b) for op, a, b in pairs]
            return False if False in said else None if None in said else True
    raise AssertionError(f"{ast.unparse(tree)} was let through")


def _number(tree: ast.expr, known: Known, metrics: Sequence[tuple[str, str]]) -> float | None:
    match tree:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _number(operand, known, metrics)
            return None if inner is None else -inner
        case ast.BinOp(left=left, op=op, right=right):
            return _applied(op, _number(left, known, metrics), _number(right, known, metrics))
        case ast.Attribute(value=ast.Name(id=scope), attr=metric):
            return known(scope, metric, None)
        case ast.Call(func=ast.Name(id=history), args=[ast.Attribute(value=ast.Name(id=scope), attr=metric)]):
            return known(scope, metric, history)
        case ast.Name(id=history):
            return known(*metrics[0], history)
        case _:
            raise AssertionError(f"{ast.unparse(tree)} was let through")


def _applied(op: ast.operator, a: float | None, b: float | None) -> float | None:
    if a is None or b is None or (isinstance(op, ast.Div) and b == 0):
        return None
    return _ARITHMETIC[type(op)](a, b)
