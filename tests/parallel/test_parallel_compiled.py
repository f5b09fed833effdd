"""Compiled as the trainer does it, after the model has been spread: equal to one plain process."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import parallel_ranks
import pytest
from parallel_ranks import run_ranks
from parallel_small import TIED_LOSS, Case, Outcome, check_equal, parallel, single
from test_parallel_matrix import MODELS
from test_parallel_trainer import check_same, train

from langwright.base import UserError

EXPERTS = MODELS["experts"]
ZERO_BUBBLE = {"pp": 2, "schedule": "zero-bubble"}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {  # layout, model, graphs
    "ddp": ({"dp_replicate": 2, "dp_shard": 1}, {}, 2),
    "fsdp": ({"dp_shard": 2}, {}, 2),
    "fsdp experts": ({"dp_shard": 2}, EXPERTS, 2),
    "tp": ({"tp": 2}, {}, 2),
    "cp": ({"cp": 2}, {}, 2),
    "ulysses": ({"cp": 2, "cp_method": "ulysses"}, {}, 2),
    "ep": ({"dp_shard": 2, "ep": 2}, EXPERTS, 2),  # of attention and of norms
    "1f1b": ({"pp": 2}, {"layers": 4}, 1),  # the first process has no final norm
    "interleaved": ({"pp": 2, "schedule": "interleaved"}, {"layers": 4}, 1),
    "pp fsdp": ({"pp": 2, "dp_shard": 2}, {"layers": 4}, 1),
}
SAMPLE = {"ep", "1f1b"}


def _compiled(case: Case) -> tuple[Outcome, int]:
    """What came of it, and how many graphs were compiled."""
    from torch._dynamo.utils import counters

    counters.clear()
    outcome = parallel(case)
    assert not counters["graph_break"]
    return outcome, counters["stats"]["unique_graphs"]


def _check(form: str, backend: str) -> None:
    degrees, model, graphs = FORMS[form]
    count = math.prod(
        degrees.get(name, 1) for name in ("dp_replicate", "dp_shard", "cp", "tp", "pp")
    )
    case = Case(model=model, parallel=degrees)
    found, compiled = run_ranks(count, _compiled, dataclasses.replace(case, compiled=backend))[0]
    assert compiled >= graphs
    check_equal(found, single(case), loss=TIED_LOSS)


@pytest.mark.parallel
@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=pytest.mark.sample if f in SAMPLE else ()) for f in FORMS]
)
def test_compiled_equals_one_process(form: str) -> None:
    _check(form, "aot_eager")


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C++ compiler takes up to a minute on a busy machine."""
    monkeypatch.setattr(parallel_ranks, "SECONDS", 400.0)


@pytest.mark.slow
@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("form", FORMS)
def test_compiled_for_real_equals_one_process(form: str) -> None:
    _check(form, "inductor")


@pytest.mark.slow
@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("form", ["fsdp", "1f1b", "ulysses", "ep"])
def test_a_compiled_run_equals_a_plain_one(form: str, tmp_path: Path) -> None:
    degrees, model, _ = FORMS[form]
    _, wanted = train(tmp_path / "alone", {}, shape=model)
    results = run_ranks(2, train_compiled, tmp_path / "several", degrees, model)
    check_same(tmp_path / "several", results[0][1], tmp_path / "alone", wanted)


def train_compiled(folder: Path, degrees: dict[str, Any], model: dict[str, Any]) -> Any:
    return train(folder, degrees, shape=model, compile=True)


def test_a_compiled_zero_bubble_pipeline_is_refused(tmp_path: Path) -> None:
    """Its gradients of weights would be made at once, in the graphs of the backward pass."""
    for told in run_ranks(2, _refused, tmp_path):
        assert "compile" in told and "zero-bubble" in told and "compile = false" in told


def _refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        train_compiled(folder, ZERO_BUBBLE, {"layers": 4})
    return str(caught.value)
