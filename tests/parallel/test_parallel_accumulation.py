"""Gradients that stay sharded between micro-batches: equal to one process, and as small as said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_ranks import run_ranks
from parallel_small import (
    TIED_LOSS,
    Case,
    batch_of,
    check_equal,
    parallel,
    parallel_form,
    single,
    small_config,
)
from test_parallel_matrix import MODELS
from test_parallel_trainer import SETTINGS

from langwright.base import UserError
from langwright.model import Transformer
from langwright.parallel import ParallelConfig, World, layout, world
from langwright.parallel.accumulation import SMALL, choose_accumulation
from langwright.train import TrainConfig, language_model_loss
from langwright.train.setup import spread

pytestmark = [pytest.mark.parallel, pytest.mark.sample]
MUON = {"name": "muon"}
SHARD2, HSDP = {"dp_shard": 2}, {"dp_replicate": 2, "dp_shard": 2}
WORLDS: dict[str, tuple[int, Case]] = {
    "fsdp": (2, Case(parallel=SHARD2, micro_rows=1)),
    "fsdp kept": (2, Case(parallel={**SHARD2, "reshard": "never"}, micro_rows=1)),
    "fsdp offload": (2, Case(parallel={**SHARD2, "offload": True}, micro_rows=1)),
    "fsdp untied muon": (2, Case(parallel=SHARD2, model={"tied": False}, optimizer=MUON)),
    "hsdp": (4, Case(parallel=HSDP, micro_rows=1)),
    "hsdp experts": (
        4,
        Case(parallel={**HSDP, "ep": 2}, model=MODELS["experts"], micro_rows=1, optimizer=MUON),
    ),
    "fsdp cp": (4, Case(parallel={"dp_shard": 2, "cp": 2}, micro_rows=1)),
    "fsdp tp": (4, Case(parallel={"dp_shard": 2, "tp": 2}, micro_rows=1)),
    "pp fsdp": (4, Case(parallel={"dp_shard": 2, "pp": 2}, model={"layers": 4})),
    "pp fsdp always": (
        4,
        Case(parallel={"dp_shard": 2, "pp": 2, "reshard": "always"}, model={"layers": 4}),
    ),
}


def _sharded(case: Case) -> Case:
    return dataclasses.replace(case, parallel={**case.parallel, "accumulate": "sharded"})


@pytest.mark.parametrize("name", WORLDS)
def test_processes_equal_one(name: str) -> None:
    count, case = WORLDS[name]
    check_equal(run_ranks(count, parallel, _sharded(case))[0], single(case), loss=TIED_LOSS)


def _held(case: Case) -> tuple[bool, int, int, int]:
    """(sharded, numbers of the model, of gradients before the last micro-batch's backward pass:
    in whole gradients, in shares)."""
    form = parallel_form(case)
    found: list[tuple[int, int]] = []

    def objective(model: Any, batch: Any) -> Any:
        whole = [
            kept
            for module in form.root.modules()
            if hasattr(module, "_get_fsdp_state")
            for one in _sharded_parameters(module._get_fsdp_state())
            for kept in (one.unsharded_accumulated_grad, _whole_gradient(one))
        ]
        shares = [p.grad.to_local() for p in form.parameters.values() if p.grad is not None]
        found.append((_numbers([g for g in whole if g is not None]), _numbers(shares)))
        return language_model_loss(model, batch)

    micros = form.take_rows(batch_of(case)).split(case.micro_rows)
    form.gradients(objective, micros, 1.0, lambda index: None)
    model = sum(p.numel() for p in form.parameters.values())
    return form.accumulates_sharded, model, *found[-1]


def _sharded_parameters(state: Any) -> list[Any]:
    """FSDP's own records of a module's parameters; torch before 2.12 has one group at most."""
    one = getattr(state, "_fsdp_param_group", None)
    groups = getattr(state, "_fsdp_param_groups", [one] if one is not None else [])
    return [parameter for group in groups for parameter in group.fsdp_params]


def _whole_gradient(parameter: Any) -> torch.Tensor | None:
    """Where FSDP lets one stand whose number format is already that of adding up."""
    return parameter._unsharded_param.grad if hasattr(parameter, "_unsharded_param") else None


def _numbers(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def test_what_a_process_holds_between_micro_batches() -> None:
    case = Case(parallel=SHARD2, micro_rows=1)
    for chosen, model, whole, shares in run_ranks(2, _held, _sharded(case)):
        assert chosen and whole == 0 and 0.45 * model < shares < 0.55 * model
    for chosen, model, whole, shares in run_ranks(2, _held, case):  # so small a model stays whole
        assert not chosen and whole == model and shares == 0


def _choice(numbers: int, **changes: Any) -> Any:
    count = changes.get("pp", 1) * 2
    place = layout(ParallelConfig.parse({"dp_shard": 2, **changes}), World(size=count))
    return choose_accumulation(place, numbers)


def test_the_choice_and_its_reason() -> None:
    limit = SMALL // 4
    assert not _choice(limit).sharded and _choice(limit + 1).sharded
    assert _choice(7 * 10**9).reason == "whole 26.1 GiB, more than 2.0 GiB"
    assert _choice(1000).describe() == (
        "gradients between micro-batches: whole (whole 3.9 KiB, at most 2.0 GiB)"
    )
    for wanted in ("sharded", "whole"):
        found = _choice(7 * 10**9, accumulate=wanted)
        assert found.sharded == (wanted == "sharded") and found.reason == "as asked"
    assert _choice(10, offload=True).sharded
    late = _choice(7 * 10**9, pp=2, schedule="zero-bubble")
    assert not late.sharded and "zero-bubble" in late.reason
    with pytest.raises(UserError, match="at the end only"):
        _choice(10, pp=2, schedule="zero-bubble", accumulate="sharded")


def test_the_choice_is_told(tmp_path: Path) -> None:
    for told in run_ranks(2, _told):
        assert "gradients between micro-batches: sharded (as asked)" in told


def _told() -> list[str]:
    told: list[str] = []
    config = TrainConfig.parse({**SETTINGS, "parallel": {"dp_shard": 2, "accumulate": "sharded"}})
    with torch.device("meta"):
        model = Transformer(small_config())
    spread(model, config, world("cpu"), "cpu", fresh=True, say=told.append)
    return told
