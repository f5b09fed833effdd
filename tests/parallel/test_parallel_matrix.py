"""All forms of parallel training, alone and together, against one process: losses, norms, gradients
of every parameter and final weights of several updates, with unequal numbers of counted tokens.

A sample runs always; all of it with ``pytest -m parallel``.
"""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from parallel_ranks import run_ranks
from parallel_small import (
    BF16_CUT_GRADIENT,
    BF16_GRADIENT,
    BF16_LOSS,
    LOSS,
    TIED_LOSS,
    Case,
    Outcome,
    check_equal,
    parallel,
    single,
)

ALWAYS = {
    "fsdp2 cp2",
    "pp2 fsdp2 zero-bubble",
    "pp2 tp2",
    "pp2 fsdp2 ep2 m2",
    "fsdp2 tp2 cp2",
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"layers": 4},
    "untied": {"layers": 4, "tied": False, "qk_norm": True},
    "six": {"layers": 6},
    "gpt2": {
        "layers": 4,
        "feedforward": "gelu_tanh",
        "feedforward_bias": True,
        "qkv_bias": True,
        "attention_out_bias": True,
        "norm": "layernorm",
        "norm_bias": True,
        "position": "learned",
        "kv_heads": None,
    },
    "gemma": {
        "layers": 4,
        "norm_placement": "sandwich",
        "logit_softcap": 5.0,
        "attention_softcap": 3.0,
        "norm_offset": True,
        "window": 5,
        "embedding_norm": True,
        "embedding_scale": 3.0,
    },
    "experts": {
        "layers": 4,
        "experts": {
            "count": 4,
            "chosen": 2,
            "hidden_width": 24,
            "shared_width": 16,
            "shared_gate": True,
            "balance_loss": 0.02,
            "router_z_loss": 0.01,
        },
    },
    "balanced": {
        "layers": 4,
        "experts": {"count": 8, "chosen": 2, "hidden_width": 24, "selection_bias": True},
        "expert_layers": [False, True, True, True],
    },
    "latent": {
        "layers": 4,
        "latent": {"kv_rank": 16, "query_rank": 12, "rotary_width": 4},
        "kv_heads": None,
    },
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "muon": {"name": "muon"},
    # In bf16: Adam's division makes steps of full size out of what is rounding in small gradients.
    "sgd": {"name": "sgd", "lr": 0.02, "momentum": 0.9},
}
SHORT = {"ddp": "dp_replicate", "fsdp": "dp_shard"}
WORDS: dict[str, dict[str, Any]] = {
    "ulysses": {"cp_method": "ulysses"},
    "always": {"reshard": "always"},
    "never": {"reshard": "never"},
    "tokens": {"sequence_parallel": False},
    "vocabulary": {"loss_parallel": False},
    "offload": {"offload": True},
    "m2": {"pipeline_microbatches": 2},
    "m3": {"pipeline_microbatches": 3},
    **{name: {"schedule": name} for name in ("gpipe", "1f1b", "interleaved", "zero-bubble")},
}

# Layout, then (after a bar) model, optimizer and number format where they are not the usual ones.
LAYOUTS = """
ddp2 | gpt2
fsdp2 | gemma
fsdp2 always | muon
fsdp2 never | untied
fsdp2 offload | llama
fsdp2 bf16 | llama bf16
tp2 | gpt2 muon
tp2 tokens | gemma
tp2 vocabulary | untied
tp2 bf16 | llama bf16 sgd
cp2 | gpt2 muon
cp2 ulysses | gemma
cp2 bf16 | llama bf16 sgd
pp2 gpipe | gpt2
pp2 1f1b | gemma muon
pp2 interleaved | latent
pp2 zero-bubble | gpt2 muon
pp2 1f1b m2 | experts
pp2 zero-bubble m2 | experts
pp2 bf16 | llama bf16
fsdp2 ep2 | experts muon
ddp4 | untied
fsdp4 | latent muon
ddp2 fsdp2 | gpt2 muon
fsdp2 tp2 | gemma
fsdp2 tp2 always | llama bf16 sgd
ddp2 tp2 | untied
fsdp2 cp2 | llama
ddp2 cp2 ulysses | untied muon
cp4 | gemma
cp4 ulysses | gpt2
tp2 cp2 | latent muon
tp2 cp2 ulysses | gpt2
tp2 cp2 tokens | experts
pp2 fsdp2 gpipe | gpt2
pp2 fsdp2 1f1b | gemma
pp2 fsdp2 1f1b always | llama
pp2 fsdp2 interleaved | untied muon
pp2 fsdp2 zero-bubble | llama
pp2 fsdp2 zero-bubble never | gpt2 bf16 ones
pp2 ddp2 1f1b | llama muon
pp2 ddp2 interleaved | gpt2
pp2 ddp2 zero-bubble | untied
pp2 tp2 | gpt2
pp2 tp2 zero-bubble | gemma muon
pp2 tp2 interleaved tokens | llama
pp2 cp2 | gemma
pp2 cp2 ulysses zero-bubble | llama muon
pp4 | untied
pp4 zero-bubble | gpt2
pp3 interleaved m3 | six
pp2 fsdp2 ep2 m2 | experts
fsdp4 ep2 | experts
ddp2 fsdp2 ep2 | experts muon
fsdp2 tp2 ep2 | experts
fsdp2 cp2 ep4 | experts
fsdp2 tp2 cp2 | llama
ddp2 fsdp2 tp2 | gpt2 muon
pp2 fsdp2 tp2 | gemma
pp2 ddp2 tp2 zero-bubble | llama
pp2 fsdp2 cp2 | gpt2 muon
pp2 tp2 cp2 | untied
pp2 ddp2 fsdp2 interleaved | latent
fsdp2 cp2 tp2 ep4 | experts
fsdp2 documents | gpt2 documents
cp2 documents | gemma documents
cp2 ulysses documents | latent documents muon
tp2 cp2 documents | gpt2 documents
pp2 documents | gemma documents muon
pp2 cp2 documents zero-bubble | llama documents
fsdp2 cp2 ep2 | balanced documents
pp2 fsdp2 ep2 interleaved | balanced
pp2 tp2 interleaved | balanced
fsdp2 full | balanced
cp2 selective | experts
pp2 full zero-bubble | gpt2
pp2 selective m2 | experts
pp2 fsdp2 full always | gemma
tp2 cp2 full | gemma
fsdp2 cp2 ep2 full | experts
pp2 fsdp2 cp2 tp2 | llama
"""


