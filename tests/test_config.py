"""A configuration is refused before anything is read, and the message names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from confscore.config import Config, dump, load, parse
from confscore.errors import ConfigError

SMALLEST = {"input": {"path": "corpus"}, "model": {"source": "some/model"}, "output": {"path": "scores"}}


def made(changes: dict[str, object] | None = None) -> Config:
    """Return the smallest configuration with some dotted keys set."""
    tree: dict[str, dict[str, object]] = {key: dict(section) for key, section in SMALLEST.items()}
    for key, value in (changes or {}).items():
        section, _, leaf = key.partition(".")
        if leaf:
            tree.setdefault(section, {})[leaf] = value
        else:
            tree[section] = value
    return parse(tree, "job.yaml")


def write(folder: Path, tree: object) -> Path:
    path = folder / "job.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    return path


def test_three_keys_are_enough() -> None:
    config = made()
    assert config.input.text_column == "text"
    assert config.input.format == "parquet"
    assert config.guard.name == "llama-guard-3"
    assert config.model.engine == "vllm"
    assert config.scoring.estimators == ("marginal",)
    assert (config.scoring.normalization, config.scoring.tolerance) == ("global", 0.01)
    assert config.scoring.max_requests_per_document == 64
    assert config.cluster.actor_range == (1, 8)
    assert config.output.partition_by == ()


@pytest.mark.parametrize("missing", ["input.path", "model.source", "output.path"])
def test_a_missing_key_is_named(missing: str) -> None:
    section, leaf = missing.split(".")
    tree = {key: dict(value) for key, value in SMALLEST.items()}
    del tree[section][leaf]
    with pytest.raises(ConfigError, match=rf"^job\.yaml: {missing} is missing$"):
        parse(tree, "job.yaml")


def test_a_missing_section_is_named() -> None:
    with pytest.raises(ConfigError, match="input is missing; model is missing; output is missing"):
        parse({}, "job.yaml")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("scoring.tolerence", "did you mean tolerance?"),
        ("input.id_colum", "did you mean id_column?"),
        ("guard.ordr", "did you mean order?"),
        ("scorng", "did you mean scoring?"),
        ("output.zzz", "known keys: path, partition_by"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path_and_a_near_name(key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made({key: 1})
    assert str(caught.value).startswith(f"job.yaml: {key} is not a known key")
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scoring.tolerance", 0),
        ("scoring.tolerance", 1.5),
        ("scoring.tolerance", float("nan")),
        ("scoring.tolerance", "small"),
        ("scoring.tolerance_of", "category"),
        ("scoring.normalization", "softmax"),
        ("scoring.estimators", []),
        ("scoring.estimators", ["marginal", "marginal"]),
        ("scoring.estimators", ["mean"]),
        ("scoring.max_requests_per_document", 0),
        ("scoring.max_requests_per_document", 2.5),
        ("scoring.long_documents", "drop"),
        ("scoring.chunk_overlap_tokens", -1),
        ("scoring.top_answers", 1001),
        ("input.format", "xml"),
        ("input.path", 3),
        ("input.carry_columns", "lang"),
        ("model.engine", "sglang"),
        ("model.engine_args", ["x"]),
        ("cluster.actors", 0),
        ("cluster.actors", [1, 2, 3]),
        ("cluster.gpus_per_actor", -1),
        ("cluster.memory_per_actor", 8),
        ("cluster.memory_per_actor", "8 stones"),
        ("cluster.memory_per_actor", float("inf")),
        ("cluster.object_store_memory", 0),
        ("cluster.object_store_memory", "-1GiB"),
        ("cluster.object_store_memory", [1]),
        ("cluster.gpus_per_actor", float("inf")),
        ("output.rows_per_file", 0),
        ("guard.order", "sorted"),
    ],
)
def test_a_bad_value_is_refused_with_its_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^job\.yaml: {key}") as caught:
        made({key: value})
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_a_range_of_actors_ascends() -> None:
    with pytest.raises(ConfigError, match=r"cluster: actors: \[4, 2\] must ascend"):
        made({"cluster.actors": [4, 2]})
    assert made({"cluster.actors": 3}).cluster.actor_range == (3, 3)
    assert made({"cluster.actors": [2, 4]}).cluster.actor_range == (2, 4)


def test_sizes_are_bytes_or_readable() -> None:
    keys = {"cluster.memory_per_actor": "1.5GiB", "cluster.object_store_memory": 2_000_000_000}
    config = made(keys)
    assert (config.cluster.memory_per_actor, config.cluster.object_store_memory) == (3 << 29, 2_000_000_000)
    assert made({"cluster.memory_per_actor": "24 GB"}).cluster.memory_per_actor == 24_000_000_000
    assert parse(yaml.safe_load(dump(config)), "written.yaml") == config
    assert (made().cluster.memory_per_actor, made().cluster.object_store_memory) == (None, None)


def test_a_section_is_a_mapping() -> None:
    with pytest.raises(ConfigError, match=r"^job\.yaml: scoring: "):
        made({"scoring": "fast"})


def test_text_comes_from_one_column() -> None:
    both = {"input.text_column": "a", "input.messages_column": "b"}
    with pytest.raises(ConfigError, match="input: give either text_column or messages_column, not both"):
        made(both)
    assert made({"input.messages_column": "chat"}).input.text_column is None


def test_a_partition_may_be_a_date_and_other_values_are_quoted(tmp_path: Path) -> None:
    text = yaml.safe_dump(SMALLEST).replace("path: corpus", "path: corpus\n  where: {date: 2026-11-22}")
    made = write(tmp_path, text)
    assert load(made, []).input.where == {"date": "2026-11-22"}
    assert load(made, ["input.where.date=2026-11-23"]).input.where == {"date": "2026-11-23"}
    with pytest.raises(ConfigError, match=r"input\.where\.hour: .* string, so put it in quotes \(got 5\)"):
        load(made, ["input.where={hour: 05}"])


@pytest.mark.parametrize("key", ["id_column", "text_column", "messages_column"])
def test_text_files_have_no_columns(key: str) -> None:
    with pytest.raises(ConfigError, match="format text has no columns"):
        made({"input.format": "text", f"input.{key}": "x"})
    assert made({"input.format": "text"}).input.text_column is None


def test_a_guard_is_a_name_or_a_mapping() -> None:
    assert made({"guard": "my.yaml"}) == made({"guard": {"name": "my.yaml"}})
    assert made({"guard": {"order": "any"}}).guard.name == "llama-guard-3"


def test_engine_arguments_pass_through() -> None:
    arguments = {"max_model_len": 8192, "kv_cache_dtype": "fp8", "nested": {"a": [1, None, True]}}
    assert made({"model.engine_args": arguments}).model.engine_args == arguments


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("logprobs_mode", "processed_logprobs", "scores rely on raw_logprobs, and vLLM is given that"),
        ("enable_prefix_caching", False, "scores rely on True, and vLLM is given that"),
        ("max_logprobs", 20, "it follows from the guard's answers"),
        ("revision", "main", r"set model\.revision instead"),
    ],
)
def test_engine_arguments_that_would_be_ignored_are_refused(name: str, value: object, advice: str) -> None:
    with pytest.raises(ConfigError, match=rf"^job\.yaml: model\.engine_args: leave out {name}: {advice}"):
        made({"model.engine_args": {"max_model_len": 8192, name: value}})


def test_engine_arguments_that_are_as_they_have_to_be_pass_through() -> None:
    arguments = {"enable_prefix_caching": True, "logprobs_mode": "raw_logprobs"}
    assert made({"model.engine_args": arguments}).model.engine_args == arguments


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        made().scoring.tolerance = 0.5  # type: ignore[misc]


# -- files and overrides -------------------------------------------------------------------------------------


def test_a_file_is_read_and_overridden(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    overrides = [
        "scoring.tolerance=0.001",
        "cluster.actors=[2, 3]",
        "guard.order=any",
        "model.engine_args.max_model_len=4096",
        "output.path=a=b",
        "model.revision='1'",
        "input.id_column=",
        "scoring.bounds=true",
    ]
    config = load(path, overrides)
    assert config.scoring.tolerance == 0.001
    assert config.cluster.actors == (2, 3)
    assert (config.guard.name, config.guard.order) == ("llama-guard-3", "any")
    assert config.model.engine_args == {"max_model_len": 4096}
    assert config.output.path == "a=b"
    assert config.model.revision == "1"
    assert config.input.id_column is None
    assert config.scoring.bounds
    assert load(path).scoring.tolerance == 0.01


def test_a_guard_by_name_keeps_it_when_a_key_of_it_is_overridden(tmp_path: Path) -> None:
    path = write(tmp_path, {**SMALLEST, "guard": "mine.yaml"})
    guard = load(path, ["guard.order=any"]).guard
    assert (guard.name, guard.order) == ("mine.yaml", "any")
    assert load(path, ["guard=other"]).guard.name == "other"


def test_a_later_override_wins(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    assert load(path, ["scoring.tolerance=0.2", "scoring.tolerance=0.3"]).scoring.tolerance == 0.3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scoring.tolerance", "write it as section.key=value"),
        ("=3", "write it as section.key=value"),
        ("input.path.deeper=1", "path is a value, not a section"),
        ("scoring.tolerance=[", "is not a YAML value"),
        ("input.path=2026-13-45", "is not a YAML value"),
        ("scoring.tolerence=0.1", "scoring.tolerence is not a known key, did you mean tolerance?"),
        ("scoring.tolerance=2", "scoring.tolerance: "),
    ],
)
def test_a_bad_override_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, SMALLEST), [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input: [", "not valid YAML"),
        ("a: 2026-13-45", "not valid YAML"),
        ("- a\n- b", "the configuration file has to be a mapping"),
        ("", "the configuration file has to be a mapping"),
        ("1: 2", "input is missing"),
        ("input: !!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("input: {path: Gewä}".encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load(latin)


# -- the effective configuration -----------------------------------------------------------------------------

values = st.fixed_dictionaries(
    {},
    optional={
        "scoring.tolerance": st.floats(1e-300, 1),
        "scoring.normalization": st.sampled_from(["raw", "local", "global"]),
        "scoring.max_requests_per_document": st.integers(1, 10**12),
        "cluster.actors": st.integers(1, 9) | st.just([1, 5]),
        "cluster.memory_per_actor": st.integers(1 << 20, 1 << 60) | st.sampled_from(["8GiB", "2.5 GB", None]),
        "guard": st.sampled_from(["a", {"name": "b.yaml", "order": "any"}]),
        "input.path": st.text(),
        "input.format": st.sampled_from(["text", "csv"]),
        "output.partition_by": st.lists(st.text(), max_size=2),
        "model.engine_args": st.dictionaries(
            st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()), max_size=3
        ),
    },
)


@given(changes=values)
def test_the_effective_configuration_reads_back_equal(changes: dict[str, object]) -> None:
    config = made(changes)
    assert parse(yaml.safe_load(dump(config)), "dumped") == config


def test_the_effective_configuration_has_every_key() -> None:
    tree = yaml.safe_load(dump(made()))
    assert tree["scoring"]["tolerance"] == 0.01
    for section, model in Config.model_fields.items():
        assert set(tree[section]) == set(model.annotation.model_fields)
