"""Checkpoints of several processes: every layout can go on with what any other one has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parallel_ranks import run_ranks
from parallel_small import Case, UnevenRows, parallel_form, small_config, updater_of
from safetensors.torch import load_file, save_file

from langwright.base import UserError
from langwright.model import build_model
from langwright.parallel import (
    Alone,
    Piece,
    gather_json,
    read_pieces,
    read_whole,
    restore,
    write_pieces,
)
from langwright.parallel.checkpoint_storage import SafetensorsReader, SafetensorsWriter

ADAM: dict[str, Any] = {}
MUON = {"name": "muon"}
NORMUON = {"name": "muon", "neuron_scaling": True, "weight_decay_schedule": "cosine"}


def updates(form: Alone, updater: Any, steps: range) -> list[float]:
    rows = UnevenRows()
    outcomes = [updater.update(s, rows.batch(*form.own_rows(s * 8, 8)), 1.0) for s in steps]
    return [float(outcome.loss) for outcome in outcomes]


def write(folder: Path, case: Case) -> Any:
    """Two updates, a checkpoint, two more: (scalars, files, losses of the last two)."""
    form = parallel_form(case)
    updater = updater_of(case, form)
    updates(form, updater, range(2))
    pieces = {
        name: Piece(p.tensor.detach().cpu().clone(), p.shape, p.bounds, p.primary)
        for name, p in form.state(updater.optimizer).items()
    }
    scalars: dict[str, Any] = {}
    for some in gather_json(updater.optimizer.state_dict()["scalars"], form.control):
        scalars |= some
    files = write_pieces(folder, pieces, form.control)
    return scalars, files, updates(form, updater, range(2, 4))


def go_on(folder: Path, case: Case, scalars: Any) -> list[float]:
    """The losses of the last two updates after a restoration."""
    form = parallel_form(case)
    updater = updater_of(case, form)
    with torch.no_grad():
        for parameter in form.parameters.values():
            parameter.zero_()
    restore(form, folder, updater.optimizer, scalars)
    return updates(form, updater, range(2, 4))


def alone(case: Case) -> tuple[Alone, Any]:
    model = build_model(small_config(**case.model), seed=3).train()
    form = Alone(model)
    return form, updater_of(case, form)


@pytest.mark.parallel
@pytest.mark.sample
@pytest.mark.parametrize(
    ("optimizer", "first", "others"),
    [
        (ADAM, {"dp_shard": 2}, [{"tp": 2}, {"dp_replicate": 2, "dp_shard": 1}]),
        (MUON, {"tp": 2}, [{"dp_shard": 2}]),
        (MUON, {"dp_shard": 2}, [{"dp_shard": 2}]),
        (NORMUON, {"dp_shard": 2}, [{"tp": 2}]),
    ],
    ids=["adamw", "muon, tp first", "muon", "normuon"],
)
def test_from_layout_to_layout(
    tmp_path: Path, optimizer: Any, first: Any, others: list[Any]
) -> None:
    """The updates after a checkpoint are the same under its own layout, another, and none."""
    case = Case(optimizer=optimizer, parallel=first)
    results = run_ranks(2, write, tmp_path, case)
    scalars, files, wanted = results[0]
    assert results[1][1] == {} and results[1][2] == wanted
    assert sorted(files) == sorted(p.name for p in tmp_path.iterdir())
    for other in others:
        found = run_ranks(2, go_on, tmp_path, Case(optimizer=optimizer, parallel=other), scalars)
        limit = 0.0 if other == first else 2e-6
        assert found[0] == pytest.approx(wanted, abs=limit)
    form, updater = alone(case)
    form.model.load_state_dict(read_whole(tmp_path, "model/"))
    tensors = read_whole(tmp_path, "optimizer/")
    updater.optimizer.load_state_dict({"tensors": tensors, "scalars": scalars})
    assert updates(form, updater, range(2, 4)) == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parallel
@pytest.mark.parametrize(
    ("model", "first", "others"),
    [
        ({"tied": True}, {"pp": 2}, [{"dp_shard": 2}]),
        ({"layers": 4}, {"cp": 2}, [{"pp": 2, "schedule": "interleaved"}]),
        ({"experts": {"count": 4, "chosen": 2, "hidden_width": 24}}, {"ep": 2}, [{"tp": 2}]),
    ],
    ids=["pp", "cp", "ep"],
)
def test_the_other_forms(tmp_path: Path, model: Any, first: Any, others: list[Any]) -> None:
    case = Case(model=model, optimizer=MUON, parallel=first)
    scalars, _, wanted = run_ranks(2, write, tmp_path, case)[0]
    for other in [first, *others]:
        case = Case(model=model, optimizer=MUON, parallel=other)
        found = run_ranks(2, go_on, tmp_path, case, scalars)[0]
        assert found == pytest.approx(wanted, abs=0.0 if other == first else 2e-6)


@pytest.mark.parallel
@pytest.mark.parametrize(
    "parallel",
    [
        pytest.param({"tp": 2, "dp_shard": 2}, marks=pytest.mark.sample),
        {"dp_replicate": 2, "dp_shard": 2},
    ],
)
def test_four_processes_and_one_that_began(tmp_path: Path, parallel: Any) -> None:
    """From one process's files to four processes, and from four to two."""
    case = Case(optimizer=MUON, parallel=parallel, micro_rows=1)
    form, updater = alone(case)
    updates(form, updater, range(2))
    state = updater.optimizer.state_dict()
    (tmp_path / "one").mkdir()
    save_file(form.model.state_dict(), tmp_path / "one" / "model.safetensors")
    save_file(state["tensors"], tmp_path / "one" / "optimizer.safetensors")
    wanted = updates(form, updater, range(2, 4))
    found = run_ranks(4, go_on, tmp_path / "one", case, state["scalars"])
    assert found[0] == pytest.approx(wanted, abs=2e-6)

    scalars, _, _ = run_ranks(4, write, tmp_path / "four", case)[0]
    two = Case(optimizer=MUON, parallel={"tp": 2})
    found = run_ranks(2, go_on, tmp_path / "four", two, scalars)
    assert found[0] == pytest.approx(wanted, abs=2e-6)


