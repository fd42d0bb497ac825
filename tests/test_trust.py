"""Nothing that a configuration, a guard or a model brings runs as a program unless that is asked for."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from transformers import AutoModelForCausalLM

import confscore
from confscore.config import ModelConfig
from confscore.errors import ConfigError, EngineError
from confscore.guards import resolve as resolve_guard
from confscore.loading import load
from confscore.plain_yaml import NotYaml, PlainLoader, load_yaml
from confscore.trust import check_trust

ROOT = Path(confscore.__file__).parent


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
