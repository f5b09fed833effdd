"""The loop over processes: what they report together, and what they agree on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_ranks import run_ranks
from parallel_small import Case, UnevenRows, parallel_form, small_config, updater_of
from test_parallel_trainer import train
from torch.overrides import TorchFunctionMode

from langwright.model import flops_per_token
from langwright.parallel import world
from langwright.train import report


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def _with_peak(folder: Path, parallel: dict[str, Any], peaks: list[float]) -> Any:
    report.peak_rate = lambda choices: peaks[world().rank]
    return train(folder, parallel)[0]


@pytest.mark.parametrize("parallel", [{"dp_shard": 2}, {"tp": 2}], ids=["fsdp", "tp"])
def test_the_share_of_peak_is_of_all_processes(tmp_path: Path, parallel: dict[str, Any]) -> None:
    """All tokens of all processes against all that their devices could do."""
    peaks = [1e6, 3e6]  # FLOP/s; so low that rounding to four digits does not matter
    for metrics in run_ranks(2, _with_peak, tmp_path, parallel, peaks):
        rate = metrics["training_tokens_per_second"]
        wanted = rate * flops_per_token(small_config(), 16) / sum(peaks)
        assert metrics["mfu"] == pytest.approx(wanted, rel=1e-9)
    told = [line for line in lines(tmp_path) if "mfu" in line]
    assert len(told) == 6
    for line in told:
        wanted = line["tokens_per_second"] * flops_per_token(small_config(), 16) / sum(peaks)
        assert line["mfu"] == pytest.approx(wanted, rel=1e-3)


class NumbersSent(TorchFunctionMode):
    """Notes where tensors are made of the host's numbers. On a GPU each such copy from pageable
    memory waits until the device has done all that it was asked for before."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor):
            self.found.append(f"{func.__name__}{args} {kwargs}")
        return func(*args, **(kwargs or {}))


def _numbers_sent(parallel: dict[str, Any]) -> list[str]:
    case = Case(parallel=parallel)
    form = parallel_form(case)
    updater = updater_of(case, form)
    batches = [UnevenRows().batch(*form.own_rows(8 * step, 8)) for step in range(2)]
    updater.update(0, batches[0], 1.0)  # makes what is kept
    with NumbersSent() as numbers:
        outcome = updater.update(1, batches[1], 1.0)
    assert outcome.loss.dtype == torch.float32 and torch.isfinite(outcome.loss)
    return numbers.found


@pytest.mark.parametrize(
    "parallel",
    [{"dp_replicate": 2, "dp_shard": 1}, {"dp_shard": 2}, {"tp": 2}, {"cp": 2}, {"pp": 2}],
    ids=["ddp", "fsdp", "tp", "cp", "pp"],
)
def test_an_update_sends_no_numbers_to_the_device(parallel: dict[str, Any]) -> None:
    assert run_ranks(2, _numbers_sent, parallel) == [[], []]