def test_nothing_on_disk_is_a_pickle_and_all_is_written_once(tmp_path: Path) -> None:
    """Weights and state take the room of one copy, also where processes hold the same pieces."""
    case = Case(parallel={"dp_replicate": 2, "dp_shard": 2}, micro_rows=1)
    _, files, _ = run_ranks(4, write, tmp_path, case)[0]
    numbers = 3 * sum(p.numel() for p in build_model(small_config(), 3).parameters())
    tensors = {n: t for p in tmp_path.glob("*.safetensors") for n, t in load_file(p).items()}
    stored = sum(t.numel() for n, t in tensors.items() if not n.endswith("/step"))
    assert stored == numbers
    for path in tmp_path.iterdir():
        assert files[path.name]["bytes"] == path.stat().st_size
        assert path.suffix == ".safetensors" or json.loads(path.read_text())


def _interoperate(folder: Path) -> bool:
    """torch's own planners and DTensors, with our storage."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    whole = torch.arange(30.0).reshape(5, 6)
    saved = {"model/a": distribute_tensor(whole, mesh, [Shard(0)]), "model/b": torch.ones(())}
    dcp.save(saved, storage_writer=SafetensorsWriter(folder))
    dist.barrier()
    ok = True
    for placement in (Shard(1), Replicate()):
        target = distribute_tensor(torch.zeros(5, 6), mesh, [placement])
        read = {"model/a": target, "model/b": torch.zeros(())}
        dcp.load(read, storage_reader=SafetensorsReader(folder))
        ok &= torch.equal(target.full_tensor(), whole) and read["model/b"].item() == 1.0
    return ok


def test_other_programs_can_use_the_storage(tmp_path: Path) -> None:
    assert run_ranks(2, _interoperate, tmp_path / "c") == [True, True]


def _fails_on_one(folder: Path) -> str:
    rank = dist.get_rank()
    tensor = torch.zeros(2)
    if rank == 1:
        (folder / "model-00001.safetensors").mkdir(parents=True)  # in its way
    pieces = {"model/a": Piece(tensor, (4,), (slice(2 * rank, 2 * rank + 2),))}
    SafetensorsWriter.set_up_storage_writer = lambda *a, **k: None  # type: ignore[method-assign]
    dist.barrier()
    try:  # in a process of its own: nothing needs to be put back
        write_pieces(folder, pieces, dist.group.WORLD)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "written"


def test_all_are_told_when_one_cannot_write(tmp_path: Path) -> None:
    told = run_ranks(2, _fails_on_one, tmp_path / "c")
    assert told[0] == told[1] and "directory" in told[0].lower()
    assert not (tmp_path / "c" / "pieces.json").exists()


def _unshared(folder: Path) -> str:
    """Each process on a disk of its own."""
    rank = dist.get_rank()
    (folder / str(rank)).mkdir(parents=True)
    pieces = {"model/a": Piece(torch.zeros(2), (4,), (slice(2 * rank, 2 * rank + 2),))}
    try:
        write_pieces(folder / str(rank), pieces, dist.group.WORLD)
    except Exception as error:
        return str(error)
    return "written"


def test_a_folder_that_the_first_process_cannot_see_is_refused(tmp_path: Path) -> None:
    for told in run_ranks(2, _unshared, tmp_path / "c"):
        assert "cannot be seen from the first" in told
    assert not (tmp_path / "c" / "0" / "pieces.json").exists()


def _holes(folder: Path) -> str:
    rank = dist.get_rank()
    pieces = {"model/a": Piece(torch.zeros(1), (4,), (slice(2 * rank, 2 * rank + 1),))}
    with pytest.raises(ValueError) as caught:
        write_pieces(folder, pieces, dist.group.WORLD)
    return str(caught.value)


def test_pieces_that_do_not_make_up_the_whole_are_refused(tmp_path: Path) -> None:
    assert "do not hold all of model/a" in run_ranks(2, _holes, tmp_path / "c")[0]


@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    cuts=st.integers(1, 4),
    dims=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    wanted=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=3, max_size=3),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_part_of_any_pieces(
    tmp_path: Path, shape: list[int], cuts: int, dims: Any, wanted: Any
) -> None:
    """A tensor cut up along two dimensions: every box of it is read as it was."""
    torch.manual_seed(0)
    whole = torch.randn(shape)
    rows, columns = (dim % len(shape) for dim in dims)
    stored: dict[str, torch.Tensor] = {}
    pieces = []
    for a, top in enumerate(whole.chunk(cuts, rows)):
        for b, part in enumerate(top.chunk(2 if columns != rows else 1, columns)):
            start = [0] * len(shape)
            start[rows] += a * whole.chunk(cuts, rows)[0].shape[rows]
            start[columns] += b * top.chunk(2, columns)[0].shape[columns]
            key = f"{a}.{b}"
            stored[key] = part.contiguous()
            pieces.append({"start": start, "shape": list(part.shape), "file": "f", "key": key})
    save_file(stored, tmp_path / "f")
    table = {"dtype": "float32", "shape": shape, "pieces": pieces}
    (tmp_path / "pieces.json").write_text(json.dumps({"format": 1, "tensors": {"m/a": table}}))
    bounds = tuple(
        slice(min(a, n - 1), min(min(a, n - 1) + length, n))
        for (a, length), n in zip(wanted, shape)
    )
    target = torch.full([b.stop - b.start for b in bounds], torch.nan)
    read_pieces(tmp_path, {"m/a": Piece(target, tuple(shape), bounds)})
    assert torch.equal(target, whole[bounds])


def _checkpoint(folder: Path) -> dict[str, Any]:
    save_file({"a@0": torch.zeros(2), "a@2": torch.ones(2)}, folder / "model-00000.safetensors")
    file = "model-00000.safetensors"
    pieces = [
        {"start": [s], "shape": [2], "file": file, "key": f"a@{s}"} for s in (0, 2)
    ]  # fmt: skip
    return {
        "format": 1,
        "tensors": {"model/a": {"dtype": "float32", "shape": [4], "pieces": pieces}},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["tensors"]["model/a"]["pieces"][1].update(start=[3]), "outside"),
        (lambda t: t["tensors"]["model/a"]["pieces"][1].update(file="../x"), "plain file name"),
        (lambda t: t["tensors"]["model/a"]["pieces"][1].update(key="b"), "cannot be read"),
        (lambda t: t["tensors"]["model/a"]["pieces"][1].update(shape=[1]), "lacks a part"),
        (lambda t: t["tensors"]["model/a"]["pieces"][1].update(shape=[-1]), "broken index"),
        (lambda t: t["tensors"]["model/a"]["pieces"].pop(), "lacks a part"),
        (lambda t: t["tensors"]["model/a"].update(dtype="object"), "no tensors of this type"),
        (lambda t: t["tensors"]["model/a"].update(shape=[5]), "another shape"),
        (lambda t: t["tensors"].update(b=t["tensors"].pop("model/a")), "holds no model/a"),
        (lambda t: t.update(format=2), "another format"),
        (lambda t: t.pop("tensors"), "broken index"),
    ],
)
def test_a_broken_index_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    table = _checkpoint(tmp_path)
    change(table)
    (tmp_path / "pieces.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match=message):
        read_pieces(tmp_path, {"model/a": Piece(torch.zeros(4), (4,), (slice(0, 4),))})


def test_a_file_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pieces.json").write_text(json.dumps(_checkpoint(tmp_path)))
    other = {"a@0": torch.zeros(2), "a@2": torch.ones(3)}
    save_file(other, tmp_path / "model-00000.safetensors")
    with pytest.raises(UserError, match="the index and the file disagree"):
        read_pieces(tmp_path, {"model/a": Piece(torch.zeros(4), (4,), (slice(0, 4),))})


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        read_whole(tmp_path, "model/")
