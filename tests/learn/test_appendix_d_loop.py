"""The loop of appendix D: its schedule, its clipping, and references equal to the library."""

from __future__ import annotations

import itertools

import appendix_d_loop as loop
import pytest
import torch


def test_lengths_are_the_appendix_s() -> None:
    assert (loop.TOTAL, loop.WARMUP) == (135, 27)
    assert len(loop.text_batches()) == 9


def test_clip_example() -> None:
    norm, clipped = loop.clip_example()
    assert norm == pytest.approx(5.0, abs=1e-6)
    expected = torch.tensor([[0.2, 0.4], [0.4, 0.8]])
    torch.testing.assert_close(clipped, expected, atol=1e-6, rtol=0)


def test_schedule_rises_in_equal_increments_and_falls_to_the_floor() -> None:
    rates = [loop.book_rate(step) for step in range(loop.TOTAL + 1)]
    increments = {round(b - a, 12) for a, b in itertools.pairwise(rates[:28])}
    assert increments == {round((loop.PEAK - loop.START) / 27, 12)}
    assert rates[0] == loop.START and max(rates) == rates[27] == loop.PEAK
    assert rates[81] == pytest.approx((loop.PEAK + loop.FLOOR) / 2)
    assert rates[135] == pytest.approx(loop.FLOOR)
    # One step in the book's count is one update later in the library's.
    rate = loop.references().rate
    assert [rate(step) for step in range(135)] == pytest.approx(
        [loop.library().rate(step) for step in range(135)]
    )


def test_references_and_library_train_alike() -> None:
    reference = loop.train(loop.references(), epochs=4)[1]
    library = loop.train(loop.library(), epochs=4)[1]
    assert len(reference.losses) == 36
    assert reference.losses == pytest.approx(library.losses, abs=1e-4)
    assert reference.norms == pytest.approx(library.norms, abs=1e-3)
    assert reference.losses[-1] < reference.losses[0] - 0.5
    assert min(reference.norms) > 0 and max(reference.norms) > loop.MAX_NORM  # it did clip


def test_clipping_bounds_the_largest_gradient() -> None:
    model, history = loop.train(loop.references(), epochs=1)
    assert 0 < loop.largest_gradient(model) <= loop.MAX_NORM
    assert len(history.norms) == 9