def _case(line: str) -> tuple[int, Case]:
    """Number of processes, and what they do."""
    form, _, what = (part.strip() for part in line.partition("|"))
    table: dict[str, Any] = {"dp_shard": 1}
    for word in form.split():
        name, size = word.rstrip("0123456789"), word[len(word.rstrip("0123456789")) :]
        if word in WORDS:
            table |= WORDS[word]
        elif word not in ("bf16", "documents", "full", "selective"):
            table[SHORT.get(name, name)] = int(size)
    degrees = ("dp_replicate", "dp_shard", "tp", "pp", "cp")
    count = math.prod(table.get(name, 1) for name in degrees)
    model = next(word for word in what.split() + ["llama"] if word in MODELS)
    return count, Case(
        model=MODELS[model],
        optimizer=next((o for name, o in OPTIMIZERS.items() if name in what.split()), {}),
        parallel=table,
        steps=3,
        micro_rows=1 if "ones" in what.split() else 2,
        rows=6 if model == "six" else 8,
        documents="documents" in what.split(),
        activations=next((w for w in form.split() if w in ("full", "selective")), "none"),
        dtype=torch.bfloat16 if "bf16" in what.split() else torch.float32,
    )


@functools.cache
def _reference(what: str) -> Outcome:
    """Of one process; layouts with the same model share it."""
    return single(_case(f"tp1 | {what}")[1])


def _marked(line: str) -> Any:
    form = line.partition("|")[0].strip()
    return pytest.param(line, id=form, marks=pytest.mark.sample if form in ALWAYS else ())


@pytest.mark.parallel
@pytest.mark.parametrize("line", [_marked(line) for line in LAYOUTS.strip().splitlines()])
def test_many_processes_equal_one(line: str) -> None:
    count, case = _case(line)
    wanted = _reference(line.partition("|")[2].strip())
    found = run_ranks(count, parallel, case)[0]
    if case.dtype == torch.bfloat16:
        cut = any(case.parallel.get(name, 1) > 1 for name in ("tp", "cp"))
        limit = BF16_CUT_GRADIENT if cut else BF16_GRADIENT
        check_equal(found, wanted, loss=BF16_LOSS, gradient=limit)
    else:
        check_equal(found, wanted, loss=TIED_LOSS if case.model.get("tied", True) else LOSS)


@pytest.mark.parametrize("fault", ["loss", "norm", "gradient", "missing", "weight"])
def test_a_small_fault_is_found(fault: str) -> None:
    """Of the sizes that a wrong scale or a sum left out would have, in the last update only."""
    wanted = _reference("llama")
    found = copy.deepcopy(wanted)
    name = "blocks.1.attention.k.weight"
    if fault == "loss":
        found.losses[-1] += 3e-6
    elif fault == "norm":
        found.norms[-1] *= 1 + 5e-6
    elif fault == "gradient":
        found.gradients[-1][name] *= 1 + 2e-5
    elif fault == "missing":
        del found.gradients[-1][name]
    else:
        found.weights[name][0, 0] += 1e-5
    check_equal(wanted, wanted)
    with pytest.raises(AssertionError):
        check_equal(found, wanted)


def test_matrix_is_large() -> None:
    lines = LAYOUTS.strip().splitlines()
    assert len(lines) >= 60 and len({line.partition("|")[0] for line in lines}) == len(lines)
    assert {param.id for param in map(_marked, lines) if param.marks} == ALWAYS
