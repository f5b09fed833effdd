"""Shortening a gradient that is spread over processes, when its norm is known."""

from __future__ import annotations

import math

import pytest
import torch

from langwright.parallel.clip import EPS, shorten


@pytest.mark.parametrize(
    ("max_norm", "factor", "times"),
    [
        (1.0, 1.0, 1.0 / (5.0 + EPS)),
        (5.5, 1.0, 1.0),  # short enough: never made longer
        (5.5, 0.25, 0.25),
        (1.0, 0.5, 0.5 / (2.5 + EPS)),
        (None, 0.5, 0.5),
    ],
)
def test_a_gradient_is_only_ever_made_shorter(
    max_norm: float | None, factor: float, times: float
) -> None:
    pieces = [torch.tensor([3.0]), torch.tensor([0.0, 4.0])]
    for given in (factor, torch.tensor(factor)):
        gradients = [piece.clone() for piece in pieces]
        norm = shorten(gradients, torch.tensor(5.0), max_norm, given)
        assert float(norm) == pytest.approx(5.0 * factor)
        for found, before in zip(gradients, pieces, strict=True):
            torch.testing.assert_close(found, before * times, rtol=1e-6, atol=0)
    assert float(shorten([], torch.tensor(5.0), max_norm, factor)) == pytest.approx(5.0 * factor)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_left_for_others_to_look_at(bad: float) -> None:
    gradients = [torch.tensor([3.0, bad])]
    norm = shorten(gradients, torch.tensor(bad), 1.0, 1.0)
    assert not bool(torch.isfinite(norm))
    assert gradients[0][0] == 3.0  # the rest of it stays readable
