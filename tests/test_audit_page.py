"""The page of an audit says its numbers, loads nothing, and shows what documents contain as text."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import date, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from audit_reports import LAST, month, night_record, nothing_known

from confscore.audit.drift import BINS
from confscore.audit.page import render_index, render_page
from confscore.audit.plots import Line, draw_cooccurrence, draw_distribution, draw_trend
from confscore.audit.record import Report
from confscore.audit.shown import number, percent

VOID = {"meta", "br", "link", "img", "input", "hr"}
SAFE = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "footer", "nav", "script", "br"),
    *("p", "h1", "h2", "h3", "a", "ul", "ol", "li", "dl", "dt", "dd", "div", "span", "strong", "small", "code", "bdi"),
    *("time", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "figure", "figcaption", "blockquote"),
    *("svg", "g", "defs", "path", "use", "text", "clippath", "rect"),
}
NASTY = (
    '<script>hacked = 1</script>"\'><img src=x onerror="hacked = 1">',
    "</svg><svg onload=hacked=1> $\\frac{1}{2}$ &amp; {{ 7 * 7 }} {% raw %}",
    "right to left \u202e and \x1b[31mred\x00\nnew line\u2028 https://example.org/x.js url(https://example.org)",
)
TWO = ("Insults", "Spam")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Page(HTMLParser):
    """Tags, ids, addresses and text of a page; it has to close what it opens."""

    tags: set[str] = field(default_factory=set)
    ids: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    policy: str = ""
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        named = dict(attrs)
        if "id" in named:
            self.ids.append(named["id"] or "")
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"] or ""
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags, f"</{tag}> closes nothing"
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open_tags[-1] if self.open_tags else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.shown.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.shown).split())


def read(document: str) -> Page:
    page = Page()
    page.feed(document)
    page.close()
    assert page.open_tags == []
    return page


def nasty() -> Report:
    """Return a report in which everything that others write is an attack, or awkward."""
    report = month(10, tuple(f"{NASTY[place % 3]} {place}" for place in range(3)))
    evil = NASTY[0] + NASTY[2]
    categories = [
        each.model_copy(
            update={
                "code": f"{NASTY[place]}{place}",
                "top": tuple(top.model_copy(update={"doc_id": evil, "excerpt": NASTY[1] + evil}) for top in each.top),
            }
        )
        for place, each in enumerate(report.categories)
    ]
    return report.model_copy(
        update={
            "categories": tuple(categories),
            "summary": evil,
            "errors": {evil: 3, NASTY[1]: 4},
            "alerts": tuple(each.model_copy(update={"rule": evil, "scope": NASTY[1]}) for each in report.alerts),
            "notices": tuple(each.model_copy(update={"text": evil}) for each in report.notices),
            "sample": report.sample and report.sample.model_copy(update={"path": evil}),
            "settings": {evil: {evil: [evil]}},
            "versions": {evil: evil},
            "interval_says": {evil: evil},
            "artefacts": tuple(each.model_copy(update={"path": evil, "name": evil}) for each in report.artefacts),
        }
    )


@pytest.fixture(scope="module")
def a_month() -> str:
    return render_page(month())


@pytest.fixture(scope="module")
def attacked() -> str:
    return render_page(nasty())


def test_the_page_says_its_numbers(a_month: str) -> None:
    report, page = month(), read(a_month)
    assert page.open_tags == []
    assert report.summary in page.text
    assert "Fail: somebody must act" in page.text
    assert "Wednesday, 25 November 2026" in page.text
    overall = report.overall.metrics
    for text in (
        f"{overall['documents']:,.0f}",
        percent(overall["flag_rate"]),
        number(overall["psi"]),
        "200 documents were drawn",
        report.sample.path if report.sample else "",
        "187 of 200 sampled documents",
        "40,412,908",
        "the document is longer than the model reads",
        "e5" * 32,
        report.audit_id,
        "Wilson's, of the share",
        "Interval from labels: 90 %, from the labelled sample.",
    ):
        assert text in page.text, text
    for each in report.categories:
        assert f"{each.code} {each.name}" in page.text
        assert number(each.metrics["flagged"]) in page.text
        assert number(each.metrics["psi"]) in page.text
        assert each.top[0].doc_id in page.text
    assert "flags nothing" in page.text
    assert "abstains" in page.text
    for name, value in report.alerts[0].values.items():
        assert f"{name} = {number(value)}" in page.text


def test_where_nothing_is_known_the_page_says_so() -> None:
    text = read(render_page(nothing_known())).text
    for said in (
        "No rule fired.",
        "No sample was drawn tonight.",
        "No night has enough labels yet",
        "scores stand in for probabilities",
        "What scoring took was not recorded.",
        "No document is flagged with two categories.",
        "Texts are kept out of this page",
        "not known on any night",
        "no scored document",
    ):
        assert said in text, said
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert "None " not in text


def test_scores_without_a_fit_are_not_called_probabilities(a_month: str) -> None:
    first = read(render_page(month(1, TWO)))
    assert "scores stand in for probabilities" in first.text
    assert "Mean score" in first.text
    assert "probability 0." not in first.text
    assert "stand in" not in read(a_month).text


def test_what_others_wrote_stays_text(attacked: str) -> None:
    page = read(attacked)
    assert page.tags <= SAFE, page.tags - SAFE
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert len(page.scripts) == 1
    assert "hacked" not in page.scripts[0]
    assert "<script>hacked = 1</script>" in page.text
    assert "{{ 7 * 7 }} {% raw %}" in page.text
    # What cannot be seen, or turns the direction of what follows, is spelled out.
    assert not [char for char in attacked if not char.isprintable() and char != "\n"]
    assert "right to left \\u202e and \\x1b[31mred\\x00" in page.text


@pytest.mark.parametrize("which", ["a_month", "attacked"])
def test_the_page_loads_nothing_and_its_own_script_alone_may_run(which: str, request: pytest.FixtureRequest) -> None:
    document = request.getfixturevalue(which)
    page = read(document)
    addresses = [value for name, value in page.attributes if name.endswith(("src", "href", "action", "srcset"))]
    assert addresses
    assert all(address.startswith("#") for address in addresses)
    styles = [value for name, value in page.attributes if name in ("style", "clip-path", "fill", "filter")]
    styles += re.findall(r"<style>(.*?)</style>", document, re.DOTALL)
    assert not [style for style in styles if re.search(r"url\((?!#)|@import|//", style)]
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert page.policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}';" in page.policy


@pytest.mark.parametrize("which", ["a_month", "attacked"])
def test_ids_are_unique_and_every_reference_has_one(which: str, request: pytest.FixtureRequest) -> None:
    document = request.getfixturevalue(which)
    page = read(document)
    assert len(page.ids) == len(set(page.ids))
    targets = {value[1:] for name, value in page.attributes if name.endswith("href")}
    targets |= {each for _, value in page.attributes for each in re.findall(r"url\(#([\w-]+)\)", value)}
    assert targets <= set(page.ids)


def test_equal_reports_give_equal_bytes_in_every_process() -> None:
    again = Report.model_validate_json(month(1, TWO).model_dump_json())
    code = (
        "from audit_reports import *; from confscore.audit.page import *; "
        "print(ascii(render_page(month(1, NAMES[:2]))))"
    )
    first = ascii(render_page(again))
    other = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": f"{Path(__file__).parent}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == first


def test_figures_take_the_pages_ink_and_name_their_axes() -> None:
    nights = [LAST - timedelta(days=2), LAST]
    trend = draw_trend("a", "says <this>", nights, [Line("flagged", np.array([0.5, np.nan]))], "documents (%)")
    scores = draw_distribution("b", "", [1] * BINS, None, 0.5)
    together = draw_cooccurrence("c", "", ["S1", "S2"], [[5, 1], [1, 0]])
    for svg, labels in (
        (trend, {"night (date in 2026)", "documents (%)", "25 Nov"}),
        (scores, {"log-odds of the score (natural log)", "documents (% of scored)", "threshold"}),
        (together, {"also flagged with (code)", "flagged with (code)", "S1", "20"}),
    ):
        root = ElementTree.fromstring(svg)
        assert labels <= {element.text for element in root.iter("text")}
        assert "currentColor" in svg
        assert "#010203" not in svg
        assert "#000000" not in svg
        assert "stroke: #ffffff" not in svg
    assert ElementTree.fromstring(trend).get("aria-label") == "says <this>"


def test_a_night_that_was_not_audited_is_a_gap_in_the_line() -> None:
    def moves(days: list[int]) -> int:
        nights = [date(2026, 11, day) for day in days]
        svg = draw_trend("a", "", nights, [Line("x", np.arange(len(days)) + 1.0)], "y")
        paths = [each.get("d", "") for each in ElementTree.fromstring(svg).iter("path")]
        drawn = [each for each in paths if each.count("L") + each.count("M") == len(days) and "z" not in each]
        assert len(drawn) == 1
        return drawn[0].count("M")

    assert moves([1, 2, 3, 4, 5, 6]) == 1
    assert moves([1, 2, 3, 6, 7, 8]) == 2


@pytest.mark.parametrize("threshold", [0.0, 1.0, None])
def test_a_distribution_can_be_drawn_of_anything(threshold: float | None) -> None:
    one = [0] * BINS
    one[7] = 1
    for counts in ([0] * BINS, one, [10**9] * BINS):
        svg = draw_distribution("a", "", counts, one, threshold)
        assert "nan" not in svg
        assert ("threshold" in svg) == (threshold is not None)


def test_many_categories_are_folded_and_those_with_an_alert_are_not() -> None:
    report = month(8, tuple(f"Category {place}" for place in range(1, 10)))
    assert [each.scope for each in report.alerts if each.fired] == ["S4", "overall"]
    document = render_page(report)
    assert re.findall(r'<details id="category-(\d+)" open>', document) == ["3"]
    assert document.count('<details id="category-') == 9
    assert "The 10 most frequent of" in document


def test_the_index_has_the_newest_night_first_and_only_relative_links() -> None:
    report = nasty()
    nights = [LAST - timedelta(days=each) for each in (3, 0, 7)]
    folders = ["nights/a b", "javascript:alert(1)", "//elsewhere.org/x"]
    rows = [night_record(report, *each) for each in zip(nights, folders, strict=True)]
    document = render_index(NASTY[0], rows)
    page = read(document)
    assert page.tags <= SAFE
    assert [value for name, value in page.attributes if name == "href"] == [
        "./javascript%3Aalert%281%29/report.html",
        "./nights/a%20b/report.html",
        "./elsewhere.org/x/report.html",
    ]
    assert "No night has been audited yet." in read(render_index("corpus", [])).text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0"),
        (1234567.0, "1,234,567"),
        (1234.5, "1,234"),
        (99.96, "100"),
        (12.34, "12.3"),
        (0.123456, "0.123"),
        (0.5, "0.500"),
        (0.00012345, "0.000123"),
        (0.0000123, "1.23e−05"),
        (-2.5, "−2.50"),
        (float("inf"), "∞"),
    ],
)
def test_numbers_have_three_digits(value: float | None, said: str) -> None:
    assert number(value) == said


def test_rates_are_said_in_per_cent() -> None:
    assert percent(0.01234) == "1.23 %"
    assert percent(None) == "–"
    assert percent(1.0) == "100 %"


PROBE = """
const page = document.getElementById("page");
const results = document.getElementById("results");
const inside = (box, of) =>
  box.left >= of.left - 1 && box.right <= of.right + 1 && box.top >= of.top - 1 && box.bottom <= of.bottom + 1;
