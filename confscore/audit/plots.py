"""Figures of the audit's page: small SVGs, put into it as they are, that read on light paper and on dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np

from confscore.audit.drift import BINS, EDGES
from confscore.audit.svg import TEXT, as_svg, empty, style
from confscore.rows import FloatArray
from confscore.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCENT, SECOND, GREY = "#3a7fd5", "#c9721a", "#8a8f98"
"""Each at least 3:1 against white and against the dark page."""
WIDTH, HEIGHT = 360, 220
_MOST_DATES = 4
_MOST_DECADES = 6
_LONGEST_CODE = 8
_DIGIT = 0.64 * TEXT  # how wide one is
_NUMBERS_UP_TO = 10  # categories; the cells of more are too small for numbers


@dataclass(frozen=True, slots=True)
class Line:
    """A metric over nights.

    Attributes
    ----------
    label : str
        What it is, in a word or two.
    values : float array, shape (nights,)
        NaN where it is not known.
    color : str
    interval : tuple of float, optional
        Low and high end of the last value's interval, in the values' unit.
    """

    label: str
    values: FloatArray
    color: str = ACCENT
    interval: tuple[float, float] | None = None


def draw_trend(
    name: str,
    says: str,
    nights: Sequence[date],
    lines: Sequence[Line],
    unit: str,
    band: float | None = None,
    most: float | None = None,
) -> str:
    """Draw metrics over nights; where a night is missing, so is the line.

    Parameters
    ----------
    name : str
        What the figure's ids begin with; no other figure of the page has it.
    says : str
        What the figure shows, for those who cannot see it.
    nights : sequence of date
        Oldest first.
    lines : sequence of Line
        All in one unit.
    unit : str
        What the vertical axis is called.
    band : float, optional
        What the first line exceeds by chance, in the values' unit.
    most : float, optional
        The largest value there can be, for an axis that ends there.

    Returns
    -------
    str
        An ``svg`` element.
    """
    with style(name):
        figure, axes = empty(HEIGHT, WIDTH)
        first, last = nights[0], nights[-1]
        days = np.array([(each - first).days for each in nights])
        known = [line.values[np.isfinite(line.values)] for line in lines]
        for line in lines:
            by_day = np.full(days[-1] + 1, np.nan)
            by_day[days] = line.values
            axes.plot(by_day, color=line.color, label=line.label, linewidth=1.5, marker="o", markersize=2.6)
            if line.interval is not None and np.isfinite(line.values[-1]):
                axes.plot([days[-1]] * 2, line.interval, color=line.color, linewidth=3, alpha=0.45)
        tops = [float(each.max()) for each in known if each.size]
        tops += [line.interval[1] for line in lines if line.interval is not None]
        if band is not None:
            axes.axhline(band, color=GREY, linewidth=1.3, linestyle=(0, (4, 3)), label="tonight's band")
            tops.append(band)
        top = max(tops, default=0.0)
        top = most or (1.1 * top if top > 0 else 1.0)
        axes.set(xlim=(-0.5, days[-1] + 0.5), ylim=(0, top))
        step = max(1, math.ceil(days[-1] / _MOST_DATES))
        shown = list(range(int(days[-1]), -1, -step))
        axes.set_xticks(shown, [_day(first + timedelta(days=each)) for each in shown])
        years = f"{first.year}" if first.year == last.year else f"{first.year} to {last.year}"
        axes.set(xlabel=f"night (date in {years})", ylabel=unit)
        if any(each.size for each in known):
            _number_y(axes, top, all(np.all(each == np.round(each)) for each in known))
        else:
            axes.set_yticks([])
            _say_in(axes, "not known on any night")
        _place(axes)
        if len(lines) > 1 or band is not None:
            _legend(axes)
        return as_svg(figure, name, says)


def draw_distribution(
    name: str,
    says: str,
    counts: Sequence[int],
    baseline: Sequence[int] | None,
    threshold: float | None = None,
) -> str:
    """Draw how scores lie, tonight and on the baseline's nights.

    Parameters
    ----------
    name, says : str
        See :func:`draw_trend`.
    counts, baseline : sequence of int, length BINS
        Documents by the log-odds of their score.
    threshold : float, optional
        On the score, in [0, 1].

    Returns
    -------
    str
        An ``svg`` element.
    """
    with style(name):
        figure, axes = empty(HEIGHT, WIDTH)
        shares = [_shares(each) for each in (counts, baseline)]
        positive = np.concatenate([each[each > 0] for each in shares if each is not None] or [np.ones(0)])
        decades = range(min(-1, math.floor(math.log10(positive.min()))) if positive.size else -1, 1)
        width = EDGES[1] - EDGES[0]
        edges = np.concatenate([[EDGES[0] - width], EDGES, [EDGES[-1] + width]])
        axes.set_yscale("log")
        bottom = 10.0 ** (decades[0] - 0.15)
        tonight, before = shares
        if tonight is not None:
            axes.stairs(np.maximum(tonight, bottom / 2), edges, baseline=bottom / 2, fill=True, color=ACCENT, alpha=0.3)
            axes.stairs(
                np.maximum(tonight, bottom / 2),
                edges,
                baseline=bottom / 2,
                color=ACCENT,
                linewidth=1.3,
                label="tonight",
            )
        if before is not None:
            axes.stairs(
                np.maximum(before, bottom / 2), edges, baseline=None, color=SECOND, linewidth=1.3, label="baseline"
            )
        if threshold is not None:
            with np.errstate(divide="ignore"):
                at = float(np.clip(np.log(threshold) - np.log1p(-threshold), edges[0], edges[-1]))
            axes.axvline(at, color=GREY, linewidth=1.3, linestyle=(0, (4, 3)), label="threshold")
        axes.set(xlim=(edges[0], edges[-1]), ylim=(bottom, 1.5))
        ticks = [10.0**each for each in list(decades)[:: -1 if len(decades) <= _MOST_DECADES else -2]]
        axes.set_yticks(ticks, [f"{100 * each:g}" for each in ticks])
        if tonight is None:
            axes.set_yticks([])
            _say_in(axes, "no scored document")
        axes.minorticks_off()
        axes.set_xticks([-10, -5, 0, 5, 10])
        axes.set(xlabel="log-odds of the score (natural log)", ylabel="documents (% of scored)")
        _place(axes)
        if axes.get_legend_handles_labels()[1]:
            _legend(axes)
        return as_svg(figure, name, says)


def draw_cooccurrence(name: str, says: str, codes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw which categories are flagged together, as shares of the documents flagged with the row's category.

    Parameters
    ----------
    name, says : str
        See :func:`draw_trend`.
    codes : sequence of str, length N
    counts : sequence of sequence of int, shape (N, N)
        Documents flagged with both; on the diagonal, those flagged with one.

    Returns
    -------
    str
        An ``svg`` element, about square.
    """
    from matplotlib.patches import Rectangle  # noqa: PLC0415 - as in _style

    size = len(codes)
    cell = min(44.0, max(17.0, 270 / size))
    small = min(TEXT, max(8.0, 0.55 * cell))
    labels = [_short(code) for code in codes]
    tall = any(len(label) * small * 0.62 > cell - 3 for label in labels)
    room = 26 + small * 0.66 * max(len(label) for label in labels)  # left of the cells, for codes and the axis' name
    under = 30 + (small * 0.66 * max(len(label) for label in labels) if tall else small)
    wide, high = max(WIDTH, room + size * cell + 12), size * cell + under + 44
    with style(name):
        figure, axes = empty(high, wide)
        axes.set_position((room / wide, under / high, size * cell / wide, size * cell / high))
        for row, of_row in enumerate(counts):
            for column, both in enumerate(of_row):
                share = both / of_row[row] if of_row[row] else 0.0
                own = row == column
                color, strength = (GREY, 0.25) if own else (ACCENT, _strength(share))
                axes.add_patch(
                    Rectangle((column, row), 0.94, 0.94, facecolor=color, alpha=strength, edgecolor="none", linewidth=0)
                )
                if size <= _NUMBERS_UP_TO and both and not own:
                    text = "<1" if share < 0.005 else f"{100 * share:.0f}"
                    axes.text(column + 0.47, row + 0.47, text, ha="center", va="center", fontsize=small)
        axes.set(xlim=(0, size), ylim=(size, 0))
        at = np.arange(size) + 0.47
        axes.set_xticks(at, labels, rotation=90 if tall else 0, fontsize=small)
        axes.set_yticks(at, labels, fontsize=small)
        axes.set(xlabel="also flagged with (code)", ylabel="flagged with (code)")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        _draw_key(figure, room / wide, 1 - 14 / high, high, wide)
        return as_svg(figure, name, says)


