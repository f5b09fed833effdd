"""What spread models do besides training: evaluation, saving and going on under another layout."""

import math
from pathlib import Path

import pytest
import torch
from parallel_ranks import run_ranks
from parallel_small import (
    Case,
    Outcome,
    UnevenRows,
    batch_of,
    check_equal,
    parallel_form,
    single,
    small_config,
    updater_of,
)

from langwright.evaluate import evaluate_rows
from langwright.model import build_model
from langwright.parallel import Alone, restore
from langwright.train import language_model_loss
from langwright.train.checkpoint import open_checkpoint, save_pieces

MODEL = {"layers": 4, "window": 5}
FORMS = {
    "cp": {"dp_shard": 1, "cp": 2},
    "pp": {"dp_shard": 1, "pp": 2},
    "pp interleaved fsdp": {"pp": 2, "dp_shard": 2, "schedule": "interleaved"},
    "pp tp": {"dp_shard": 1, "pp": 2, "tp": 2},
}


def evaluate(case: Case, train_first: bool) -> tuple[float, float, float]:
    """Loss by evaluation, and loss sum and weight by the objective."""
    form = parallel_form(case)
    if train_first:  # gathered weights of before an update must not be used after it
        updater_of(case, form).update(0, UnevenRows().batch(*form.own_rows(0, case.rows)), 1.0)
    loss = form.inside(evaluate_rows, UnevenRows(), 5).nats_per_token
    total, weight = form.inside(language_model_loss, batch_of(case))
    return loss, float(total), float(weight)


@pytest.mark.parametrize("form", FORMS)
def test_evaluation_goes_through_all_processes(form: str) -> None:
    case = Case(model=MODEL, parallel=FORMS[form])
    count = math.prod(size for size in FORMS[form].values() if isinstance(size, int))
    model = build_model(small_config(**MODEL), seed=3).train()
    updater_of(case, Alone(model)).update(0, batch_of(case), 1.0)
    loss = evaluate_rows(model, UnevenRows(), 5).nats_per_token
    with torch.no_grad():
        total, weight = language_model_loss(model, batch_of(case))
    found = run_ranks(count, evaluate, case, True)
    assert all(one == found[0] for one in found)
    assert found[0][0] == pytest.approx(loss, abs=1e-5)
    assert found[0][1:] == (pytest.approx(float(total), rel=1e-6), weight)


STEPS = 4


def part_of_a_run(
    case: Case, start: int, end: int, folder: Path, going_on: bool
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Updates `start` to `end` - 1, between two checkpoints; their losses, and whole weights."""
    form = parallel_form(case)
    updater = updater_of(case, form)
    if going_on:
        found = open_checkpoint(folder / f"step-{start:07d}")
        restore(form, found.path, updater.optimizer, found.state["optimizer_scalars"])
    losses = []
    for step in range(start, end):
        batch = UnevenRows().batch(*form.own_rows(step * case.rows, case.rows))
        losses.append(float(updater.update(step, batch, multiplier=1.0).loss))
    scalars = updater.optimizer.state_dict()["scalars"]
    save_pieces(folder, end, form.state(updater.optimizer), scalars, {}, form.control)
    form.wait()
    return losses, form.full_state()


EXPERTS = {
    "layers": 4,
    "experts": {"count": 4, "chosen": 2, "hidden_width": 24, "balance_loss": 0.02},
}
PP, CP = {"dp_shard": 1, "pp": 2}, {"dp_shard": 1, "cp": 2}
EP = {"dp_shard": 2, "ep": 2}
MUON = {"name": "muon"}


@pytest.mark.parametrize(
    ("first", "second", "model", "optimizer"),
    [
        (PP, CP, {"layers": 4}, MUON),
        pytest.param(
            *({"dp_shard": 2, "tp": 2}, {"pp": 2, "dp_shard": 2}, {"layers": 4}, MUON),
            marks=pytest.mark.parallel,
        ),
        pytest.param(
            *({**PP, "cp": 2}, {"dp_shard": 1, "tp": 2}, {"layers": 4}, {}),
            marks=pytest.mark.parallel,
        ),
        pytest.param(
            *(EP, {**EP, "pp": 2, "pipeline_microbatches": 2}, EXPERTS, MUON),
            marks=pytest.mark.parallel,
        ),
        ({**PP, "schedule": "interleaved"}, EP, EXPERTS, {}),
    ],
    ids=["pp to cp", "fsdp tp to pp fsdp", "pp cp to tp", "ep to pp ep", "pp to ep"],
)
def test_a_run_goes_on_under_another_layout(
    first: dict, second: dict, model: dict, optimizer: dict, tmp_path: Path
) -> None:
    losses: list[float] = []
    weights: dict[str, torch.Tensor] = {}
    for form, start, end in ((first, 0, 2), (second, 2, STEPS)):
        case = Case(model=model, parallel=form, optimizer=optimizer)
        count = math.prod(form.get(name, 1) for name in ("dp_shard", "pp", "cp", "tp"))
        found, weights = run_ranks(count, part_of_a_run, case, start, end, tmp_path, start > 0)[0]
        losses += found
    wanted = single(Case(model=model, optimizer=optimizer, steps=STEPS))
    ended = Outcome(losses, wanted.norms, wanted.gradients, weights)
    check_equal(ended, wanted, loss=5e-6)
