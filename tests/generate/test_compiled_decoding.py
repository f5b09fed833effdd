"""The decoding step with static shapes gives what the plain one gives, compiled and not."""

from __future__ import annotations

import os
import stat
import threading
from typing import Any

import pytest
import torch

from langwright.base import UserError
from langwright.generate import Engine, EngineConfig, LanguageModel, SamplingParams
from langwright.generate.compiled import (
    MOST_SHAPES,
    CompiledHidden,
    _keep_guards,
    compilable,
    form_of,
    keep_on_disk,
    padded,
)
from langwright.generate.paged_cache import ZEROS
from langwright.generate.quantise import quantise
from langwright.generate.weights import Choice, pack_model
from langwright.model import Transformer, build_model, model_config

SIZES = {"width": 32, "layers": 4, "heads": 4, "head_width": 8, "kv_heads": 2, "hidden_width": 48}
PLACES = {"vocab_size": 40, "context_length": 160}
PARAMS = SamplingParams(max_tokens=12, temperature=0.0, logprobs=3)
PROMPTS = [[1, 2, 3], list(range(5, 38)) * 4, [7], list(range(20))]


def model_of(preset: str, **more: object) -> Transformer:
    sizes = {**SIZES, **PLACES, **more}
    if preset.startswith(("gpt2", "pythia")):
        sizes["kv_heads"] = 4
    return build_model(model_config({"preset": preset, **sizes}), seed=2).eval()


def engine(preset: str, changes: dict[str, object] | None = None, **more: object) -> Engine:
    return engine_of(model_of(preset, **more), changes)


def engine_of(model: Transformer, changes: dict[str, object] | None = None) -> Engine:
    lm = LanguageModel(model, None)
    return Engine(lm, EngineConfig(max_running=4, cache_bytes=1 << 23, **(changes or {})))


def answers(one: Engine) -> list[tuple[list[int], list[float]]]:
    found = [output.answers[0] for output in one.generate(PROMPTS, PARAMS)]
    return [(list(a.ids), list(a.logprobs)) for a in found]