const overlap = (a, b) =>
  Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
  Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
addEventListener("load", () => {
  const d = page.contentDocument, w = page.contentWindow;
  const root = d.documentElement;
  const folded = root.scrollWidth - root.clientWidth;
  d.querySelectorAll("details").forEach((each) => each.open = true);
  const wrong = [];
  const figures = [...d.querySelectorAll("svg.figure")];
  let texts = 0;
  for (const figure of figures) {
    const of = figure.getBoundingClientRect();
    const all = [...figure.querySelectorAll("text")].map((each) => [each.textContent, each.getBoundingClientRect()]);
    texts += all.length;
    all.forEach(([text, box], place) => {
      if (!inside(box, of)) wrong.push(`${figure.ariaLabel}: ${text} is outside`);
      all.slice(place + 1).forEach(([other, its]) => {
        if (overlap(box, its)) wrong.push(`${figure.ariaLabel}: ${text} and ${other} overlap`);
      });
    });
  }
  const head = d.querySelectorAll("#categories th button")[1];
  const column = () => [...d.querySelectorAll("#categories tbody tr")].map((row) => row.cells[1].dataset.value);
  head.click();
  const down = column();
  head.click();
  results.textContent = JSON.stringify({
    folded, unfolded: root.scrollWidth - root.clientWidth, inner: w.innerWidth, figures: figures.length, texts, wrong,
    hacked: w.hacked ?? null, down, up: column(), sort: head.parentElement.getAttribute("aria-sort"),
  });
});
"""


def probed(document: str, width: int, folder: Path) -> dict[str, object]:
    """Return what a browser makes of a page in a window of some width; the window is a frame, which may be narrow."""
    harness = folder / "harness.html"
    harness.write_text(
        f'<!doctype html><meta charset="utf-8"><body style="margin:0"><iframe id="page" width="{width}" height="900" '
        f'style="border:0" srcdoc="{html.escape(document)}"></iframe><pre id="results"></pre><script>{PROBE}</script>',
        encoding="utf-8",
    )
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    run = subprocess.run(
        [CHROMIUM, *flags, "--virtual-time-budget=10000", "--dump-dom", harness.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = re.search(r'<pre id="results">(.+?)</pre>', run.stdout, re.DOTALL)
    assert found, run.stderr
    return json.loads(html.unescape(found[1]))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; apt-get install chromium brings one")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    "report",
    [
        month(),
        month(1),
        month(8, tuple(f"A category with a name that is rather long, number {place}" for place in range(1, 24))),
        month(400, TWO),
        nothing_known(),
        nasty(),
    ],
    ids=["a month", "one night", "23 categories", "more than a year", "nothing known", "attacked"],
)
def test_in_a_browser_nothing_is_too_wide_clipped_or_on_top_of_another(
    report: Report, width: int, tmp_path: Path
) -> None:
    found = probed(render_page(report), width, tmp_path)
    assert found["inner"] == width
    assert found["folded"] == 0
    assert found["unfolded"] == 0
    assert found["figures"] == 7 + 3 * len(report.categories)
    assert found["texts"]
    assert found["wrong"] == []
    assert found["hacked"] is None
    known = [float(each) for each in found["down"] if each]
    assert all(a >= b for a, b in pairwise(known))
    assert [float(each) for each in found["up"] if each] == sorted(known)
    assert found["sort"] == "ascending"
