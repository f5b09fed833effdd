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
from langwright.train import Updater, language_model_loss
from langwright.train.checkpoint import (
    open_checkpoint,
    restore_model,
    save_checkpoint,
    save_pieces,
)

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


@pytest.mark.parallel
@pytest.mark.sample
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


Part = tuple[list[float], dict[str, torch.Tensor]]  # losses, and the whole weights after them


def part_of_a_run(case: Case, start: int, end: int, folder: Path) -> Part:
    """Updates `start` to `end` - 1, between two checkpoints."""
    form = parallel_form(case)
    updater = updater_of(case, form)
    if start:
        found = open_checkpoint(folder / f"step-{start:07d}")
        restore(form, found.path, updater.optimizer, found.state["optimizer_scalars"])
    losses = updates(case, form, updater, range(start, end))
    scalars = updater.optimizer.state_dict()["scalars"]
    save_pieces(folder, end, form.state(updater.optimizer), scalars, {}, form.control)
    form.wait()
    return losses, form.full_state()


def part_alone(case: Case, start: int, end: int, folder: Path) -> Part:
    """The same by one process."""
    model = build_model(small_config(**case.model), seed=3).train()
    form = Alone(model)
    updater = updater_of(case, form)
    if start:
        found = open_checkpoint(folder / f"step-{start:07d}")
        restore_model(model, found.weights())
        updater.optimizer.load_state_dict(found.optimizer())
    losses = updates(case, form, updater, range(start, end))
    save_checkpoint(folder, end, model, updater.optimizer.state_dict(), {})
    return losses, {name: p.detach() for name, p in model.named_parameters()}


def updates(case: Case, form: Alone, updater: Updater, steps: range) -> list[float]:
    """Their losses."""
    rows = UnevenRows()
    batches = (rows.batch(*form.own_rows(step * case.rows, case.rows)) for step in steps)
    return [float(updater.update(*pair, multiplier=1.0).loss) for pair in zip(steps, batches)]


EXPERTS = {
    "layers": 4,
    "experts": {"count": 4, "chosen": 2, "hidden_width": 24, "balance_loss": 0.02},
}
PP, CP = {"dp_shard": 1, "pp": 2}, {"dp_shard": 1, "cp": 2}
EP = {"dp_shard": 2, "ep": 2}
MUON = {"name": "muon"}
GALORE = {"name": "galore", "galore_rank": 2, "galore_every": 3}  # anew one update after the move


PLAIN = {"layers": 4}
DDP, FSDP, TP = {"dp_replicate": 2, "dp_shard": 1}, {"dp_shard": 2}, {"dp_shard": 1, "tp": 2}
MOVES: dict[str, tuple[dict, dict, dict, dict]] = {  # two layouts, model, optimizer
    "pp to cp": (PP, CP, PLAIN, MUON),
    "fsdp tp to pp fsdp": ({"dp_shard": 2, "tp": 2}, {"pp": 2, "dp_shard": 2}, PLAIN, MUON),
    "pp cp to tp": ({**PP, "cp": 2}, TP, PLAIN, {}),
    "ep to pp ep": (EP, {**EP, "pp": 2, "pipeline_microbatches": 2}, EXPERTS, MUON),
    "pp to ep": ({**PP, "schedule": "interleaved"}, EP, EXPERTS, {}),
    "ddp to fsdp": (DDP, FSDP, PLAIN, {}),
    "fsdp to tp": (FSDP, TP, PLAIN, MUON),
    "fsdp tp to one": ({"dp_shard": 2, "tp": 2}, {}, PLAIN, MUON),
    "pp to fsdp": ({**PP, "schedule": "zero-bubble"}, FSDP, PLAIN, MUON),
    "ep to one": (EP, {}, EXPERTS, MUON),
    "one to pp": ({}, PP, PLAIN, {}),
    "galore fsdp to tp": (FSDP, TP, PLAIN, GALORE),
    "galore ddp to fsdp": (DDP, FSDP, PLAIN, GALORE),
    "galore tp to one": (TP, {}, PLAIN, GALORE),
    "galore ep to pp": (EP, PP, EXPERTS, GALORE),
}
SAMPLE = {"pp to cp", "pp to ep", "fsdp tp to one", "galore fsdp to tp"}


@pytest.mark.parallel
@pytest.mark.parametrize(
    "move", [pytest.param(m, marks=pytest.mark.sample if m in SAMPLE else ()) for m in MOVES]
)
def test_a_run_goes_on_under_another_layout(move: str, tmp_path: Path) -> None:
    first, second, model, optimizer = MOVES[move]
    losses: list[float] = []
    weights: dict[str, torch.Tensor] = {}
    for form, start, end in ((first, 0, 2), (second, 2, STEPS)):
        case = Case(model=model, parallel=form, optimizer=optimizer)
        edges = ("dp_replicate", "dp_shard", "pp", "cp", "tp")
        count = math.prod(form.get(name, 1) for name in edges)
        place = (case, start, end, tmp_path)
        found, weights = run_ranks(count, part_of_a_run, *place)[0] if form else part_alone(*place)
        losses += found
    wanted = single(Case(model=model, optimizer=optimizer, steps=STEPS))
    ended = Outcome(losses, wanted.norms, wanted.gradients, weights)
    check_equal(ended, wanted, loss=5e-6)
