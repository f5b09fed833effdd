"""Over processes compiling is chosen, tried and undone by all of them together."""

from __future__ import annotations

import functools
import time
from typing import Any

import pytest
import torch
from parallel_ranks import run_ranks
from parallel_small import (
    Case,
    UnevenRows,
    check_equal,
    parallel,
    parallel_form,
    single,
    updater_of,
)

from langwright.base import UserError
from langwright.model import prepare_compiler
from langwright.parallel import world
from langwright.plan.rules import why_not_compiled
from langwright.train import probe, update
from langwright.train.choices import Choices
from langwright.train.compiling import blocks_of

LAYOUTS: dict[str, dict[str, Any]] = {
    "ddp": {"dp_replicate": 2, "dp_shard": 1},
    "fsdp": {"dp_shard": 2},
    "cp": {"cp": 2},
    "ulysses": {"cp": 2, "cp_method": "ulysses"},
}
OTHERS: dict[str, dict[str, Any]] = {
    "never resharded": {"dp_shard": 2, "reshard": "never"},
    "in main memory": {"dp_shard": 2, "offload": True},
    "hsdp": {"dp_replicate": 2, "dp_shard": 2},
    "fsdp cp": {"dp_shard": 2, "cp": 2},
    "tp cp": {"tp": 2, "cp": 2},
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"norm": "layernorm", "feedforward": "gelu", "position": "learned", "kv_heads": 4},
}


def compiled(case: Case, backend: str = "aot_eager") -> tuple[Any, int]:
    """The case as the trainer compiles it, after sharding; and how many graphs were run."""
    graphs = [0]
    inner = torch._dynamo.lookup_backend(backend)

    def counting(graph: Any, inputs: Any) -> Any:
        graphs[0] += 1
        return inner(graph, inputs)

    form = parallel_form(case)
    assert why_not_compiled(form.layout) is None
    prepare_compiler()
    for part in (*blocks_of(form.model), form.model.norm):
        part.compile(backend=counting, fullgraph=True, dynamic=False)
    import parallel_small

    parallel_small.parallel_form = lambda *a, **k: form  # this process's own copy of the module
    return parallel(case), graphs[0]


@pytest.mark.parametrize(
    ("layout", "shape", "backend"),
    [
        *((name, "llama", "aot_eager") for name in ("ddp", "fsdp", "cp")),
        pytest.param("ulysses", "llama", "aot_eager", marks=pytest.mark.slow),
        pytest.param("fsdp", "gpt2", "aot_eager", marks=pytest.mark.slow),
        *(pytest.param(n, "llama", "aot_eager", marks=pytest.mark.slow) for n in OTHERS),
        *(pytest.param(n, "llama", "inductor", marks=pytest.mark.slow) for n in ("ddp", "fsdp")),
    ],
)
def test_compiled_after_sharding_it_is_the_same(layout: str, shape: str, backend: str) -> None:
    degrees = {**LAYOUTS, **OTHERS}[layout]
    case = Case(model=SHAPES[shape], parallel=degrees, steps=2)
    names = ("dp_replicate", "dp_shard", "cp", "tp")
    ranks = torch.tensor([degrees.get(name, 1) for name in names]).prod().item()
    results = run_ranks(int(ranks), compiled, case, backend)
    assert all(graphs >= 2 for _, graphs in results)  # a block's and the final norm's
    check_equal(results[0][0], single(case), loss=5e-6)


def fake_compiler(change: Any, model: Any) -> None:
    for block in blocks_of(model):
        plain = block._call_impl
        block._compiled_call_impl = functools.partial(change, plain)


def broken(plain: Any, *arguments: Any, **options: Any) -> Any:
    raise RuntimeError("no graph for this block")


def slower_here(plain: Any, *arguments: Any, **options: Any) -> Any:
    """On the first process much slower, elsewhere as before: what it measures counts for all."""
    time.sleep(0.02 if world().first else 0.0)
    return plain(*arguments, **options)


def quicker(plain: Any, x: Any, *arguments: Any, **options: Any) -> Any:
    return x + 0.0


def chosen(case: Case, change: Any, lacking: int | None, wanted: Any = "auto") -> Any:
    """(decision, reason, losses of a pass before and after) on this process."""
    form = parallel_form(case)
    updater = updater_of(case, form)
    probe_ = probe.Probe(updater, UnevenRows(), case.rows)
    choices = Choices("key")
    choices.decide("device", "cpu", "test")
    update.compile_blocks = functools.partial(fake_compiler, change)
    error = "RuntimeError: no C++ compiler" if lacking == world().rank else None
    probe.compiler_error = lambda device: error
    batch = UnevenRows().batch(*form.own_rows(0, case.rows))
    losses = [updater.accumulate(0, batch)[0].item()]
    updater.forget()
    value = probe.choose_compile(wanted, choices, probe_, steps=None, seconds=3600.0)
    before = value
    if value:
        updater.undo_compile()
    outcome = updater.update(0, batch, 1.0)  # forward and backward passes work as before
    losses.append(outcome.loss.item())
    return before, choices.values["compile"]["reason"], losses


@pytest.mark.parametrize("layout", ["ddp", "fsdp", "cp"])
def test_a_failure_on_all_is_told_and_undone(layout: str) -> None:
    case = Case(parallel=LAYOUTS[layout])
    for value, reason, losses in run_ranks(2, chosen, case, broken, None):
        assert value is False
        assert reason == "the compiler failed: process 0: RuntimeError: no graph for this block"
        assert losses[0] == losses[1]


def test_a_compiler_that_one_of_them_lacks_is_used_by_none() -> None:
    case = Case(parallel=LAYOUTS["fsdp"])
    for value, reason, losses in run_ranks(2, chosen, case, quicker, 1):
        assert value is False and losses[0] == losses[1]
        assert reason == "the compiler failed: process 1: RuntimeError: no C++ compiler"
    for error in run_ranks(2, _asked, case):
        assert "process 1: RuntimeError: no C++ compiler" in error


def _asked(case: Case) -> str:
    with pytest.raises(UserError) as caught:
        chosen(case, quicker, 1, wanted=True)
    return str(caught.value)


def test_all_take_the_first_ones_measurement() -> None:
    case = Case(parallel=LAYOUTS["ddp"])
    results = run_ranks(2, chosen, case, slower_here, None)
    assert [value for value, *_ in results] == [False, False]
    assert results[0][1] == results[1][1] and "ms compiled" in results[0][1]


def test_pipelines_and_experts_are_compiled_where_asked_for_only() -> None:
    experts = {"experts": {"count": 4, "chosen": 2}}
    for model, degrees, word in (({}, {"pp": 2}, "pipeline"), (experts, {"ep": 2}, "experts")):
        case = Case(model=model, parallel=degrees, rows=8)
        for value, reason, _ in run_ranks(2, chosen, case, quicker, None):
            assert value is False and word in reason
