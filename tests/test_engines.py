"""The engines keep the contract, each held against log-probabilities computed in another way."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
import tiny
import torch
from engine_contract import Bench, EngineContract, Tokens, check
from transformers import AutoModelForCausalLM, AutoTokenizer

from confscore.automaton import AnswerAutomaton
from confscore.demo import GUARD_FOLDER
from confscore.engines.base import AnswerTokens, Rollout
from confscore.engines.table import TableEngine
from confscore.engines.transformers import TransformersEngine
from confscore.errors import EngineError
from confscore.guards.answers import VerdictAnswer
from confscore.guards.spec import Category, Guard
from confscore.rows import FloatArray
from confscore.vocabulary import build_automaton, end_token_ids

ENDS = ("<|eot_id|>", "<|end_of_text|>")
CODES = Guard(
    name="codes",
    categories=tuple(Category(code=code, name=code) for code in ("S1", "S2", "S10")),
    answer=VerdictAnswer(lead="\n\n"),
    end_tokens=ENDS,
)
# Names of all printable ASCII and of 64 characters that take two bytes each.
NAMES = [bytes(range(start, start + 19)).decode() for start in range(32, 127, 19)]
NAMES += ["".join(map(chr, range(0x100, 0x140)))]
WIDE = Guard(
    name="wide",
    categories=tuple(Category(code=f"C{j}", name=name) for j, name in enumerate(NAMES)),
    answer=VerdictAnswer(label="name", separator="\n", most=1),
    end_tokens=ENDS,
)
ARGUMENTS: dict[str, object] = {
    "dtype": "float32",
    "max_model_len": 512,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 64 << 20,
}
# What scoring relies on: none of it may get through.
MEDDLING: dict[str, object] = {
    "model": "no-such-model",
    "logprobs_mode": "processed_logprobs",
    "max_logprobs": 1,
    "generation_config": "auto",
    "enable_prefix_caching": False,
    "skip_tokenizer_init": False,
}

CORES = str(psutil.cpu_count(logical=False))
# vLLM's imports make deprecated calls into torch, and it leaves its sockets to the garbage collector.
QUIETLY = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Unclosed context:ResourceWarning")
VLLM = [pytest.mark.vllm, QUIETLY]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random model, and sampling defaults that would spoil greedy decoding."""
    path = tmp_path_factory.mktemp("model")
    tiny.write_model(path)
    (path / "generation_config.json").write_text('{"repetition_penalty": 5.0, "temperature": 3.0, "do_sample": true}')
    return path


def answer_tokens(guard: Guard, folder: Path) -> AnswerTokens:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    automaton: AnswerAutomaton = build_automaton(guard, tokenizer)
    return AnswerTokens(automaton.alphabet, end_token_ids(guard, tokenizer), automaton.max_tokens)


def model_bench(engine: object, answers: AnswerTokens, folder: Path, runner: asyncio.Runner, noise: float) -> Bench:
    """Return a bench whose truth is the model itself, without cache, one sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @cache
    def truth(prompt: Tokens, so_far: Tokens) -> FloatArray:
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *so_far]]), use_cache=False).logits[0, -1]
        return torch.log_softmax(logits.double(), dim=-1).numpy()[answers.alphabet]

    return Bench(engine, answers, runner, truth, noise)


class TestTableEngine(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls) -> Iterator[Bench]:
        answers = AnswerTokens(np.array([3, 5, 7, 11, 13, 17]), ends=(13, 17), max_tokens=6)

        def table(prompt: Tokens, so_far: Tokens) -> FloatArray:
            probs = np.random.default_rng([len(prompt), *prompt, *so_far]).dirichlet(np.ones(9))
            return np.log(probs[: len(answers.alphabet)])

        with asyncio.Runner() as runner:
            yield Bench(TableEngine(answers, table), answers, runner, table, 0.0)


class TestTransformersEngine(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, folder: Path) -> Iterator[Bench]:
        answers = answer_tokens(CODES, folder)
        with asyncio.Runner() as runner:
            yield model_bench(TransformersEngine(str(folder), answers), answers, folder, runner, 1e-4)

    def test_it_stops_at_the_end_of_its_context(self, folder: Path) -> None:
        engine = TransformersEngine(str(folder), answer_tokens(CODES, folder), engine_args={"max_model_len": 40})
        assert engine.max_length == 40
        rollout = asyncio.run(engine.rollout([1] * 38, ()))
        assert len(rollout.tokens) <= 2

    def test_unknown_arguments_are_refused_by_name(self, folder: Path) -> None:
        with pytest.raises(EngineError, match=r"model\.engine_args\.gpus"):
            TransformersEngine(str(folder), answer_tokens(CODES, folder), engine_args={"gpus": 4})

    @pytest.mark.parametrize("arguments", [{"dtype": "float31"}, {}], ids=["no such dtype", "no such model"])
    def test_what_cannot_be_loaded_is_said(self, folder: Path, arguments: dict[str, object]) -> None:
        source = str(folder) if arguments else str(folder / "nowhere")
        with pytest.raises(EngineError, match="could not load"):
            TransformersEngine(source, answer_tokens(CODES, folder), engine_args=arguments)


def beside_the_core() -> list[psutil.Process]:
    """Return the processes that an engine's core has started, without those of Python itself."""
    (core,) = (child for child in psutil.Process().children() if "EngineCore" in child.name())
    return [child for child in core.children() if "resource_tracker" not in " ".join(child.cmdline())]


