"""Figures as elements of a page: how they are styled, and what is taken out of them.

Ink is the page's own colour of text (``currentColor``), nothing lies behind a figure, and one unit of it is one pixel,
so its text is as large as it says here.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from confscore.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT = 10.5
"""Size of text, in pixels."""
_INK = "#010203"  # stands for the page's own colour of text
_UNITS = 72  # of a figure, to the inch
_REFERENCE = re.compile(r"(?:^|url\()#(?=([A-Za-z][\w-]*)(?:\)|$))")


@contextmanager
def style(name: str) -> Iterator[None]:
    """Draw figures of the page in here, and make them SVGs; equal figures of equal names give equal bytes."""
    import matplotlib  # noqa: PLC0415 - takes a second, and only figures need it

    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": name,
            "text.parse_math": False,  # names are no formulas, whatever they contain
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, and is wider than what a page will use
            "font.size": TEXT,
            "axes.labelsize": TEXT,
            "xtick.labelsize": TEXT,
            "ytick.labelsize": TEXT,
            "legend.fontsize": TEXT,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.8,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "axes.axisbelow": True,
            "grid.alpha": 0.15,
            "grid.linewidth": 0.8,
            "lines.solid_joinstyle": "round",
            "path.simplify": False,
            **dict.fromkeys(
                ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), _INK
            ),
        }
    ):
        yield


def empty(high: float, wide: float) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes; ``high`` and ``wide`` in pixels."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(wide / _UNITS, high / _UNITS), dpi=_UNITS)
    return figure, figure.add_subplot()


def as_svg(figure: Figure, name: str, says: str) -> str:
    """Return a figure as an element of a page: without what a file needs, and with ids that no other figure has."""
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata") or (child.tag.endswith("}defs") and child[0].tag.endswith("}style")):
                parent.remove(child)  # the style is for everything on a page, not for one figure
    used = {found for each in root.iter() for text in each.attrib.values() for found in _REFERENCE.findall(text)}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        if element.tag != "text":
            element.text = None
        attributes = {key.rpartition("}")[2]: text for key, text in element.attrib.items()}
        element.attrib.clear()
        for key, text in attributes.items():
            if key == "id" and text in used:
                element.set(key, f"{name}-{text}")
            elif key != "id":
                element.set(key, _REFERENCE.sub(rf"\g<0>{name}-", text).replace(_INK, "currentColor"))
    _, _, wide, high = root.attrib["viewBox"].split()
    root.attrib.clear()
    for key, text in {
        "class": "figure",
        "viewBox": f"0 0 {wide} {high}",
        "width": wide,
        "height": high,
        "style": f"max-width: {wide}px",
        "role": "img",
        "aria-label": printable(says),
    }.items():
        root.set(key, text)
    return ElementTree.tostring(root, encoding="unicode")
