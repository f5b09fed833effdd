"""Validation over processes: the rows are shared out, and the loss is that of one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from parallel_ranks import run_ranks
from parallel_small import Case, UnevenRows, parallel_form, small_config

from langwright.dataset import RowArrays
from langwright.evaluate import loss as loss_module
from langwright.model import build_model
from langwright.parallel import Alone
from langwright.train.looks import evaluate_all


class CountedRows(UnevenRows):
    """Notes the number of rows that were asked for at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[int] = []

    def gather(self, indices: np.ndarray) -> RowArrays:
        self.taken.append(len(indices))
        return super().gather(indices)


def _sets() -> dict[str, Any]:
    return {"one": CountedRows(), "two": CountedRows()}


def _look(parallel: dict[str, Any], rows: int) -> Any:
    """(losses, sizes of the passes over the first set) of this process."""
    case, valid = Case(parallel=parallel), _sets()
    form = parallel_form(case) if parallel else Alone(build_model(small_config(), seed=3))
    return evaluate_all(form, valid, rows), valid["one"].taken


@pytest.fixture(autouse=True)
def two_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "tokens_at_once", lambda device: 2 * 16)


LAYOUTS: list[tuple[dict[str, Any], int]] = [  # with the parts into which rows are shared out
    ({"dp_replicate": 2, "dp_shard": 1}, 2),
    ({"dp_shard": 2}, 2),
    ({"tp": 2}, 1),
    ({"tp": 2, "dp_shard": 2}, 2),
    ({"pp": 2, "dp_replicate": 2, "dp_shard": 1}, 2),
    ({"pp": 2, "dp_shard": 2}, 1),
]


@pytest.mark.parametrize(("parallel", "parts"), LAYOUTS, ids=lambda x: str(x))
@pytest.mark.parametrize("rows", [5, 7])
def test_the_rows_are_shared_out(parallel: dict[str, Any], parts: int, rows: int) -> None:
    """5 rows, two at a time: the second of two parts makes its last pass for the others' sake."""
    wanted, alone = _look({}, rows)
    count = int(np.prod([abs(n) for n in parallel.values()]))
    for found, taken in run_ranks(count, _look, parallel, rows):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, rel=1e-6), name
        assert taken == (alone if parts == 1 else [2] * -(-rows // 4))


def test_fewer_rows_than_processes() -> None:
    wanted, _ = _look({}, 1)
    for found, taken in run_ranks(2, _look, {"dp_shard": 2}, 1):
        assert found == pytest.approx(wanted, rel=1e-6) and taken == [1]
