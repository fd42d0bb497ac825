"""What is shown is text: no command to a terminal, no markup, no formula."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_labels import CODES, jsonl, score_table
from typer.testing import CliRunner

from confscore import console, figures
from confscore.cli import app
from confscore.config import InputConfig, parse
from confscore.corpus import open_corpus
from confscore.errors import ConfigError, CorpusError
from confscore.evaluate import evaluate_all, write
from confscore.guards import resolve as resolve_guard
from confscore.labelled import label_scores
from confscore.run_log import say_failed
from confscore.words import csv_cell, name_list, one_line, printable, unexpected

ESCAPES = "\x1b[31mred\x1b[0m \x9b2J \x07 \u202e right \u2028 line \r over"
GUARD = resolve_guard("llama-guard-3")


@given(text=st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Ll"])))
def test_what_is_printable_has_no_control_character_and_keeps_its_letters(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    if text.isprintable():
        assert printable(text) == text
    assert one_line(text).isprintable()


def test_a_sentence_on_standard_error_is_one_line_without_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say_failed("json", f"/corpus/{ESCAPES}\n.csv: has no column \ud800", 2)
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert out[:-1].isprintable()


def test_a_line_on_standard_output_keeps_its_line_breaks_only(capsys: pytest.CaptureFixture[str]) -> None:
    console.say(f"one\n{ESCAPES}")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "one"
    assert second.isprintable()


def hostile_table(folder: Path, codes: tuple[str, ...] = ("A",)) -> str:
    """Return a score table whose columns and categories are called what they should not be."""
    shifty = {f"=cmd()|{ESCAPES}_{code}": pa.array([0.25, 0.5]) for code in codes}
    shifty |= {f"[/INST]$x_{code}": pa.array([0.5, 0.25]) for code in codes}
    shifty |= {f"[bold]{ESCAPES}": pa.array(["x", "y"])}
    return score_table(folder, {"a": [0.9] * len(codes), "b": [0.2] * len(codes)}, codes=codes, extra=shifty)


def test_inspect_shows_no_control_character_and_no_markup_of_a_table(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["inspect", hostile_table(tmp_path / "scores")])
    assert done.exit_code == 0, done.output
    assert all(line.isprintable() for line in done.output.splitlines())
    assert "[/INST]$x_A" in done.output
    assert "[bold]" in done.output


def test_a_guard_that_is_shown_or_checked_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from confscore.check import Checked

    console.show_check(GUARD, f"m{ESCAPES}", [Checked("Hello?", "", f"[/INST] {ESCAPES}", False, 0.5, 0.0)])
    shown = capsys.readouterr().out
    assert "[/INST]" in shown
    assert all(line.isprintable() for line in shown.splitlines())
    path = tmp_path / "guard.yaml"
    path.write_text('extends: llama-guard-3\nname: mine\nnotes: "\\e[31m [/x] \\x9b"\n')
    done = CliRunner().invoke(app, ["guards", str(path)])
    assert done.exit_code == 0, done.output
    assert all(line.isprintable() for line in done.output.splitlines())


def test_evaluation_files_hold_no_formula_and_no_markup(tmp_path: Path) -> None:
    scores = hostile_table(tmp_path / "scores", ("=A", "@B"))
    labels = jsonl(tmp_path / "labels.jsonl", [{"doc_id": d, "of": of} for d, of in (("a", ["=A"]), ("b", ["@B"]))])
    evaluated = evaluate_all(label_scores(scores, labels, label_column="of"), resamples=0)
    paths = write(evaluated, tmp_path / "out")
    for path in paths[:2]:
        with path.open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        words = [cell for cell in cells if not re.fullmatch(r"-?[\d.e+-]+|", cell)]
        assert words
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in words)
    assert "[/INST]$x" in paths[2].read_text()
    done = CliRunner().invoke(app, ["evaluate", "--scores", scores, "--labels", labels, "--label-column", "of"])
    assert done.exit_code == 0, done.output
    assert all(line.isprintable() for line in done.output.splitlines())


def test_names_in_a_figure_are_text(tmp_path: Path) -> None:
    scores = score_table(tmp_path / "s", {"a": [0.9] * len(CODES), "b": [0.2] * len(CODES)})
    labels = jsonl(tmp_path / "l.jsonl", [{"doc_id": "a", "of": [CODES[0]]}, {"doc_id": "b", "of": []}])
    (evaluated,) = evaluate_all(label_scores(scores, labels, label_column="of"), resamples=0)
    object.__setattr__(evaluated, "estimator", "<script>alert(1)</script> & $\\frac$ ]]>")
    figures.draw([evaluated], [tmp_path / "f.svg"])
    drawn = (tmp_path / "f.svg").read_text()
    assert "<script" not in drawn
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $\\frac$" in drawn


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "=cmd|' /C calc'!A0"])
def test_a_formula_is_no_cell(cell: str) -> None:
    assert csv_cell(cell) == f"'{cell}"
    assert csv_cell("S1") == "S1"


def test_a_first_row_that_is_no_header_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"1,{'a whole document ' * 20}\n2,another\n")
    with pytest.raises(CorpusError) as caught:
        open_corpus(InputConfig(path=str(path), format="csv"))
    assert "a whole document" not in str(caught.value)
    assert "1, (340 characters)" in str(caught.value)
    assert name_list([str(i) for i in range(100)]).endswith("29, and 70 more")


def test_an_unexpected_error_is_told_by_its_kind_and_place() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"input": object()}, "test")
    assert re.fullmatch(r"unexpected ConfigError in confscore/config\.py line \d+", unexpected(caught.value))
    assert unexpected(ValueError("secret")) == "unexpected ValueError"
    assert unexpected(ValueError("sec\nret"), in_full=True) == "unexpected ValueError: sec ret"
    assert unexpected(FileNotFoundError(2, "No such file", "a")) == (
        "unexpected FileNotFoundError: [Errno 2] No such file: 'a'"
    )
