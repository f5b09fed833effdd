"""The loop over processes: what they report together, and what they agree on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_ranks import run_ranks
from parallel_small import Case, UnevenRows, parallel_form, small_config, updater_of
from test_parallel_trainer import SETTINGS, train
from torch.overrides import TorchFunctionMode

from langwright.base import UserError
from langwright.model import Transformer, flops_per_token
from langwright.parallel import world
from langwright.train import TrainConfig, Trainer, language_model_loss, report


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


def _hopeless(folder: Path, parallel: dict[str, Any], seconds: list[float]) -> tuple[str, int]:
    """Every loss is NaN; what the run ends with, and after how many micro-batches."""
    report.FLUSH_SECONDS = seconds[world().rank]
    passes = 0

    def objective(model: Any, batch: Any) -> Any:
        nonlocal passes
        passes += 1
        loss_sum, weight = language_model_loss(model, batch)
        return loss_sum * float("nan"), weight

    with torch.device("meta"):
        model = Transformer(small_config())
    config = TrainConfig.parse({**SETTINGS, "parallel": parallel, "max_bad_steps": 2})
    trainer = Trainer(
        model, UnevenRows(), config, folder, objective=objective, quiet=True, fresh=True
    )
    with pytest.raises(UserError) as caught:
        trainer.run()
    return caught.value.render(), passes


@pytest.mark.parametrize(
    ("seconds", "updates"),
    [([0.0, 1e9], 2), ([1e9, 0.0], 6)],
    ids=["the first looks first", "another looks first"],
)
def test_all_give_up_together(tmp_path: Path, seconds: list[float], updates: int) -> None:
    """Each looks at its results by its own clock; the first one's counts."""
    first, second = run_ranks(2, _hopeless, tmp_path, {"dp_shard": 2}, seconds)
    assert first == second
    text, passes = first
    assert passes == 2 * updates
    assert "not finite in 2 updates in a row" in text and "step 2: rows 8 to 15" in text
    path = tmp_path / "bad_batches" / "step-0000002.json"
    assert path.is_file() and str(path) in text