class VllmContract(EngineContract):
    """The contract on vLLM: one start of the engine a class."""

    guard: Guard

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, folder: Path) -> Iterator[Bench]:
        from confscore.engines.vllm import VllmEngine

        answers = replace(answer_tokens(cls.guard, folder), max_tokens=10)
        with asyncio.Runner() as runner:
            engine = VllmEngine(str(folder), answers, engine_args=ARGUMENTS | MEDDLING)
            yield model_bench(engine, answers, folder, runner, 1e-3)
            runner.run(engine.close())
        gc.collect()  # here, where the warning about its sockets is let pass, and not in some later test

    def test_it_stops_at_the_end_of_its_context(self, bench: Bench) -> None:
        assert bench.engine.max_length == ARGUMENTS["max_model_len"]
        for room in (1, 2, 3):
            rollout = bench.rollout((1,) * (bench.engine.max_length - room))
            assert 1 <= len(rollout.tokens) <= room

    def test_arguments_that_scoring_relies_on_cannot_be_overridden(self, bench: Bench) -> None:
        from confscore.engines.vllm import MOST_IDS

        config = bench.engine._llm.vllm_config
        assert config.model_config.logprobs_mode == "raw_logprobs"
        assert config.model_config.max_logprobs >= min(len(bench.answers.alphabet), MOST_IDS)
        assert config.model_config.generation_config == "vllm"
        assert config.model_config.skip_tokenizer_init
        assert config.cache_config.enable_prefix_caching

    @pytest.mark.usefixtures("bench")
    def test_on_cpus_the_model_is_in_the_process_of_the_core(self) -> None:
        assert beside_the_core() == []

    def test_who_speaks_among_rollouts_may_say_anything(self, bench: Bench, folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        prompts = bench.prompts(16)

        async def together() -> tuple[list[list[int]], list[Rollout]]:
            said = [bench.engine.speak(prompt, 4) for prompt in prompts[:8]]
            rolled = [bench.engine.rollout(prompt, ()) for prompt in prompts]
            mixed = await asyncio.gather(*rolled[:8], *said, *rolled[8:])
            return mixed[8:16], [*mixed[:8], *mixed[16:]]

        spoken, rollouts = bench.runner.run(together())
        for prompt, rollout in zip(prompts, rollouts, strict=True):
            check(bench, prompt, (), rollout)
        for prompt, tokens in zip(prompts, spoken, strict=False):
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
            chosen = logits[torch.arange(len(tokens)), tokens]
            torch.testing.assert_close(chosen, logits.max(dim=-1).values, atol=1e-3, rtol=0)
        assert {token for tokens in spoken for token in tokens} - set(bench.answers.alphabet.tolist())

    # Once more, so that it comes after the tests above: the engine is gone afterwards.
    def test_it_closes_and_closing_twice_does_no_harm(self, bench: Bench) -> None:
        super().test_it_closes_and_closing_twice_does_no_harm(bench)
        with pytest.raises(EngineError, match="closed"):
            bench.rollout((1, 2, 3))


class TestVllmEngine(VllmContract):
    pytestmark = VLLM
    guard = CODES


@pytest.mark.slow
class TestVllmEngineWithAWideAlphabet(VllmContract):
    pytestmark = VLLM
    guard = WIDE

    def test_the_alphabet_takes_several_requests(self, bench: Bench) -> None:
        from confscore.engines.vllm import MOST_IDS

        assert len(bench.answers.alphabet) > MOST_IDS + 1


@pytest.mark.vllm
@QUIETLY
@pytest.mark.parametrize(
    ("source", "arguments"),
    [("nowhere", {}), ("", {"max_model_len": 5000}), ("", {"no_such_argument": 1}), ("", {"dtype": "float31"})],
    ids=["no such model", "longer than the model", "unknown argument", "bad value"],
)
def test_what_vllm_refuses_is_said(folder: Path, source: str, arguments: dict[str, object]) -> None:
    from confscore.engines.vllm import VllmEngine

    with pytest.raises(EngineError, match="vLLM could not load"):
        VllmEngine(str(folder / source), answer_tokens(CODES, folder), engine_args=ARGUMENTS | arguments)


@pytest.mark.vllm
@QUIETLY
@pytest.mark.parametrize(
    ("policy", "first"), [({}, True), pytest.param({"scheduling_policy": "fcfs"}, False, marks=pytest.mark.slow)]
)
def test_whoever_goes_on_with_a_document_goes_first(folder: Path, policy: dict[str, object], *, first: bool) -> None:
    from confscore.engines.vllm import VllmEngine

    order: list[str] = []

    async def ask(engine: VllmEngine, name: str, prompt: list[int], prefix: tuple[int, ...]) -> None:
        await engine.rollout(prompt, prefix)
        order.append(name)

    async def work() -> None:
        answers = answer_tokens(CODES, folder)
        word = int(answers.alphabet[0])
        engine = VllmEngine(str(folder), answers, engine_args=ARGUMENTS | {"max_num_seqs": 1} | policy)
        await engine.warm_up()
        fresh = [ask(engine, "fresh", [1, 2, 3 + number], ()) for number in range(40)]
        await asyncio.gather(*fresh, ask(engine, "going on", [1, 2, 3], (word,)))
        await engine.close()

    asyncio.run(work())
    gc.collect()
    assert (order.index("going on") < 20) is first


@pytest.mark.slow
@pytest.mark.vllm
@QUIETLY
def test_whoever_names_an_executor_has_it(folder: Path) -> None:
    from confscore.engines.vllm import VllmEngine

    arguments = ARGUMENTS | {"distributed_executor_backend": "mp"}
    engine = VllmEngine(str(folder), answer_tokens(CODES, folder), engine_args=arguments)
    (worker,) = beside_the_core()
    assert worker.is_running()
    asyncio.run(engine.close())


@pytest.mark.vllm
@QUIETLY
@pytest.mark.parametrize(
    ("bound", "asked", "expected"),
    [
        ("auto", None, [CORES, CORES, "PASSIVE"]),
        ("auto", "1", ["1", "1", "PASSIVE"]),
        ("auto", "4096", [CORES, CORES, "PASSIVE"]),
        ("auto", " 1,4", ["1", "1", "PASSIVE"]),
        ("auto", "0", [CORES, CORES, "PASSIVE"]),
        ("auto", "many", [CORES, CORES, "PASSIVE"]),
        ("0", "1", ["1", "1", "None"]),
    ],
)
def test_its_threads_are_as_many_as_asked_for_or_as_cores_and_sleep_while_they_wait(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bound: str, asked: str | None, expected: list[str]
) -> None:
    from vllm import AsyncEngineArgs

    from confscore.engines.vllm import in_one_process

    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", bound)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    asks = "os.environ['OMP_NUM_THREADS'], torch.get_num_threads(), os.environ.get('OMP_WAIT_POLICY')"
    script = f"import os, torch; print({asks})"
    with in_one_process(AsyncEngineArgs(model=str(folder)).create_engine_config(), {}):
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert told == expected
    assert (os.environ.get("OMP_NUM_THREADS"), "OMP_WAIT_POLICY" in os.environ) == (asked, False), (
        "for the engine alone"
    )


@pytest.mark.vllm
@QUIETLY
def test_more_tokens_than_vllm_can_mask_are_refused() -> None:
    from confscore.engines.vllm import MOST_ALLOWED, refuse_too_many

    refuse_too_many(MOST_ALLOWED)
    with pytest.raises(EngineError, match=r"1,025 different tokens.*at most 1,024"):
        refuse_too_many(MOST_ALLOWED + 1)


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(400)
def test_what_an_engine_has_compiled_the_next_one_loads(tmp_path: Path) -> None:
    script = f"""
        import asyncio
        import numpy as np
        from confscore.engines.base import AnswerTokens
        from confscore.engines.vllm import VllmEngine

        async def main():
            arguments = {{"dtype": "float32", "max_model_len": 256, "kv_cache_memory_bytes": 1 << 26}}
            engine = VllmEngine({str(GUARD_FOLDER)!r}, AnswerTokens(np.arange(20), (19,), 5), engine_args=arguments)
            await engine.warm_up()
            await engine.close()

        if __name__ == "__main__":
            asyncio.run(main())
    """
    path = tmp_path / "run.py"
    path.write_text(textwrap.dedent(script))
    caches = {"VLLM_CACHE_ROOT": str(tmp_path / "vllm"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_USE_AOT_COMPILE"} | caches
    for _ in range(2):
        command = [sys.executable, path]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        assert "load failure" not in done.stdout + done.stderr
    assert list((tmp_path / "vllm").rglob("*")), "it was compiled"


@pytest.mark.slow
@pytest.mark.vllm
def test_a_run_that_closes_its_engine_ends_in_silence(folder: Path) -> None:
    script = f"""
        import asyncio
        import numpy as np
        from confscore.engines.base import AnswerTokens, Rollout
        from confscore.engines.vllm import VllmEngine

        async def main():
            engine = VllmEngine({str(folder)!r}, AnswerTokens(np.arange(20), (19,), 5), engine_args={ARGUMENTS!r})
            await engine.warm_up()
            await asyncio.gather(*(engine.rollout([1, 2, 3 + i], ()) for i in range(20)))
            await engine.close()
            print("closed")

        if __name__ == "__main__":
            asyncio.run(main())
    """
    path = folder / "run.py"
    path.write_text(textwrap.dedent(script))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "closed" in done.stdout
    for bad in ("Traceback", "EngineDeadError", "ERROR", "Error"):
        assert bad not in done.stdout + done.stderr, done.stderr[-3000:]