def _draw_key(figure: Figure, left: float, top: float, high: float, wide: float) -> None:
    """Draw what shades mean, above the cells."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    axes = figure.add_axes((left, top - 8 / high, 90 / wide, 9 / high))
    steps = 10
    for step in range(steps):
        axes.add_patch(Rectangle((step, 0), 1, 1, facecolor=ACCENT, alpha=_strength((step + 0.5) / steps), linewidth=0))
    axes.set(xlim=(0, steps), ylim=(0, 1))
    axes.set_axis_off()
    axes.text(steps + 0.6, 0.5, "0 to 100 % of the row's documents", va="center", ha="left", fontsize=9.5)


def _strength(share: float) -> float:
    """Return how opaque a share is: the square root, so that rare pairs are seen, and never so that text is hidden."""
    return 0.06 + 0.64 * math.sqrt(share)


def _shares(counts: Sequence[int] | None) -> FloatArray | None:
    if counts is None or not sum(counts):
        return None
    shares: FloatArray = np.asarray(counts, dtype=np.float64) / sum(counts)
    assert shares.shape == (BINS,)
    return shares


def _short(code: str) -> str:
    shown = printable(code)
    return shown if len(shown) <= _LONGEST_CODE else f"{shown[: _LONGEST_CODE - 1]}…"


def _day(day: date) -> str:
    return f"{day.day} {day:%b}"


def _say_in(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


def _number_y(axes: Axes, top: float, whole: bool) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    ticks = [
        each for each in MaxNLocator(4, integer=whole, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top) if 0 <= each <= top
    ]
    axes.set_yticks(ticks, [f"{each:,.0f}" if each >= 1000 else f"{each:.6g}" for each in ticks])


def _place(axes: Axes) -> None:
    """Leave room for what stands around the axes; a layout that matplotlib finds would draw everything twice."""
    widest = max((len(label.get_text()) for label in axes.get_yticklabels()), default=0)
    left = 30 + _DIGIT * widest
    axes.set_position((left / WIDTH, 42 / HEIGHT, (WIDTH - left - 18) / WIDTH, (HEIGHT - 42 - 20) / HEIGHT))


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.02),
        ncols=3,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.3,
        handletextpad=0.5,
        columnspacing=1.1,
    )