@pytest.mark.parametrize(
    "preset", ["llama-2m", "gpt2-124m", "qwen3-2m", "pythia-70m", "langwright-fast-1m"]
)
def test_static_shapes_change_nothing(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langwright.generate.compiled.TOGETHER", 3)  # of 4 layers: 3 and 1
    plain, static = engine(preset), engine(preset)
    stepper = static._stepper
    assert compilable(static.model, stepper._store) is None
    stepper.hidden = CompiledHidden(static.model, stepper._store, compile=False)
    for (ids, logprobs), (want, expected) in zip(answers(static), answers(plain), strict=True):
        assert ids == want
        assert logprobs == pytest.approx(expected, abs=2e-5)
    assert {rows for rows, _ in stepper.hidden.shapes} <= {1, 2, 4}


def test_rows_of_padding_write_where_nobody_reads() -> None:
    one = engine("llama-2m")
    store = one._stepper._store
    one._stepper.hidden = CompiledHidden(one.model, store, compile=False)
    one.generate([[1, 2, 3], [4, 5, 6], [7, 8, 9]], PARAMS)
    assert 4 in {rows for rows, _ in one._stepper.hidden.shapes}
    assert all(not pages[ZEROS].any() for part in store.kept for pages in part)


@pytest.mark.slow
def test_compiled_equals_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langwright.generate.compiled.TOGETHER", 3)  # of 4 layers: 3 and 1
    for (ids, logprobs), (want, expected) in zip(
        answers(engine("llama-2m", {"compile": True})), answers(engine("llama-2m")), strict=True
    ):
        assert ids == want
        assert logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_compiled_models_of_one_shape_stay_apart() -> None:
    """Nothing in the inputs tells these models apart: one's code must not run for the other."""
    for more in ({}, {"norm_eps": 0.1}, {"qk_norm": True}):
        for (ids, logprobs), (want, expected) in zip(
            answers(engine("llama-2m", {"compile": True}, **more)),
            answers(engine("llama-2m", **more)),
            strict=True,
        ):
            assert ids == want
            assert logprobs == pytest.approx(expected, abs=1e-4)


def mixed_model() -> Transformer:
    """Quantised, of six layers; the fifth and sixth in 8 bits, as some files have them."""
    model = model_of("llama-2m", width=64, hidden_width=64, layers=6)
    stored = {
        name: quantise(parameter.detach(), "int8")
        for name, parameter in model.named_parameters()
        if name.startswith(("blocks.4.", "blocks.5.")) and parameter.dim() == 2
    }
    return pack_model(model, "int4", Choice(wide=False), stored)


def test_a_step_is_given_blocks_of_one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing checks the blocks when the code runs: what was compiled for one form of weights must
    never be given another."""
    given: list[set[object]] = []

    def compiler(step: Any, **_: Any) -> Any:
        forms: set[object] = set()
        given.append(forms)

        def run(blocks: Any, *arguments: Any) -> Any:
            forms.add(form_of(blocks))
            return step(blocks, *arguments)

        return run

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr("langwright.generate.compiled.TOGETHER", 2)
    answers(engine_of(mixed_model(), {"compile": True}))
    assert [len(forms) for forms in given] == [1, 1] and given[0] != given[1]


def test_blocks_that_share_tensors_are_a_form_of_their_own() -> None:
    blocks = model_of("llama-2m").blocks
    one, two, three = blocks[0], blocks[1], blocks[2]
    assert form_of([one, two]) == form_of([two, three]) != form_of([one, one])
    two.attention.out.weight = one.attention.out.weight
    assert form_of([one, two]) != form_of([two, three])
    assert form_of([one]) == form_of([two])
    three.attention.out.weight = torch.nn.Parameter(three.attention.out.weight.detach().t())
    assert form_of([one]) != form_of([three])


def test_no_compiler_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("No working C++ compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing)
    with pytest.raises(UserError, match="cannot be compiled") as told:
        engine("llama-2m", {"compile": True})
    assert told.value.where == "compile" and "C++" in str(told.value.found)
    engine("llama-2m", {"compile": False})


@pytest.mark.slow
def test_weights_of_another_form_are_compiled_anew() -> None:
    one = engine("llama-2m", {"compile": True})
    answers(one)
    with one.paused():
        for layer in one.model.blocks:
            weight = layer.attention.out.weight
            layer.attention.out.weight = torch.nn.Parameter(weight.detach().t().contiguous().t())
        one.model.norm.to(torch.bfloat16)
        one.model.blocks[0].attention_norm.to(torch.bfloat16)
        one.forget()
    plain = engine_of(one.model)
    for (ids, logprobs), (want, expected) in zip(answers(one), answers(plain), strict=True):
        assert ids == want
        assert logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_compiled_layers_of_several_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langwright.generate.compiled.TOGETHER", 2)
    model = mixed_model()
    for (ids, logprobs), (want, expected) in zip(
        answers(engine_of(model, {"compile": True})), answers(engine_of(model)), strict=True
    ):
        assert ids == want
        assert logprobs == pytest.approx(expected, abs=0.02)  # bf16


@pytest.mark.slow
def test_few_things_are_checked_before_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch would look at every part of every block, which takes as long as a small layer."""
    found = []

    def keep(guards: Any) -> list[bool]:
        kept = _keep_guards(guards)
        found.append(
            (len(guards), {one.name for one, keep in zip(guards, kept, strict=True) if keep})
        )
        return kept

    monkeypatch.setattr("langwright.generate.compiled._keep_guards", keep)
    monkeypatch.setattr("langwright.generate.compiled.TOGETHER", 3)  # of 4 layers: 3 and 1
    one = engine("llama-2m", {"compile": True})
    answers(one)
    inputs = {"blocks", "x", "positions", "places", "pages", "kept"}
    assert len(found) <= 2 * len(one._stepper.hidden.shapes)  # 3 and 1 blocks
    for before, kept in found:
        assert before > 100 and inputs <= kept
        assert kept <= inputs | {"rotary", "rotary[0]", "rotary[1]", ""}


def test_models_that_cannot_be_compiled_run_as_they_are() -> None:
    one = engine("llama-2m", {"cache_dtype": "int8", "compile": True})
    assert compilable(one.model, one._stepper._store) == "an 8-bit cache"
    assert not isinstance(one._stepper.hidden, CompiledHidden)
    assert len(answers(one)) == len(PROMPTS)
    one = engine("langwright-fastest-1m", {"compile": True})
    why = "residual_scalars, value_embeddings, smear, backout"
    assert compilable(one.model, one._stepper._store) == why
    assert not isinstance(one._stepper.hidden, CompiledHidden)


def test_a_thread_of_its_own_may_compile_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's settings are each thread's own, and a server's engine works in another thread than
    the one that made it."""
    found = []

    def compiler(step: Any, **_: Any) -> Any:
        def run(*arguments: Any) -> Any:
            limits = torch._dynamo.config.recompile_limit, torch.compiler.config.cache_key_tag
            found.append(limits)
            return step(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", compiler)
    one = engine("llama-2m", {"compile": True})
    thread = threading.Thread(target=lambda: answers(one))
    thread.start()
    thread.join()
    assert found and all(limit >= MOST_SHAPES for limit, _ in found)
    assert all(tag.startswith("langwright-") for _, tag in found)


def test_shapes_are_few() -> None:
    assert [padded(n) for n in (1, 2, 3, 5, 8, 9)] == [1, 2, 4, 8, 8, 16]
    assert padded(3, 8) == padded(3, 8, halves=True) == 8
    pages = [8, 9, 12, 13, 16, 17, 24, 25, 32]
    assert [padded(n, 8, halves=True) for n in pages] == [8, 12, 12, 16, 16, 24, 24, 32, 32]


def test_compiled_code_is_kept_where_only_the_user_reads(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    folder = keep_on_disk()
    assert folder.is_relative_to(tmp_path) and torch.__version__ in folder.name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
