"""Tensor parallel against one process: every kind of block, with and without its options."""

from typing import Any

import pytest
from parallel_ranks import run_ranks
from parallel_small import Case, check_equal, parallel, single, small_config

from langwright.base import UserError
from langwright.parallel import ParallelConfig, World, layout
from langwright.parallel.tensor_parallel import check_divisible

pytestmark = [pytest.mark.parallel, pytest.mark.sample]
EXPERTS = {
    "count": 4,
    "chosen": 2,
    "hidden_width": 24,
    "shared_width": 16,
    "shared_gate": True,
    "balance_loss": 0.02,
    "router_z_loss": 0.01,
}
GPT2 = {
    "feedforward": "gelu_tanh",
    "feedforward_bias": True,
    "qkv_bias": True,
    "attention_out_bias": True,
    "norm": "layernorm",
    "norm_bias": True,
    "position": "learned",
    "kv_heads": None,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "untied": {"tied": False, "qk_norm": True},
    "gpt2": GPT2,
    "olmo2": {"qk_norm": True, "qk_norm_over": "all", "norm_placement": "output"},
    "gemma": {"norm_placement": "sandwich", "logit_softcap": 5.0, "attention_softcap": 3.0,
              "norm_offset": True, "window": 8, "embedding_norm": True},
    "post": {"norm_placement": "post", "position": "relative", "attention_sinks": True},
    "alibi": {"position": "alibi", "parallel": True, "head_bias": True},
    "experts": {"experts": EXPERTS},
    "latent": {"latent": {"kv_rank": 16, "query_rank": 12, "rotary_width": 4}, "kv_heads": None},
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_two_processes_equal_one(model: str) -> None:
    case = Case(model=MODELS[model], parallel={"tp": 2})
    check_equal(run_ranks(2, parallel, case)[0], single(case), loss=5e-6)


@pytest.mark.parametrize("sequence", [True, False])
@pytest.mark.parametrize("loss", [True, False])
def test_options(sequence: bool, loss: bool) -> None:
    options = {"tp": 2, "sequence_parallel": sequence, "loss_parallel": loss}
    case = Case(model={**GPT2, "tied": False}, parallel=options, optimizer={"name": "muon"})
    check_equal(run_ranks(2, parallel, case)[0], single(case), loss=5e-6)


def test_with_fsdp_and_with_ddp() -> None:
    for data in ({"dp_shard": 2}, {"dp_replicate": 2}):
        case = Case(parallel={"tp": 2, **data}, optimizer={"name": "muon"})
        check_equal(run_ranks(4, parallel, case)[0], single(case), loss=5e-6)


@pytest.mark.parametrize(
    "data",
    [{}, pytest.param({"dp_shard": 2}, marks=pytest.mark.slow)],
    ids=["tp", "tp fsdp"],
)
def test_compiled_blocks(data: dict[str, int]) -> None:
    """The regions' borders go into the graphs of the blocks and of the final norm without a break
    (fullgraph)."""
    case = Case(parallel={"tp": 2, **data}, steps=2)
    ranks = 4 if data else 2
    check_equal(run_ranks(ranks, _compiled, case)[0], single(case), loss=5e-6)


def _compiled(case: Case) -> Any:
    def compile_blocks(model: Any) -> None:
        for part in (*model.blocks, model.norm):
            part.compile(backend="aot_eager", fullgraph=True, dynamic=False)

    return parallel(case, before_sharding=compile_blocks)


def refusal(changes: dict[str, Any], parallel_: dict[str, Any]) -> str:
    """The message for a model that does not fit."""
    parts = {"tp": 2, **parallel_}
    config = small_config(**changes)
    with pytest.raises(UserError) as caught:
        check_divisible(config, layout(ParallelConfig.parse(parts), World(0, 12)))
    return str(caught.value)


def test_what_does_not_divide_is_refused() -> None:
    assert "heads" in refusal({}, {"tp": 3})
    assert "kv_heads" in refusal({"kv_heads": 1}, {})
    wide = {"kv_heads": 4, "hidden_width": 50}
    assert "hidden_width" in refusal(wide, {"tp": 4})
    message = refusal({"dropout_residual": 0.1}, {})
    assert "dropout" in message and "parallel.tp" in message
    assert "experts.shared_width" in refusal({"experts": {**EXPERTS, "shared_width": 15}}, {})
